//! Hashes of files and of tensors.

mod file;
mod pair;
mod pass;
#[cfg(target_arch = "x86_64")]
mod sha_ni;
mod sigmoids;
mod structure;
mod tensor;
mod values;

use std::sync::Arc;

use sha2::{Digest, Sha256};

use trinart_ckpt_formats::error::{OrInternal, Result};
pub(crate) use trinart_ckpt_formats::hexadecimal;
use trinart_ckpt_formats::io::{NoProgress, Progress, Source, parallel};
use trinart_ckpt_formats::tensor::{LazyTensor, NonFinite, NonFiniteTensor};

pub use structure::structure_hash;
pub use values::{Request, TensorValues, Values, bf16_hash, hash_of, read_values, rounded_hash};

/// Bytes per read.
const PIECE: usize = 1 << 20;

/// The range of WebUI's first hash: 64 KiB at 1 MiB. It collides, but old pictures have no other hash.
const LEGACY: std::ops::Range<u64> = 0x10_0000..0x11_0000;

/// The hashes that identify a file on model pages and in picture metadata, as WebUI computes them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileHashes {
    /// The sha256 of the file, hexadecimal. The first ten digits are the "Model hash" of pictures, and AutoV2.
    pub sha256: String,
    /// The model hash of WebUI before January 2023: eight digits.
    pub legacy: String,
    /// AutoV3: twelve digits of the hash of the data after a safetensors header. Editing metadata does not change it.
    pub autov3: Option<String>,
}

impl FileHashes {
    /// AutoV2: the first ten digits of the sha256.
    pub fn autov2(&self) -> &str {
        self.sha256.split_at_checked(10).map_or(&self.sha256, |(first, _)| first)
    }

    /// Hashes a file. `data` is the end of the header of a safetensors file. Reads the file once.
    pub fn new(source: &Arc<Source>, data: Option<u64>, jobs: usize, progress: &dyn Progress) -> Result<Self> {
        let read = read_values(Some((source, data)), &[], jobs, progress)?;
        read.file.or_internal("a file was not hashed")
    }
}

fn legacy_range(len: u64) -> std::ops::Range<u64> {
    LEGACY.start.min(len)..LEGACY.end.min(len)
}

fn digits(hash: String, count: usize) -> String {
    hash.chars().take(count).collect()
}

/// Returns the model hash of WebUI before January 2023: eight digits. Reads 64 KiB.
pub fn legacy_hash(source: &Source) -> Result<String> {
    Ok(digits(range_sha256(source, legacy_range(source.len()), &NoProgress)?, 8))
}

/// Returns the sha256 of bytes, hexadecimal.
pub fn bytes_sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Returns the sha256 of a file, hexadecimal.
pub fn file_sha256(source: &Source, progress: &dyn Progress) -> Result<String> {
    progress.begin("hashing", source.len());
    range_sha256(source, 0..source.len(), progress)
}

/// Returns the sha256 of the bytes of several files in this order, hexadecimal. For one file, it is that of the file.
pub fn files_sha256(sources: &[&Arc<Source>], progress: &dyn Progress) -> Result<String> {
    progress.begin("hashing", sources.iter().map(|source| source.len()).fold(0, u64::saturating_add));
    let mut hasher = Sha256::new();
    sources.iter().try_for_each(|source| update(&mut hasher, source, 0..source.len(), progress))?;
    Ok(hexadecimal(&hasher.finalize()))
}

fn range_sha256(source: &Source, range: std::ops::Range<u64>, progress: &dyn Progress) -> Result<String> {
    let mut hasher = Sha256::new();
    update(&mut hasher, source, range, progress)?;
    Ok(hexadecimal(&hasher.finalize()))
}

/// Adds the bytes of a range to a hash.
fn update(hasher: &mut Sha256, source: &Source, range: std::ops::Range<u64>, progress: &dyn Progress) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut offset = range.start;
    while offset < range.end {
        progress.check()?;
        let count = (range.end - offset).min(PIECE as u64) as usize;
        // Only the last piece is shorter.
        buffer.truncate(count);
        source.read_at(offset, &mut buffer)?;
        hasher.update(&buffer);
        offset += count as u64;
        progress.advance(count as u64);
    }
    Ok(())
}

/// The content hash of a set of tensors, and what was found while they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContentHash {
    /// The hash; see [`content_hash`].
    pub hash: String,
    /// The tensors with NaN or infinite values, by key.
    pub non_finite: Vec<NonFiniteTensor>,
}

