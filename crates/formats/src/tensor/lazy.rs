use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::cast::Overflow;
use crate::tensor::gather;
use crate::tensor::held::Held;
use crate::tensor::storage::Gathered;
use crate::tensor::{Dtype, Extent, Shape, Storage, View};

/// Keeps inflated storages and transposed tensors until it is dropped; see [`LazyTensor::hold`].
#[derive(Debug, Default)]
pub struct InflatedGuard {
    _inflated: Vec<Arc<Held>>,
    gathered: Vec<Gathered>,
    derived: Vec<Arc<Vec<f32>>>,
}

/// A tensor whose elements are read on demand.
///
/// A tensor is a view of a storage in a file, a buffer in memory, or derived from these: cast, reshaped, sliced, joined or
/// dequantized. Cloning copies no elements.
#[derive(Debug, Clone)]
pub struct LazyTensor {
    pub(super) repr: Repr,
}

/// Where the elements of a tensor come from. The constructors of [`LazyTensor`] check what the comments state.
#[derive(Debug, Clone)]
pub(super) enum Repr {
    /// Elements of a storage in a file. The view lies within the storage, which ends at [`limits::FILE_BYTES`] at most.
    Stored { storage: Arc<Storage>, dtype: Dtype, view: View },
    /// The elements of `inner`, converted. [`cast::is_supported`](super::cast::is_supported) holds for the two dtypes.
    Cast { inner: Box<LazyTensor>, to: Dtype, overflow: Overflow },
    /// The elements of `inner` under a shape with the same number of elements.
    Reshaped { inner: Box<LazyTensor>, shape: Shape },
    /// The elements of `inner` from index `first` on. There are enough of them for `shape`.
    Sliced { inner: Box<LazyTensor>, first: u64, shape: Shape },
    /// F32 elements computed from other tensors.
    Computed(Arc<dyn Compute>),
    /// The elements of all parts, in order. All parts have this dtype, and `shape` has the sum of their elements.
    Joined { parts: Vec<LazyTensor>, dtype: Dtype, shape: Shape },
    /// Elements in memory, row-major and little-endian: exactly the bytes that shape and dtype need.
    Owned { dtype: Dtype, shape: Shape, bytes: Arc<[u8]> },
}

/// Computes F32 elements from other tensors.
pub(super) trait Compute: fmt::Debug + Send + Sync {
    /// The shape of the result.
    fn shape(&self) -> &Shape;

    /// The tensors that elements are computed from.
    fn inputs(&self) -> Vec<&LazyTensor>;

    /// Fills `out` with elements from index `first` on. The caller has checked that they exist.
    fn read(&self, first: u64, out: &mut [u8]) -> Result<()>;

    /// Returns the elements, which stay available while the result lives. `None` if they are computed in pieces.
    fn hold(&self) -> Result<Option<Arc<Vec<f32>>>> {
        Ok(None)
    }
}

/// A tensor that is a view of a storage in a file, possibly cast; see [`LazyTensor::as_stored`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredView<'a> {
    /// The storage in the file.
    pub storage: &'a Arc<Storage>,
    /// The dtype of the storage's elements.
    pub dtype: Dtype,
    /// The elements that belong to the tensor.
    pub view: &'a View,
    /// The dtype that the elements are cast to when they are read; `None` if they are not cast.
    pub cast: Option<(Dtype, Overflow)>,
}

impl LazyTensor {
    /// Creates a view of a storage.
    ///
    /// Fails if the view reaches past the storage, if the storage reaches past [`limits::FILE_BYTES`], or if strides of 0
    /// make the view larger than [`limits::VIEW_GROWTH`] allows.
    pub fn stored(storage: Arc<Storage>, dtype: Dtype, view: View) -> Result<Self> {
        // The arithmetic of reads relies on this bound.
        if !storage.is_within_a_file() {
            return Err(Error::malformed(format!("the storage {} is larger than any file can be", storage.name())));
        }
        let bytes = view.shape().bytes(dtype);
        let most = limits::VIEW_BYTES.max(storage.len().saturating_mul(limits::VIEW_GROWTH));
        if bytes > most {
            return Err(Error::limit(format!(
                "shape {} needs {bytes} bytes from a storage of {}; the limit is {most}",
                view.shape(),
                storage.len()
            )));
        }
        let available = storage.len() / dtype.size() as u64;
        if view.end() > available {
            return Err(Error::malformed(format!(
                "a view of {} {dtype} elements from a storage of {available}",
                view.end()
            )));
        }
        Ok(Repr::Stored { storage, dtype, view }.into())
    }

