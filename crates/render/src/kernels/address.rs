//! The addresses of tensors, as kernels receive them.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// Returns the device address of a tensor's first element, for reading.
///
/// Fails if the tensor is not contiguous, or if the kernels do not support its dtype or device.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let first: u64 = match &*storage {
        Storage::Cpu(storage) => match storage {
            CpuStorage::U8(values) => values.as_ptr() as u64,
            CpuStorage::U32(values) => values.as_ptr() as u64,
            CpuStorage::F16(values) => values.as_ptr() as u64,
            CpuStorage::BF16(values) => values.as_ptr() as u64,
            CpuStorage::F32(values) => values.as_ptr() as u64,
            _ => bail!("kernels do not support tensors of {:?}", tensor.dtype()),
        },
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => cuda::address(storage)?,
        _ => bail!("kernels do not support tensors of this device"),
    };
    Ok(first + offset(layout, tensor.dtype().size_in_bytes())?)
}

/// Like [`address`], for writing.
///
/// Gets the address through exclusive access to the storage. Writes also change other tensors that share the storage.
pub fn address_mut(tensor: &Tensor) -> Result<u64> {
    let found = AddressMut { element: tensor.dtype().size_in_bytes(), address: Cell::new(None) };
    tensor.inplace_op1(&found)?;
    match found.address.get() {
        Some(address) => Ok(address),
        None => bail!("internal error: candle did not run an operation on {tensor:?}"),
    }
}

/// Returns the address of a tensor for reading, or 0 for `None`.
pub(super) fn address_or_null(tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), address)
}

/// Returns the offset of the first element in bytes.
fn offset(layout: &Layout, element: usize) -> Result<u64> {
    if !layout.is_contiguous() {
        bail!("kernels do not support tensors that are not contiguous: {layout:?}")
    }
    Ok((layout.start_offset() * element) as u64)
}

/// An in-place operation that changes nothing and records the address. candle provides the mutable storage of a tensor
/// only to in-place operations.
struct AddressMut {
    element: usize,
    address: Cell<Option<u64>>,
}

impl InplaceOp1 for AddressMut {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let first = match storage {
            CpuStorage::U8(values) => values.as_mut_ptr() as u64,
            CpuStorage::U32(values) => values.as_mut_ptr() as u64,
            CpuStorage::F16(values) => values.as_mut_ptr() as u64,
            CpuStorage::BF16(values) => values.as_mut_ptr() as u64,
            CpuStorage::F32(values) => values.as_mut_ptr() as u64,
            _ => bail!("kernels do not support tensors of this dtype"),
        };
        self.address.set(Some(first + offset(layout, self.element)?));
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> Result<()> {
        self.address.set(Some(cuda::address_mut(storage)? + offset(layout, self.element)?));
        Ok(())
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda_backend::CudaStorageSlice;
    use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
    use candle_core::{CudaStorage, Result, bail};

    // The guards that these calls return wait for events. There are no events, because all work is on one stream.

    pub(super) fn address(storage: &CudaStorage) -> Result<u64> {
        let stream = storage.device.cuda_stream();
        Ok(match &storage.slice {
            CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            _ => bail!("kernels do not support tensors of this dtype"),
        })
    }

    pub(super) fn address_mut(storage: &mut CudaStorage) -> Result<u64> {
        let stream = storage.device.cuda_stream();
        Ok(match &mut storage.slice {
            CudaStorageSlice::U8(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::U32(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::F32(slice) => slice.device_ptr_mut(&stream).0,
            _ => bail!("kernels do not support tensors of this dtype"),
        })
    }
}
