//! Reads a file once: its hashes, and the values of all its tensors.

use std::ops::Range;
use std::sync::Arc;

use super::file::in_file;
use super::pass::PIECE;
use super::tensor::Reader;
pub use super::tensor::{Request, TensorValues};
use super::{FileHashes, each_piece, hexadecimal};
use crate::position_ids;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::{Progress, Source, parallel};
use trinart_ckpt_formats::tensor::LazyTensor;

/// The hashes of a file and the values of its tensors.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Values {
    /// The hashes of the file; `None` for a folder.
    pub file: Option<FileHashes>,
    /// The values of each tensor, in the order of the tensors.
    pub tensors: Vec<TensorValues>,
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
/// It is the BLAKE3 hash, hexadecimal, of one line per tensor, sorted by key: `KEY [SHAPE] BLAKE3-OF-ROUNDED-ELEMENTS`. position_ids
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
    let mut hasher = blake3::Hasher::new();
    for (key, tensor, values) in tensors {
        hasher.update(line(key.as_ref(), tensor, values).as_bytes());
    }
    hexadecimal(hasher.finalize().as_bytes())
}