    /// Creates a tensor from elements in memory, row-major and little-endian.
    ///
    /// Fails if `bytes` is not exactly as long as `shape` and `dtype` require.
    pub fn owned(dtype: Dtype, shape: Shape, bytes: impl Into<Arc<[u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() as u64 != shape.bytes(dtype) {
            let expected = shape.bytes(dtype);
            return Err(Error::mismatch(format!("{dtype} {shape} needs {expected} bytes, got {}", bytes.len())));
        }
        Ok(Repr::Owned { dtype, shape, bytes }.into())
    }

    /// The dtype.
    pub fn dtype(&self) -> Dtype {
        match &self.repr {
            Repr::Stored { dtype, .. } | Repr::Joined { dtype, .. } | Repr::Owned { dtype, .. } => *dtype,
            Repr::Cast { to, .. } => *to,
            Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => inner.dtype(),
            Repr::Computed(_) => Dtype::F32,
        }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        match &self.repr {
            Repr::Stored { view, .. } => view.shape(),
            Repr::Cast { inner, .. } => inner.shape(),
            Repr::Reshaped { shape, .. }
            | Repr::Sliced { shape, .. }
            | Repr::Joined { shape, .. }
            | Repr::Owned { shape, .. } => shape,
            Repr::Computed(computed) => computed.shape(),
        }
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.shape().bytes(self.dtype())
    }

    /// The storage that all elements come from; `None` if they are in memory or come from several storages.
    pub fn storage(&self) -> Option<&Arc<Storage>> {
        match &self.repr {
            Repr::Stored { storage, .. } => Some(storage),
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => inner.storage(),
            Repr::Computed(_) | Repr::Joined { .. } | Repr::Owned { .. } => None,
        }
    }

    /// Every storage that elements come from.
    pub fn storages(&self) -> Vec<&Arc<Storage>> {
        match &self.repr {
            Repr::Joined { parts, .. } => parts.iter().flat_map(LazyTensor::storages).collect(),
            Repr::Computed(computed) => computed.inputs().into_iter().flat_map(LazyTensor::storages).collect(),
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => inner.storages(),
            Repr::Stored { .. } | Repr::Owned { .. } => self.storage().into_iter().collect(),
        }
    }

    /// The tensor as a view of a storage, possibly cast once; `None` for any other tensor.
    pub(crate) fn as_stored(&self) -> Option<StoredView<'_>> {
        match &self.repr {
            Repr::Stored { storage, dtype, view } => Some(StoredView { storage, dtype: *dtype, view, cast: None }),
            Repr::Cast { inner, to, overflow } => {
                let inner = inner.as_stored().filter(|inner| inner.cast.is_none())?;
                Some(StoredView { cast: Some((*to, *overflow)), ..inner })
            }
            Repr::Reshaped { .. }
            | Repr::Sliced { .. }
            | Repr::Computed(_)
            | Repr::Joined { .. }
            | Repr::Owned { .. } => None,
        }
    }

    /// The CRC-32 that the file records for the tensor's stored bytes. `None` if the file records none, or if the tensor
    /// is not exactly a whole storage in its order; other views have their storage checked when they are read.
    pub fn expected_crc32(&self) -> Option<u32> {
        self.whole_storage().and_then(|storage| storage.crc32())
    }

    /// Fails if the file records a CRC-32 for the tensor's stored bytes, and it is not `found`.
    pub(crate) fn check_crc32(&self, found: u32) -> Result<()> {
        match self.whole_storage() {
            Some(storage) if storage.crc32().is_some_and(|expected| expected != found) => Err(storage.damaged()),
            _ => Ok(()),
        }
    }

