//! Hashes of files and of tensors.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::io::{Progress, Source, parallel};
use crate::tensor::LazyTensor;

/// Bytes hashed at a time.
const PIECE: usize = 1 << 20;

/// The sha256 of a whole file, in hexadecimal.
pub fn file_sha256(source: &Source, progress: &dyn Progress) -> Result<String> {
    progress.begin("hashing", source.len());
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < source.len() {
        progress.check()?;
        let count = (source.len() - offset).min(PIECE as u64) as usize;
        let piece = buffer.get_mut(..count).unwrap_or_default();
        source.read_at(offset, piece)?;
        hasher.update(&*piece);
        offset += count as u64;
        progress.advance(count as u64);
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// One hash for a set of tensors, the same whatever file, container or order they come from.
///
/// It is the sha256 of one line per tensor, sorted by key: `KEY DTYPE [SHAPE] SHA256-OF-ELEMENTS`, the elements
/// row-major and little-endian. Another dtype gives another hash.
pub fn content_hash<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a LazyTensor)>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<String> {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by_key(|&(key, _)| key);
    progress.begin("hashing", tensors.iter().map(|(_, tensor)| tensor.bytes()).sum());
    let lines = parallel::map(
        jobs,
        &tensors,
        || vec![0; PIECE],
        |buffer, &(key, tensor)| {
            let digest = digest(tensor, buffer, progress).map_err(|error| error.in_tensor(key))?;
            Ok(format!("{key} {} {} {digest}\n", tensor.dtype(), tensor.shape()))
        },
    )?;
    let mut hasher = Sha256::new();
    for line in lines {
        hasher.update(line);
    }
    Ok(hexadecimal(&hasher.finalize()))
}

fn digest(tensor: &LazyTensor, buffer: &mut [u8], progress: &dyn Progress) -> Result<String> {
    let held = tensor.hold()?;
    let size = tensor.dtype().size() as u64;
    let mut hasher = Sha256::new();
    let mut offset = 0;
    while offset < tensor.bytes() {
        progress.check()?;
        let count = (tensor.bytes() - offset).min(buffer.len() as u64) as usize;
        let piece = buffer.get_mut(..count).unwrap_or_default();
        tensor.read(offset / size, piece, None)?;
        hasher.update(&*piece);
        offset += count as u64;
        progress.advance(count as u64);
    }
    drop(held);
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
