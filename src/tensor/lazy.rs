use std::sync::Arc;

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::cast::{self, Overflow};
use crate::tensor::gather::gather;
use crate::tensor::{Dtype, Extent, Shape, Storage, View};

/// Elements read and cast at a time; what was read is still in the second-level cache when it is cast.
const CAST_ELEMENTS: usize = 64 << 10;

/// Keeps inflated storages in memory until it is dropped.
pub type Held = Vec<Arc<[u8]>>;

/// A tensor whose elements are read when they are asked for.
///
/// A closed enum rather than a closure, so that a writer can see what it has: a plain range of a file, or work.
#[derive(Debug, Clone)]
pub enum LazyTensor {
    /// Elements of a storage in a file.
    Stored {
        /// The bytes.
        storage: Arc<Storage>,
        /// The element type.
        dtype: Dtype,
        /// Which elements.
        view: View,
    },
    /// Another tensor's elements in another floating type.
    Cast {
        /// The tensor.
        inner: Box<LazyTensor>,
        /// The element type it gets.
        to: Dtype,
        /// What becomes of values that do not fit.
        overflow: Overflow,
    },
    /// Another tensor's elements under another shape.
    Reshaped {
        /// The tensor.
        inner: Box<LazyTensor>,
        /// The shape it gets, of as many elements.
        shape: Shape,
    },
    /// The elements of several tensors, one after the other.
    Joined {
        /// The tensors, all of one type.
        parts: Vec<LazyTensor>,
        /// The shape of the whole.
        shape: Shape,
    },
    /// Elements that never were in a file.
    Owned {
        /// The element type.
        dtype: Dtype,
        /// The shape.
        shape: Shape,
        /// The elements, little-endian, row-major.
        bytes: Arc<[u8]>,
    },
}

impl LazyTensor {
    /// A view of a storage. Fails if a stride of 0 makes it unreasonably larger than the storage.
    pub fn stored(storage: Arc<Storage>, dtype: Dtype, view: View) -> Result<Self> {
        let bytes = view.shape().bytes(dtype);
        let most = limits::VIEW_BYTES.max(storage.len().saturating_mul(limits::VIEW_GROWTH));
        if bytes > most {
            return Err(Error::limit(format!(
                "shape {} needs {bytes} bytes from a storage of {}; the limit is {most}",
                view.shape(),
                storage.len()
            )));
        }
        Ok(LazyTensor::Stored { storage, dtype, view })
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            LazyTensor::Stored { dtype, .. } | LazyTensor::Owned { dtype, .. } => *dtype,
            LazyTensor::Cast { to, .. } => *to,
            LazyTensor::Reshaped { inner, .. } => inner.dtype(),
            // A join has at least one part.
            LazyTensor::Joined { parts, .. } => parts.first().map_or(Dtype::U8, LazyTensor::dtype),
        }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        match self {
            LazyTensor::Stored { view, .. } => view.shape(),
            LazyTensor::Cast { inner, .. } => inner.shape(),
            LazyTensor::Reshaped { shape, .. } | LazyTensor::Joined { shape, .. } | LazyTensor::Owned { shape, .. } => {
                shape
            }
        }
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.shape().bytes(self.dtype())
    }

    /// The storage it comes from in the end; `None` where it never was in a file, or comes from several.
    pub fn storage(&self) -> Option<&Arc<Storage>> {
        match self {
            LazyTensor::Stored { storage, .. } => Some(storage),
            LazyTensor::Cast { inner, .. } | LazyTensor::Reshaped { inner, .. } => inner.storage(),
            LazyTensor::Joined { .. } | LazyTensor::Owned { .. } => None,
        }
    }

    /// Every storage it comes from.
    pub fn storages(&self) -> Vec<&Arc<Storage>> {
        match self {
            LazyTensor::Joined { parts, .. } => parts.iter().flat_map(LazyTensor::storages).collect(),
            LazyTensor::Cast { inner, .. } | LazyTensor::Reshaped { inner, .. } => inner.storages(),
            LazyTensor::Stored { .. } | LazyTensor::Owned { .. } => self.storage().into_iter().collect(),
        }
    }

    /// Fills `out` with the elements `first..`, row-major and little-endian; `out` holds a whole number of them.
    ///
    /// Adds the bytes as they are stored to `raw`, where the tensor is a whole storage: who reads all elements can
    /// hold the sum against [`LazyTensor::promised_crc32`].
    pub fn read(&self, first: u64, out: &mut [u8], mut raw: Option<&mut Hasher>) -> Result<()> {
        // What is read line by line, or cast block by block, inflates its storage once.
        let _held = self.hold()?;
        match self {
            LazyTensor::Stored { storage, dtype, view } => read_stored(storage, *dtype, view, first, out, raw)
                .map_err(|error| error.in_file(storage.source().path())),
            LazyTensor::Cast { inner, to, overflow } => {
                let from = inner.dtype();
                let mut input = vec![0; CAST_ELEMENTS.min(out.len() / to.size()) * from.size()];
                let mut first = first;
                for out in out.chunks_mut(CAST_ELEMENTS * to.size()) {
                    let count = out.len() / to.size();
                    let input = input.get_mut(..count * from.size()).unwrap_or_default();
                    inner.read(first, input, raw.as_deref_mut())?;
                    cast::cast(from, input, *to, out, *overflow, first)?;
                    first += count as u64;
                }
                Ok(())
            }
            LazyTensor::Reshaped { inner, .. } => inner.read(first, out, raw),
            LazyTensor::Joined { parts, .. } => read_joined(parts, first, out),
            LazyTensor::Owned { dtype, bytes, .. } => {
                let start = usize::try_from(first).ok().and_then(|first| first.checked_mul(dtype.size()));
                let found = start.and_then(|start| bytes.get(start..start.checked_add(out.len())?));
                out.copy_from_slice(found.ok_or_else(|| Error::malformed("a read past the end of the tensor"))?);
                Ok(())
            }
        }
    }

    /// All elements at once. Costs the whole tensor in memory.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let length = usize::try_from(self.bytes()).map_err(|_| Error::limit("the tensor does not fit into memory"))?;
        let mut out = vec![0; length];
        let mut raw = self.promised_crc32().map(|_| Hasher::new());
        self.read(0, &mut out, raw.as_mut())?;
        if let (Some(raw), Some(promised), Some(storage)) = (raw, self.promised_crc32(), self.storage())
            && raw.finalize() != promised
        {
            return Err(storage.damaged());
        }
        Ok(out)
    }

    /// The checksum the file promises for the bytes behind all elements, if it promises one and the elements are
    /// exactly a whole storage in its order. Other views have their storage checked when they are read.
    pub fn promised_crc32(&self) -> Option<u32> {
        match self {
            LazyTensor::Stored { storage, dtype, view } if is_whole(storage, *dtype, view) => storage.crc32(),
            LazyTensor::Cast { inner, .. } | LazyTensor::Reshaped { inner, .. } => inner.promised_crc32(),
            _ => None,
        }
    }

    /// Holds its storage against the checksum the file promises for it. Reads all of the storage, once.
    pub fn check_storage(&self) -> Result<()> {
        self.storages().into_iter().try_for_each(|storage| storage.check())
    }

    /// Whether its elements are, in their order, exactly the bytes of a whole storage.
    pub fn is_verbatim(&self) -> bool {
        match self {
            LazyTensor::Stored { storage, dtype, view } => is_whole(storage, *dtype, view) && !storage.is_big_endian(),
            LazyTensor::Reshaped { inner, .. } => inner.is_verbatim(),
            LazyTensor::Cast { .. } | LazyTensor::Joined { .. } | LazyTensor::Owned { .. } => false,
        }
    }

    /// Keeps what reading piece by piece would make again and again: the inflated bytes of a compressed storage.
    /// Drop the guard when the tensor has been read.
    pub fn hold(&self) -> Result<Held> {
        self.storages().into_iter().filter_map(|storage| storage.hold().transpose()).collect()
    }
}