    /// The storage whose bytes, before any cast, are exactly this tensor's elements in order.
    fn whole_storage(&self) -> Option<&Arc<Storage>> {
        match &self.repr {
            Repr::Stored { storage, dtype, view } => is_whole(storage, *dtype, view).then_some(storage),
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } => inner.whole_storage(),
            Repr::Sliced { .. } | Repr::Computed(_) | Repr::Joined { .. } | Repr::Owned { .. } => None,
        }
    }

    /// Checks every storage that elements come from against the checksum that its file records. Reads each storage once.
    pub(crate) fn check_storage(&self) -> Result<()> {
        self.storages().into_iter().try_for_each(|storage| storage.check())
    }

    /// Returns the range of the file whose bytes are exactly the elements, row-major and little-endian. `None` if no range is:
    /// elements that are compressed, transposed, cast or in memory.
    pub fn file_range(&self) -> Option<std::ops::Range<u64>> {
        let (start, dtype) = self.file_start()?;
        Some(start..start.checked_add(self.shape().bytes(dtype))?)
    }

    /// The offset of the first element in the file, if the elements follow it, and their dtype.
    fn file_start(&self) -> Option<(u64, Dtype)> {
        match &self.repr {
            Repr::Stored { storage, dtype, view } if view.is_contiguous() && !storage.is_big_endian() => {
                let Extent::Raw { offset, .. } = storage.extent() else { return None };
                Some((offset.checked_add(view.start().checked_mul(dtype.size() as u64)?)?, *dtype))
            }
            Repr::Reshaped { inner, .. } => inner.file_start(),
            Repr::Sliced { inner, first, .. } => {
                let (start, dtype) = inner.file_start()?;
                Some((start.checked_add(first.checked_mul(dtype.size() as u64)?)?, dtype))
            }
            _ => None,
        }
    }

    /// Returns whether the elements lie in their storage in row-major order without gaps. True of tensors that are not views
    /// of a storage.
    pub fn is_contiguous(&self) -> bool {
        match &self.repr {
            Repr::Stored { view, .. } => view.is_contiguous(),
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => {
                inner.is_contiguous()
            }
            Repr::Computed(_) | Repr::Joined { .. } | Repr::Owned { .. } => true,
        }
    }

    /// Returns whether the elements, in order, are exactly the bytes of a whole storage.
    pub(crate) fn is_verbatim(&self) -> bool {
        match &self.repr {
            Repr::Stored { storage, dtype, view } => is_whole(storage, *dtype, view) && !storage.is_big_endian(),
            Repr::Reshaped { inner, .. } => inner.is_verbatim(),
            Repr::Cast { .. } | Repr::Sliced { .. } | Repr::Computed(_) | Repr::Joined { .. } | Repr::Owned { .. } => {
                false
            }
        }
    }

    /// Prepares for reading the tensor in pieces: inflates compressed storages and gathers transposed views, and keeps the
    /// results while the guard lives, in a temporary file if they do not fit into some memory. Reading the pieces in order
    /// then does so once.
    pub fn hold(&self) -> Result<InflatedGuard> {
        let mut guard = self.hold_storages()?;
        self.hold_gathered(&mut guard.gathered)?;
        self.hold_derived(&mut guard.derived)?;
        Ok(guard)
    }

    /// Inflates compressed storages, and keeps the bytes while the guard lives.
    pub(super) fn hold_storages(&self) -> Result<InflatedGuard> {
        let held = self.storages().into_iter().filter_map(|storage| storage.hold().transpose());
        Ok(InflatedGuard { _inflated: held.collect::<Result<_>>()?, gathered: Vec::new(), derived: Vec::new() })
    }

    fn hold_derived(&self, held: &mut Vec<Arc<Vec<f32>>>) -> Result<()> {
        match &self.repr {
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => {
                inner.hold_derived(held)
            }
            Repr::Computed(computed) => {
                held.extend(computed.hold()?);
                computed.inputs().into_iter().try_for_each(|input| input.hold_derived(held))
            }
            Repr::Joined { .. } | Repr::Stored { .. } | Repr::Owned { .. } => Ok(()),
        }
    }

    fn hold_gathered(&self, held: &mut Vec<Gathered>) -> Result<()> {
        match &self.repr {
            Repr::Stored { storage, dtype, view } if !gather::is_cheap_in_pieces(view) => {
                let gathered = storage.hold_gathered(view, dtype.size());
                held.push(gathered.map_err(|error| error.in_file(storage.source().path()))?);
                Ok(())
            }
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => {
                inner.hold_gathered(held)
            }
            Repr::Computed(computed) => computed.inputs().into_iter().try_for_each(|input| input.hold_gathered(held)),
            Repr::Joined { parts, .. } => parts.iter().try_for_each(|part| part.hold_gathered(held)),
            Repr::Stored { .. } | Repr::Owned { .. } => Ok(()),
        }
    }

    /// Bytes that reading the tensor costs, or more: its elements, and what is read of its storages for them.
    pub(crate) fn cost(&self) -> u64 {
        match &self.repr {
            Repr::Stored { dtype, view, .. } => gather::cost(view, dtype.size()),
            Repr::Cast { inner, .. } | Repr::Reshaped { inner, .. } | Repr::Sliced { inner, .. } => inner.cost(),
            Repr::Computed(computed) => {
                computed.inputs().into_iter().map(LazyTensor::cost).fold(0, u64::saturating_add)
            }
            Repr::Joined { parts, .. } => parts.iter().map(LazyTensor::cost).fold(0, u64::saturating_add),
            Repr::Owned { .. } => self.bytes(),
        }
    }
}

impl From<Repr> for LazyTensor {
    fn from(repr: Repr) -> Self {
        LazyTensor { repr }
    }
}

/// Returns whether the view is all bytes of an uncompressed storage, in order.
pub(super) fn is_whole(storage: &Storage, dtype: Dtype, view: &View) -> bool {
    matches!(storage.extent(), Extent::Raw { .. })
        && view.start() == 0
        && view.is_contiguous()
        && view.shape().bytes(dtype) == storage.len()
}
