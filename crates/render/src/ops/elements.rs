//! The elements of a packed weight, in the dtype in which a checkpoint stores them.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The elements of a matrix. Weights in half precision stay so, and are widened block by block when they are used: that
/// halves the memory, and a block is widened for many columns at once.
pub(super) enum Elements {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// Whether a tensor can be packed: F32, F16 or BF16 in CPU memory.
pub(super) fn is_packable(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
}

impl Elements {
    /// Rearranges the elements of a tensor in row-major order. `arrange` gets them, and returns as many or more.
    ///
    /// Fails if the tensor is not F32, F16 or BF16 in CPU memory.
    pub(super) fn of(tensor: &Tensor, arrange: &impl Arrange) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("the tensor is not in CPU memory") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("internal error: a contiguous tensor without contiguous elements")
        };
        let outside = || candle_core::Error::Msg("internal error: a tensor beyond its storage".into());
        Ok(match storage {
            CpuStorage::F32(all) => Elements::F32(arrange.arrange(all.get(start..end).ok_or_else(outside)?)?),
            CpuStorage::F16(all) => Elements::F16(arrange.arrange(all.get(start..end).ok_or_else(outside)?)?),
            CpuStorage::BF16(all) => Elements::BF16(arrange.arrange(all.get(start..end).ok_or_else(outside)?)?),
            _ => bail!("a weight of {:?} cannot be packed", tensor.dtype()),
        })
    }

    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        match self {
            Elements::F32(all) => all.len(),
            Elements::F16(all) => all.len(),
            Elements::BF16(all) => all.len(),
        }
    }

    /// Returns a part of the elements, widened into `buffer` if they are in half precision. Parts beyond the end are cut.
    #[inline]
    pub(super) fn widened<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let end = range.end.min(self.len());
        let range = range.start.min(end)..end;
        buffer.resize(range.len(), 0.0);
        match self {
            Elements::F32(all) => return all.get(range).unwrap_or_default(),
            Elements::F16(all) => all.get(range).unwrap_or_default().convert_to_f32_slice(buffer),
            Elements::BF16(all) => all.get(range).unwrap_or_default().convert_to_f32_slice(buffer),
        }
        buffer
    }
}

/// A rearrangement of elements of any type.
pub(super) trait Arrange {
    /// Returns the rearranged elements.
    fn arrange<T: Copy + Default + Send + Sync>(&self, elements: &[T]) -> Result<Vec<T>>;
}
