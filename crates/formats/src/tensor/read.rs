//! Reading the elements of a [`LazyTensor`].

use crc32fast::Hasher;

use crate::error::{Error, OrInternal, Result};
use crate::tensor::gather::gather_into;
use crate::tensor::lazy::{Repr, is_whole};
use crate::tensor::storage::Gathered;
use crate::tensor::{Dtype, LazyTensor, Storage, View, cast};

/// Elements read and cast at a time: what was read is still in the second-level cache when it is cast.
const CAST_ELEMENTS: usize = 64 << 10;

impl LazyTensor {
    /// Fills `out` with the elements from index `first` on, row-major and little-endian.
    ///
    /// If the tensor is a whole storage, adds the bytes as they are stored to `raw`: after reading all elements, the
    /// caller can compare the sum with [`LazyTensor::expected_crc32`].
    ///
    /// Fails if `out` is not a whole number of elements or reaches past the last one.
    pub fn read(&self, first: u64, out: &mut [u8], mut raw: Option<&mut Hasher>) -> Result<()> {
        self.check_range(first, out.len())?;
        // Reads in several pieces (run by run, or cast block by block) then inflate a storage once.
        let _inflated = self.hold_storages()?;
        match &self.repr {
            Repr::Stored { storage, dtype, view } => read_stored(storage, *dtype, view, first, out, raw)
                .map_err(|error| error.in_file(storage.source().path())),
            Repr::Cast { inner, to, overflow } => {
                let from = inner.dtype();
                let mut input = vec![0; CAST_ELEMENTS.min(out.len() / to.size()) * from.size()];
                let mut first = first;
                for out in out.chunks_mut(CAST_ELEMENTS * to.size()) {
                    let count = out.len() / to.size();
                    let input =
                        input.get_mut(..count * from.size()).or_internal("a chunk is larger than its buffer")?;
                    inner.read(first, input, raw.as_deref_mut())?;
                    cast::cast(from, input, *to, out, *overflow, first)?;
                    first += count as u64;
                }
                Ok(())
            }
            Repr::Reshaped { inner, .. } => inner.read(first, out, raw),
            Repr::Sliced { inner, first: start, .. } => {
                inner.check_storage()?;
                inner.read(start.checked_add(first).or_internal("a slice lies outside its tensor")?, out, None)
            }
            Repr::Computed(computed) => computed.read(first, out),
            Repr::Joined { parts, .. } => read_joined(parts, first, out),
            Repr::Owned { dtype, bytes, .. } => {
                let start = usize::try_from(first).ok().and_then(|first| first.checked_mul(dtype.size()));
                let found = start.and_then(|start| bytes.get(start..start.checked_add(out.len())?));
                out.copy_from_slice(found.or_internal("a checked range lies outside a tensor in memory")?);
                Ok(())
            }
        }
    }

    fn check_range(&self, first: u64, bytes: usize) -> Result<()> {
        let size = self.dtype().size();
        if !bytes.is_multiple_of(size) {
            return Err(Error::usage(format!("{bytes} bytes are not a whole number of {} elements", self.dtype())));
        }
        let count = (bytes / size) as u64;
        let elements = self.shape().elements();
        if first.checked_add(count).is_none_or(|end| end > elements) {
            let message = format!("a read of {count} elements at {first} reaches past the tensor's {elements}");
            return Err(Error::usage(message));
        }
        Ok(())
    }

    /// Reads all elements into memory, and checks them against the file's checksum if there is one.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = zeros(self.bytes())?;
        let mut raw = self.expected_crc32().map(|_| Hasher::new());
        self.read(0, &mut out, raw.as_mut())?;
        if let Some(raw) = raw {
            self.check_crc32(raw.finalize())?;
        }
        Ok(out)
    }
}

/// Returns `len` zeros. Fails, rather than ends the process, if they do not fit into memory.
pub(super) fn zeros(len: u64) -> Result<Vec<u8>> {
    let fail = || Error::limit(format!("a tensor of {len} bytes does not fit into memory"));
    let len = usize::try_from(len).map_err(|_| fail())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| fail())?;
    bytes.resize(len, 0);
    Ok(bytes)
}