fn read_joined(parts: &[LazyTensor], first: u64, out: &mut [u8]) -> Result<()> {
    let mut rest = out;
    let mut begin = 0_u64;
    for part in parts {
        let end = begin + part.shape().elements();
        let at = first.max(begin);
        if at < end && !rest.is_empty() {
            // What was read already came from the parts before: this one is read from its start, or from `first`.
            let bytes = (end - at).saturating_mul(part.dtype().size() as u64).min(rest.len() as u64) as usize;
            let (head, tail) = rest.split_at_mut_checked(bytes).unwrap_or_default();
            part.read(at - begin, head, None)?;
            rest = tail;
        }
        begin = end;
    }
    if rest.is_empty() { Ok(()) } else { Err(Error::malformed("a read past the end of the tensor")) }
}

fn is_whole(storage: &Storage, dtype: Dtype, view: &View) -> bool {
    matches!(storage.extent(), Extent::Raw { .. })
        && view.start() == 0
        && view.is_contiguous()
        && view.shape().bytes(dtype) == storage.len()
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
        storage.read_at((view.start() + first) * dtype.size() as u64, out)?;
        if let Some(raw) = raw.filter(|_| whole) {
            raw.update(out);
        }
    } else {
        storage.check()?;
        gather(&|offset, out| storage.read_at(offset, out), storage.len(), view, dtype.size(), first, out)?;
    }
    if storage.is_big_endian() {
        for word in out.chunks_exact_mut(dtype.word()) {
            word.reverse();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;

    use crate::io::Source;

    /// A storage of these bytes somewhere inside a file.
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
    fn reads_any_range_in_logical_order() {
        let (_folder, storage) = raw(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let transposed = tensor(storage, Dtype::U8, &[3, 2], &[1, 3], 1);
        assert_eq!(transposed.to_bytes().unwrap(), [1, 4, 2, 5, 3, 6]);
        let mut middle = [0; 3];
        transposed.read(2, &mut middle, None).unwrap();
        assert_eq!(middle, [2, 5, 3]);
        assert!(!transposed.is_verbatim());
    }

    #[test]
    fn big_endian_words_come_out_little_endian() {
        let (_folder, storage) = raw(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let swapped = tensor(storage.big_endian(true), Dtype::C64, &[1], &[1], 0);
        assert_eq!(swapped.to_bytes().unwrap(), [3, 2, 1, 0, 7, 6, 5, 4]);
    }

    #[test]
    fn deflated_storages_are_inflated_and_held_to_their_length() {
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
    fn damage_is_found_where_the_file_promises_a_checksum() {
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
    fn a_stride_of_zero_cannot_fill_the_disk() {
        let (_folder, storage) = raw(&[0; 4]);
        let view = View::new(Shape::new([1 << 40]).unwrap(), vec![0], 0, 1).unwrap();
        assert!(LazyTensor::stored(Arc::new(storage), Dtype::F32, view).is_err());
    }
}
