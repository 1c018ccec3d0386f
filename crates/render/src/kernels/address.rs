//! The addresses of tensors, as kernels receive them.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// The address of the first element of a tensor in the memory of its device, for reading.
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

/// As [`address`], for writing.
///
/// The address comes from exclusive access to the storage. Other tensors that share the storage see what is written.
pub fn address_mut(tensor: &Tensor) -> Result<u64> {
    let found = AddressMut { element: tensor.dtype().size_in_bytes(), address: Cell::new(None) };
    tensor.inplace_op1(&found)?;
    match found.address.get() {
        Some(address) => Ok(address),
        None => bail!("internal error: candle did not run an operation on {tensor:?}"),
    }
}

/// The address of a tensor for reading, or 0 for `None`.
pub(super) fn address_or_null(tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), address)
}

/// The offset of the first element in bytes.
fn offset(layout: &Layout, element: usize) -> Result<u64> {
    if !layout.is_contiguous() {
        bail!("kernels do not support tensors that are not contiguous: {layout:?}")
    }
    Ok((layout.start_offset() * element) as u64)
}

/// An operation in place, which is candle's way to the mutable storage of a tensor. Changes nothing and notes the
/// address.
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

    // The guards that the driver's calls return wait for events. All work is on one stream, so there are none.

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