fn read_joined(parts: &[LazyTensor], first: u64, out: &mut [u8]) -> Result<()> {
    let mut rest = out;
    let mut begin = 0_u64;
    for part in parts {
        // Cannot overflow: the shape of the joined tensor bounds the sum of all elements.
        let end = begin + part.shape().elements();
        // Later parts are read from their start, the first one from `first`.
        let at = first.max(begin);
        if at < end && !rest.is_empty() {
            let bytes = ((end - at) * part.dtype().size() as u64).min(rest.len() as u64) as usize;
            let (head, tail) = rest.split_at_mut_checked(bytes).or_internal("a part is longer than the read")?;
            part.read(at - begin, head, None)?;
            rest = tail;
        }
        begin = end;
    }
    if rest.is_empty() { Ok(()) } else { Err(Error::internal("the parts are shorter than the joined tensor")) }
}

fn read_stored(
    storage: &Storage,
    dtype: Dtype,
    view: &View,
    first: u64,
    out: &mut [u8],
    raw: Option<&mut Hasher>,
) -> Result<()> {
    if view.is_contiguous() {
        let whole = is_whole(storage, dtype, view);
        if !whole {
            storage.check()?;
        }
        // Cannot overflow: the view ends within the storage, and `first` was checked against the view.
        storage.read_at((view.start() + first) * dtype.size() as u64, out)?;
        if let Some(raw) = raw.filter(|_| whole) {
            raw.update(out);
        }
    } else {
        read_strided(storage, view, dtype.size(), first, out)?;
    }
    if storage.is_big_endian() {
        for word in out.chunks_exact_mut(dtype.word()) {
            word.reverse();
        }
    }
    Ok(())
}

