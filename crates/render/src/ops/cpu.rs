//! Access to the elements of F32 tensors in CPU memory.

use candle_core::{DType, Result, Storage, Tensor, bail};

/// Whether all tensors are F32 in CPU memory, as this crate's CPU layers require.
pub(super) fn is_f32_on_cpu(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| tensor.device().is_cpu() && tensor.dtype() == DType::F32)
}

/// Calls `f` with the elements in row-major order.
///
/// Fails if the tensor is not F32 in CPU memory.
pub(super) fn with_elements<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the tensor is not in CPU memory") };
    let elements = storage.as_slice::<f32>()?;
    let range = layout.contiguous_offsets().and_then(|(start, end)| elements.get(start..end));
    match range {
        Some(elements) => f(elements),
        None => bail!("internal error: a contiguous tensor without contiguous elements"),
    }
}

/// Returns a vector of `len` zeros.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}
