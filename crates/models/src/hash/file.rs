//! The hashes of a file and the values of its tensors, piece by piece.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::pair::Pair;
use super::pass::{Consumer, Piece, pass};
use super::tensor::{Reader, Request, TensorValues};
use super::{FileHashes, digits, hexadecimal, legacy_range};
use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_formats::io::{Progress, Source};

/// The index of each tensor, and its values.
pub(super) type Done = Vec<(usize, TensorValues)>;

/// Computes something from all pieces of a file.
enum Part<'t> {
    Range(Range<u64>, Sha256),
    /// The file, and the range of AutoV3 in it.
    Both(Range<u64>, Pair),
    Tensors {
        waiting: VecDeque<(usize, Range<u64>, Request<'t>)>,
        open: Vec<(usize, Range<u64>, Reader)>,
        done: Done,
    },
}

impl Consumer for Part<'_> {
    fn add(&mut self, piece: &Piece) -> Result<()> {
        match self {
            Part::Range(range, hasher) => hasher.update(piece.within(range)),
            Part::Both(range, pair) => pair.add(piece.bytes(), piece.within(range)),
            Part::Tensors { waiting, open, done } => {
                let end = piece.end();
                while waiting.front().is_some_and(|(_, range, _)| range.start < end) {
                    let next = waiting.pop_front();
                    open.extend(next.map(|(index, range, request)| (index, range, Reader::new(request, true))));
                }
                for (_, range, reader) in open.iter_mut() {
                    reader.add(piece.within(range))?;
                }
                let complete = open.extract_if(.., |(_, range, _)| range.end <= end);
                done.extend(complete.map(|(index, _, reader)| (index, reader.finish())));
            }
        }
        Ok(())
    }
}

/// Reads a file once: its hashes, and the tensors with their ranges, by the start of the range. `data` is the end of the header
/// of a safetensors file.
pub(super) fn in_file(
    source: &Arc<Source>,
    data: Option<u64>,
    ranged: Vec<(usize, Range<u64>, Request<'_>)>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(FileHashes, Done)> {
    let len = source.len();
    let data = data.map(|data| data.min(len)..len);
    let mut parts = vec![Part::Range(legacy_range(len), Sha256::new())];
    match data {
        Some(data) if Pair::is_faster() => parts.push(Part::Both(data, Pair::default())),
        data => parts.extend([Some(0..len), data].into_iter().flatten().map(|range| Part::Range(range, Sha256::new()))),
    }
    let workers = jobs.saturating_sub(1).max(1);
    let mut shares: Vec<VecDeque<_>> = (0..workers).map(|_| VecDeque::new()).collect();
    for (place, tensor) in ranged.into_iter().enumerate() {
        shares.get_mut(place % workers).or_internal("a tensor for no thread")?.push_back(tensor);
    }
    shares.retain(|share| !share.is_empty());
    parts.extend(shares.into_iter().map(|waiting| Part::Tensors { waiting, open: Vec::new(), done: Vec::new() }));
    let parts: Vec<_> = parts.into_iter().map(Mutex::new).collect();
    pass(source, &parts, jobs, progress)?;

    let (mut hashes, mut done) = (Vec::new(), Vec::new());
    for part in parts {
        match part.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Part::Range(_, hasher) => hashes.push(hexadecimal(&hasher.finalize())),
            Part::Both(_, pair) => hashes.extend(pair.finish().map(|hash| hexadecimal(&hash))),
            Part::Tensors { done: found, .. } => done.extend(found),
        }
    }
    let mut hashes = hashes.into_iter();
    let legacy = digits(hashes.next().or_internal("the legacy range was not hashed")?, 8);
    let sha256 = hashes.next().or_internal("the file was not hashed")?;
    Ok((FileHashes { sha256, legacy, autov3: hashes.next().map(|hash| digits(hash, 12)) }, done))
}
