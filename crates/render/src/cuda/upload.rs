//! Uploads weights to the GPU. Threads read the file into pinned memory. The GPU copies one buffer while they fill the
//! other.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};
use candle_core::{DType, Device, Tensor};
use crc32fast::Hasher;
use rayon::prelude::*;

use crate::errors::from_candle;
use crate::kernels::address_mut;
use crate::weight_flaws::{FlawScan, WeightFlaw};
use crate::weights::stored;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};

/// Size of a pinned buffer in bytes.
const BUFFER: usize = 32 << 20;

/// Bytes that a thread reads at a time.
const PART: usize = 2 << 20;

/// Two pinned buffers, used in turn.
pub(super) struct Uploader {
    current: Buffer,
    other: Buffer,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// Completes when the GPU has copied the last contents.
    sent: CudaEvent,
}

impl Uploader {
    pub(super) fn new(context: &Arc<CudaContext>) -> std::result::Result<Self, DriverError> {
        let buffer = || {
            // Not write-combined, because the CPU reads the buffer for checksums.
            // SAFETY: the buffer is filled with zeros before it is read.
            let mut memory = unsafe { context.alloc_pinned_with_flags::<u8>(BUFFER, 0)? };
            memory.as_mut_slice()?.fill(0);
            Ok(Buffer { memory, sent: context.new_event(None)? })
        };
        Ok(Uploader { current: buffer()?, other: buffer()? })
    }

    /// Uploads a tensor, and returns it with a flaw of its values, if any. F16, BF16 and F32 keep their dtype; other dtypes
    /// become F32.
    ///
    /// Fails if the file cannot be read, its checksum differs, or the GPU is out of memory.
    pub(super) fn upload(
        &mut self,
        lazy: &LazyTensor,
        device: &Device,
        stream: &Arc<CudaStream>,
    ) -> Result<(Tensor, Option<WeightFlaw>)> {
        let dtype = match lazy.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            // Tensors of other dtypes are rare and small, so they take the slower path through candle.
            _ => {
                let (stored, flaw) = stored(lazy, &Device::Cpu)?;
                let tensor = stored.to_dtype(DType::F32).and_then(|it| it.to_device(device));
                return Ok((tensor.map_err(from_candle)?, flaw));
            }
        };
        let dims =
            lazy.shape().dims().iter().map(|&dim| usize::try_from(dim)).collect::<std::result::Result<Vec<_>, _>>();
        let dims = dims.map_err(|_| Error::limit(format!("shape {} is too large", lazy.shape())))?;
        // SAFETY: the loop below writes all elements, and an error drops the tensor.
        let tensor = unsafe { Tensor::empty(dims, dtype, device) }.map_err(from_candle)?;
        let to = address_mut(&tensor).map_err(from_candle)?;
        let _inflated = lazy.hold()?;
        let promised = lazy.expected_crc32();
        let (mut sum, mut judged) = (Hasher::new(), FlawScan::NOTHING);
        let size = dtype.size_in_bytes();
        let bytes = tensor.elem_count() * size;
        for first in (0..bytes).step_by(BUFFER) {
            let len = BUFFER.min(bytes - first);
            std::mem::swap(&mut self.current, &mut self.other);
            let buffer = &mut self.current;
            buffer.sent.synchronize().w().map_err(from_candle)?;
            let memory = buffer.memory.as_mut_slice().w().map_err(from_candle)?;
            let memory = memory.get_mut(..len).or_internal("a pinned buffer is smaller than BUFFER")?;
            let parts: Vec<Result<(Hasher, FlawScan)>> = memory
                .par_chunks_mut(PART)
                .enumerate()
                .map(|(index, part)| {
                    let mut sum = Hasher::new();
                    let element = (first + index * PART) / size;
                    lazy.read(element as u64, part, promised.map(|_| &mut sum))?;
                    Ok((sum, FlawScan::of_bytes(dtype, part)))
                })
                .collect();
            for part in parts {
                let (of_part, judged_part) = part?;
                sum.combine(&of_part);
                judged = judged.and(judged_part);
            }
            let send = || {
                // SAFETY: bytes `first` to `first + len` are within the tensor. The buffer stays allocated and
                // unchanged until the event is reached, because every use of the buffer waits for the event first.
                unsafe { result::memcpy_htod_async(to + first as u64, &*memory, stream.cu_stream())? };
                buffer.sent.record(stream)
            };
            send().w().map_err(from_candle)?;
        }
        match lazy.storage() {
            Some(storage) if promised.is_some_and(|promised| sum.finalize() != promised) => Err(storage.damaged()),
            _ => {
                let flaw = judged.flaw(tensor.elem_count());
                Ok((tensor, flaw))
            }
        }
    }
}
