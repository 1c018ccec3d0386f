//! Reads a file once: its hashes, and the values of all its tensors.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::tensor::Reader;
pub use super::tensor::{Request, TensorValues};
use super::{FileHashes, LEGACY, digits, each_piece, hexadecimal};
use crate::position_ids;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::io::{Progress, Source, parallel};
use trinart_ckpt_formats::tensor::LazyTensor;

/// Bytes of a file that are read at a time, and how many such pieces a thread may lag behind.
const PIECE: u64 = 2 << 20;
const LAG: usize = 3;

/// The hashes of a file and the values of its tensors.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Values {
    /// The hashes of the file; `None` for a folder.
    pub file: Option<FileHashes>,
    /// The values of each tensor, in the order of the tensors.
    pub tensors: Vec<TensorValues>,
}

/// A part of the file.
struct Piece {
    offset: u64,
    bytes: Vec<u8>,
}

impl Piece {
    /// The bytes of a range of the file that are in this piece.
    fn within(&self, range: &Range<u64>) -> &[u8] {
        let at = |offset: u64| offset.saturating_sub(self.offset).min(self.bytes.len() as u64) as usize;
        self.bytes.get(at(range.start)..at(range.end)).unwrap_or_default()
    }
}

/// Computes something from all pieces of a file in their order.
enum Consumer<'t> {
    Range(Range<u64>, Sha256),
    Tensors { waiting: VecDeque<(usize, Range<u64>, Request<'t>)>, open: Vec<(usize, Range<u64>, Reader)>, done: Done },
}

type Done = Vec<(usize, TensorValues)>;

impl Consumer<'_> {
    fn add(&mut self, piece: &Piece) -> Result<()> {
        match self {
            Consumer::Range(range, hasher) => hasher.update(piece.within(range)),
            Consumer::Tensors { waiting, open, done } => {
                let end = piece.offset + piece.bytes.len() as u64;
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

/// Reads a file once, and the values of its tensors. `file` is the file, and the end of its header if it is a safetensors
/// file; `None` for a folder, whose tensors are read alone.
///
/// Elements that do not lie in the file as they are (compressed, transposed, cast) are read a second time.
pub fn read_values(
    file: Option<(&Arc<Source>, Option<u64>)>,
    tensors: &[Request<'_>],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Values> {
    let range_of = |tensor: &LazyTensor| {
        let (source, _) = file?;
        let is_of_file = tensor.storages().iter().all(|storage| Arc::ptr_eq(storage.source(), source));
        tensor.file_range().filter(|range| is_of_file && range.end <= source.len() && !range.is_empty())
    };
    let mut ranged: Vec<(usize, Range<u64>, Request<'_>)> = Vec::new();
    let mut others: Vec<(usize, Request<'_>)> = Vec::new();
    for (index, &request) in tensors.iter().enumerate() {
        match range_of(request.tensor) {
            Some(range) => ranged.push((index, range, request)),
            None => others.push((index, request)),
        }
    }
    ranged.sort_by_key(|(index, range, _)| (range.start, *index));
    let of_others: u64 = others.iter().map(|(_, request)| request.tensor.bytes()).fold(0, u64::saturating_add);
    progress.begin("reading", file.map_or(0, |(source, _)| source.len()).saturating_add(of_others));
    let (hashes, mut done) = match file {
        Some((source, data)) => {
            let (hashes, done) = in_file(source, data, ranged, jobs, progress)?;
            (Some(hashes), done)
        }
        None => (None, Vec::new()),
    };
    done.extend(parallel::map(
        jobs,
        &others,
        || vec![0; PIECE as usize],
        |buffer, (index, request)| Ok((*index, alone(*request, buffer, progress)?)),
    )?);
    done.sort_by_key(|(index, _)| *index);
    if done.len() != tensors.len() {
        return Err(Error::internal("a tensor was not read"));
    }
    Ok(Values { file: hashes, tensors: done.into_iter().map(|(_, values)| values).collect() })
}

fn in_file(
    source: &Arc<Source>,
    data: Option<u64>,
    ranged: Vec<(usize, Range<u64>, Request<'_>)>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(FileHashes, Done)> {
    let len = source.len();
    let legacy = LEGACY.start.min(len)..LEGACY.end.min(len);
    let ranges = [Some(0..len), Some(legacy), data.map(|data| data.min(len)..len)];
    let mut consumers: Vec<Mutex<Consumer<'_>>> =
        ranges.into_iter().flatten().map(|range| Mutex::new(Consumer::Range(range, Sha256::new()))).collect();
    let of_ranges = consumers.len();
    let workers = jobs.saturating_sub(1).max(1);
    let mut shares: Vec<VecDeque<_>> = (0..workers).map(|_| VecDeque::new()).collect();
    for (place, tensor) in ranged.into_iter().enumerate() {
        shares.get_mut(place % workers).or_internal("a tensor for no thread")?.push_back(tensor);
    }
    let tensors = |waiting| Mutex::new(Consumer::Tensors { waiting, open: Vec::new(), done: Vec::new() });
    consumers.extend(shares.into_iter().map(tensors));
    pass(source, &consumers, jobs, progress)?;

    let (mut hashes, mut done) = (Vec::new(), Vec::new());
    for consumer in consumers {
        match consumer.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Consumer::Range(_, hasher) => hashes.push(hexadecimal(&hasher.finalize())),
            Consumer::Tensors { done: found, .. } => done.extend(found),
        }
    }
    hashes.truncate(of_ranges);
    let mut hashes = hashes.into_iter();
    let sha256 = hashes.next().or_internal("the file was not hashed")?;
    let legacy = digits(hashes.next().or_internal("the legacy range was not hashed")?, 8);
    Ok((FileHashes { sha256, legacy, autov3: hashes.next().map(|hash| digits(hash, 12)) }, done))
}

/// Reads the file, and passes each piece to each consumer: in a thread of its own, or in this one if there is no other.
fn pass(source: &Source, consumers: &[Mutex<Consumer<'_>>], jobs: usize, progress: &dyn Progress) -> Result<()> {
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let work = |consumer: &Mutex<Consumer<'_>>, pieces: Receiver<Arc<Piece>>| {
        let mut consumer = consumer.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            if let Err(error) = consumer.add(&piece) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                // Returning drops the receiver, so the next send of the reader fails.
                return;
            }
        }
    };
    thread::scope(|scope| {
        let (mut senders, mut own): (Vec<SyncSender<Arc<Piece>>>, Vec<&Mutex<Consumer<'_>>>) = (Vec::new(), Vec::new());
        for consumer in consumers {
            let (sender, receiver) = sync_channel(LAG);
            let work = &work;
            // `scope.spawn` would panic at the system's limit of threads.
            let spawned =
                jobs > 1 && thread::Builder::new().spawn_scoped(scope, move || work(consumer, receiver)).is_ok();
            if spawned { senders.push(sender) } else { own.push(consumer) }
        }
        let mut offset = 0;
        while offset < source.len() {
            progress.check()?;
            let bytes = source.read(offset, PIECE.min(source.len() - offset))?;
            let count = bytes.len() as u64;
            let piece = Arc::new(Piece { offset, bytes });
            for consumer in &own {
                consumer.lock().unwrap_or_else(PoisonError::into_inner).add(&piece)?;
            }
            if senders.iter().any(|sender| sender.send(Arc::clone(&piece)).is_err()) {
                break;
            }
            offset += count;
            progress.advance(count);
        }
        drop(senders);
        Ok::<(), Error>(())
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.in_file(source.path())),
        None => Ok(()),
    }
}

/// Reads a tensor by itself.
fn alone(request: Request<'_>, buffer: &mut [u8], progress: &dyn Progress) -> Result<TensorValues> {
    let mut reader = Reader::new(request, false);
    each_piece(request.tensor, buffer, progress, |piece| reader.add(piece))?;
    Ok(reader.finish())
}

/// Returns the content hash of tensors that were read; see [`content_hash`](super::content_hash).
pub fn hash_of<'a, K: AsRef<str>>(tensors: impl Iterator<Item = (K, &'a LazyTensor, &'a TensorValues)>) -> String {
    hash_lines(tensors, |key, tensor, values| format!("{key} {} {} {}\n", tensor.dtype(), tensor.shape(), values.exact))
}

/// Returns the content hash of tensors whatever their dtypes: that of their values rounded to f16.
///
/// It is the sha256, hexadecimal, of one line per tensor, sorted by key: `KEY [SHAPE] SHA256-OF-ROUNDED-ELEMENTS`. position_ids
/// do not count: they are a constant that files store in many ways.
pub fn rounded_hash<'a, K: AsRef<str>>(tensors: impl Iterator<Item = (K, &'a LazyTensor, &'a TensorValues)>) -> String {
    let tensors = tensors.filter(|(key, _, _)| !position_ids::is_key(key.as_ref()));
    hash_lines(tensors, |key, tensor, values| format!("{key} {} {}\n", tensor.shape(), values.rounded))
}

/// Returns the hash of tensors as [`rounded_hash`] does, of their values rounded to bf16. Tensors of which that was not requested
/// do not count.
pub fn bf16_hash<'a, K: AsRef<str>>(tensors: impl Iterator<Item = (K, &'a LazyTensor, &'a TensorValues)>) -> String {
    let tensors = tensors.filter(|(key, _, values)| !position_ids::is_key(key.as_ref()) && values.bf16.is_some());
    hash_lines(tensors, |key, tensor, values| {
        format!("{key} {} {}\n", tensor.shape(), values.bf16.as_deref().unwrap_or_default())
    })
}

fn hash_lines<'a, K: AsRef<str>>(
    tensors: impl Iterator<Item = (K, &'a LazyTensor, &'a TensorValues)>,
    line: impl Fn(&str, &LazyTensor, &TensorValues) -> String,
) -> String {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|(a, ..), (b, ..)| a.as_ref().cmp(b.as_ref()));
    let mut hasher = Sha256::new();
    tensors.iter().for_each(|(key, tensor, values)| hasher.update(line(key.as_ref(), tensor, values)));
    hexadecimal(&hasher.finalize())
}