/// Returns the content hash of a set of tensors. It does not depend on the file, the container or the order.
///
/// It is the BLAKE3 hash, hexadecimal, of one line per tensor, sorted by key: `KEY DTYPE [SHAPE] BLAKE3-OF-ELEMENTS`. Elements
/// are row-major and little-endian. Another dtype gives another hash.
pub fn content_hash<'a, K: AsRef<str> + Sync>(
    tensors: impl Iterator<Item = (K, &'a LazyTensor)>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<String> {
    Ok(read_content(tensors, jobs, progress)?.hash)
}

/// Returns the content hash of a set of tensors as [`content_hash`] does, and the tensors with NaN or infinite values.
pub fn read_content<'a, K: AsRef<str> + Sync>(
    tensors: impl Iterator<Item = (K, &'a LazyTensor)>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<ContentHash> {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
    progress.begin("hashing", tensors.iter().map(|(_, tensor)| tensor.bytes()).sum());
    let lines = parallel::map(
        jobs,
        &tensors,
        || vec![0; PIECE],
        |buffer, (key, tensor)| {
            let key = key.as_ref();
            let (digest, values) = digest(tensor, buffer, progress).map_err(|error| error.in_tensor(key))?;
            let line = format!("{key} {} {} {digest}\n", tensor.dtype(), tensor.shape());
            Ok((line, NonFiniteTensor::new(key, values)))
        },
    )?;
    let mut hasher = blake3::Hasher::new();
    let mut non_finite = Vec::new();
    for (line, found) in lines {
        hasher.update(line.as_bytes());
        non_finite.extend(found);
    }
    Ok(ContentHash { hash: hexadecimal(hasher.finalize().as_bytes()), non_finite })
}

fn digest(tensor: &LazyTensor, buffer: &mut [u8], progress: &dyn Progress) -> Result<(String, NonFinite)> {
    let mut hasher = blake3::Hasher::new();
    let mut non_finite = NonFinite::default();
    each_piece(tensor, buffer, progress, |piece| {
        hasher.update(piece);
        non_finite += NonFinite::count(tensor.dtype(), piece);
        Ok(())
    })?;
    Ok((hexadecimal(hasher.finalize().as_bytes()), non_finite))
}

/// Reads a tensor in pieces of the size of the buffer, which is a multiple of every dtype's size, and passes each to `each`.
pub(crate) fn each_piece(
    tensor: &LazyTensor,
    buffer: &mut [u8],
    progress: &dyn Progress,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let _held = tensor.hold()?;
    let size = tensor.dtype().size() as u64;
    let mut offset = 0;
    while offset < tensor.bytes() {
        progress.check()?;
        let count = (tensor.bytes() - offset).min(buffer.len() as u64) as usize;
        let (piece, _) = buffer.split_at_mut(count);
        tensor.read(offset / size, piece, None)?;
        each(piece)?;
        offset += count as u64;
        progress.advance(count as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(bytes: &[u8], data: Option<u64>) -> FileHashes {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        FileHashes::new(&Source::open(&path).unwrap(), data, 2, &NoProgress).unwrap()
    }

    #[test]
    fn short_files_have_the_legacy_hash_of_no_bytes() {
        // The sha256 of no bytes starts with e3b0c442. WebUI shows the same for such files.
        let found = hashes(b"abc", None);
        assert_eq!(found.legacy, "e3b0c442");
        assert_eq!(found.autov2(), "ba7816bf8f");
        assert_eq!(found.autov3, None);
    }

    #[test]
    fn each_hash_covers_its_own_range() {
        let mut bytes: Vec<u8> = (0..0x12_0000_u32).map(|index| (index % 251) as u8).collect();
        let before = hashes(&bytes, Some(100));
        bytes[50] ^= 1;
        let header_changed = hashes(&bytes, Some(100));
        assert_ne!(before.sha256, header_changed.sha256);
        assert_eq!((before.autov3.clone(), &before.legacy), (header_changed.autov3, &header_changed.legacy));
        bytes[0x10_0000] ^= 1;
        let data_changed = hashes(&bytes, Some(100));
        assert_ne!(before.legacy, data_changed.legacy);
        assert_ne!(before.autov3, data_changed.autov3);
    }

    #[test]
    fn the_content_hash_ignores_the_order() {
        let tensor = |value: u8| {
            let shape = trinart_ckpt_formats::tensor::Shape::new([1]).unwrap();
            LazyTensor::owned(trinart_ckpt_formats::tensor::Dtype::U8, shape, [value]).unwrap()
        };
        let (a, b) = (tensor(1), tensor(2));
        let hash = |tensors: &[(&str, &LazyTensor)]| {
            content_hash(tensors.iter().map(|&(key, tensor)| (key, tensor)), 2, &NoProgress).unwrap()
        };
        assert_eq!(hash(&[("a", &a), ("b", &b)]), hash(&[("b", &b), ("a", &a)]));
        assert_ne!(hash(&[("a", &a), ("b", &b)]), hash(&[("a", &b), ("b", &a)]));
    }
}