fn read_strided(storage: &Storage, view: &View, size: usize, first: u64, out: &mut [u8]) -> Result<()> {
    let read_at = |offset: u64, out: &mut [u8]| storage.read_at(offset, out);
    // Cannot overflow: `first` was checked against the view.
    match storage.gathered(view, size) {
        Some(Gathered::Resident(resident)) => return resident.read((view, size), first, out),
        Some(Gathered::Whole(held)) => return held.read_at(first * size as u64, out),
        Some(Gathered::Blocks(blocks)) => {
            return blocks.read(&read_at, storage.len(), (view, size), first * size as u64, out);
        }
        None => storage.check()?,
    }
    gather_into(&read_at, storage.len(), (view, size), first, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;

    use crate::io::Source;
    use crate::tensor::{Extent, Shape};

    /// A storage of these bytes in the middle of a file.
    fn storage(bytes: &[u8], extent: impl Fn(u64) -> Extent) -> (tempfile::TempDir, Storage) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [b"before", bytes, b"behind"].concat()).unwrap();
        let storage = Storage::new(Source::open(&path).unwrap(), "data/0", extent(6));
        (folder, storage)
    }

    fn raw(bytes: &[u8]) -> (tempfile::TempDir, Storage) {
        storage(bytes, |offset| Extent::Raw { offset, len: bytes.len() as u64 })
    }

    fn tensor(storage: Storage, dtype: Dtype, dims: &[u64], strides: &[u64], start: u64) -> LazyTensor {
        let available = storage.len() / dtype.size() as u64;
        let view = View::new(Shape::new(dims).unwrap(), strides.to_vec(), start, available).unwrap();
        LazyTensor::stored(Arc::new(storage), dtype, view).unwrap()
    }

    #[test]
    fn reads_any_range_in_row_major_order() {
        let (_folder, storage) = raw(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let transposed = tensor(storage, Dtype::U8, &[3, 2], &[1, 3], 1);
        assert_eq!(transposed.to_bytes().unwrap(), [1, 4, 2, 5, 3, 6]);
        let mut middle = [0; 3];
        transposed.read(2, &mut middle, None).unwrap();
        assert_eq!(middle, [2, 5, 3]);
        assert!(!transposed.is_verbatim());
    }

    #[test]
    fn swaps_the_words_of_big_endian_storages() {
        let (_folder, storage) = raw(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let swapped = tensor(storage.big_endian(true), Dtype::C64, &[1], &[1], 0);
        assert_eq!(swapped.to_bytes().unwrap(), [3, 2, 1, 0, 7, 6, 5, 4]);
    }

    #[test]
    fn inflates_storages_and_checks_their_length() {
        let content: Vec<u8> = (0..200).collect();
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&content).unwrap();
        let packed = encoder.finish().unwrap();
        let deflated = |len: u64| {
            let compressed = packed.len() as u64;
            storage(&packed, move |offset| Extent::Deflated { offset, compressed, len })
        };
        let (_folder, good) = deflated(200);
        let good = tensor(good, Dtype::U8, &[199], &[1], 1);
        assert_eq!(good.to_bytes().unwrap(), content[1..]);
        for wrong in [199, 201] {
            let (_folder, bad) = deflated(wrong);
            let error = tensor(bad, Dtype::U8, &[10], &[1], 0).to_bytes().unwrap_err().to_string();
            assert!(error.contains("inflates to"), "{error}");
        }
    }

    #[test]
    fn rejects_elements_whose_checksum_is_wrong() {
        let content = [1, 2, 3, 4, 5, 6];
        let wrong = Some(crc32fast::hash(&content) ^ 1);
        for (dims, strides) in [(&[6][..], &[1][..]), (&[3], &[1]), (&[2, 3], &[1, 2])] {
            let (_folder, good) = raw(&content);
            let good = good.with_crc32(Some(crc32fast::hash(&content)));
            assert!(tensor(good, Dtype::U8, dims, strides, 0).to_bytes().is_ok());
            let (_folder, bad) = raw(&content);
            let error = tensor(bad.with_crc32(wrong), Dtype::U8, dims, strides, 0).to_bytes().unwrap_err();
            assert!(error.to_string().contains("checksum"), "{dims:?}: {error}");
        }
    }

    #[test]
    fn limits_the_growth_by_strides_of_zero() {
        let (_folder, storage) = raw(&[0; 4]);
        let view = View::new(Shape::new([1 << 40]).unwrap(), vec![0], 0, 1).unwrap();
        assert!(LazyTensor::stored(Arc::new(storage), Dtype::F32, view).is_err());
    }
    #[test]
    fn a_tensor_in_memory_has_exactly_the_bytes_of_its_shape() {
        let shape = Shape::new([1000]).unwrap();
        assert!(LazyTensor::owned(Dtype::F32, shape.clone(), [0; 4]).is_err());
        assert!(LazyTensor::owned(Dtype::F32, shape.clone(), [0; 4001]).is_err());
        assert_eq!(LazyTensor::owned(Dtype::F32, shape, [0; 4000]).unwrap().bytes(), 4000);
    }

    #[test]
    fn a_view_lies_within_its_storage() {
        let (_folder, storage) = raw(&[0; 6]);
        let storage = Arc::new(storage);
        let view = |elements: u64| View::contiguous(Shape::new([elements]).unwrap());
        assert!(LazyTensor::stored(Arc::clone(&storage), Dtype::U16, view(3)).is_ok());
        assert!(LazyTensor::stored(storage, Dtype::U16, view(4)).is_err());
    }

    #[test]
    fn rejects_reads_past_the_last_element() {
        let (_folder, storage) = raw(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let part = tensor(storage, Dtype::U16, &[2], &[1], 1);
        part.read(1, &mut [0; 2], None).unwrap();
        part.read(2, &mut [], None).unwrap();
        assert!(part.read(1, &mut [0; 4], None).is_err());
        assert!(part.read(u64::MAX, &mut [0; 2], None).is_err());
        assert!(part.read(0, &mut [0; 3], None).is_err());
    }
}
