//! Elements of tensors on the CPU, and writing a result from several threads.

use std::marker::PhantomData;

use candle_core::{DType, Result, Storage, Tensor, bail};

/// Whether the fast way is for these tensors: f32 on the CPU.
pub(super) fn is_fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| tensor.device().is_cpu() && tensor.dtype() == DType::F32)
}

/// Calls `f` with the elements, row-major.
pub(super) fn with_elements<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the tensor is not in the CPU's memory") };
    let elements = storage.as_slice::<f32>()?;
    let range = layout.contiguous_offsets().and_then(|(start, end)| elements.get(start..end));
    match range {
        Some(elements) => f(elements),
        None => bail!("a contiguous tensor has no contiguous elements"),
    }
}

/// A slice that several threads write, each its own parts.
pub(super) struct Shared<'a> {
    first: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from a slice borrowed for as long as this lives; that no two threads are at the same elements
// is what the methods ask of their callers.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Shared { first: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Writes `values` from index `start`; what lies behind the end is dropped.
    ///
    /// # Safety
    ///
    /// No other thread may write these elements.
    pub(super) unsafe fn put(&self, start: usize, values: &[f32]) {
        let Some(room) = self.len.checked_sub(start) else { return };
        let count = values.len().min(room);
        // SAFETY: `start + count` is within the slice; nobody else writes there, as the caller says.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.first.add(start), count) }
    }

    /// Adds `values` to the elements from index `start` on; what lies behind the end is dropped.
    ///
    /// # Safety
    ///
    /// No other thread may read or write these elements.
    pub(super) unsafe fn add(&self, start: usize, values: &[f32]) {
        let Some(room) = self.len.checked_sub(start) else { return };
        let count = values.len().min(room);
        // SAFETY: `start + count` is within the slice; nobody else is there, as the caller says.
        let elements = unsafe { std::slice::from_raw_parts_mut(self.first.add(start), count) };
        elements.iter_mut().zip(values).for_each(|(element, value)| *element += value);
    }
}

/// As many zeros.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}
