//! Weights on their way to the card: read from their file into pinned memory by all threads, and sent on while the next
//! piece is read.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};
use candle_core::{DType, Device, Tensor};
use crc32fast::Hasher;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::render::kernels::address;
use crate::render::weight_flaws::{FlawScan, WeightFlaw};
use crate::render::weights::{from_candle, stored};
use crate::tensor::{Dtype, LazyTensor};

/// Bytes of a pinned buffer, and of what one thread reads of it.
const BUFFER: usize = 32 << 20;
const PART: usize = 2 << 20;

/// Pinned memory that pieces of tensors go through in turn.
pub(super) struct Uploader {
    buffers: [Buffer; 2],
    next: usize,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// When the card has what was last in it.
    sent: CudaEvent,
}

impl Uploader {
    pub(super) fn new(context: &Arc<CudaContext>) -> std::result::Result<Self, DriverError> {
        let buffer = || {
            // SAFETY: what it holds is written before it is read. Not write-combined: checksums are read from it.
            let mut memory = unsafe { context.alloc_pinned_with_flags::<u8>(BUFFER, 0)? };
            memory.as_mut_slice()?.fill(0);
            Ok(Buffer { memory, sent: context.new_event(None)? })
        };
        Ok(Uploader { buffers: [buffer()?, buffer()?], next: 0 })
    }

    /// The tensor on the card, in the type it is stored in where the kernels know that, else in F32; and what is wrong with
    /// its values.
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
            // Rare, and small: through candle.
            _ => {
                let (stored, flaw) = stored(lazy, &Device::Cpu)?;
                let widened = stored.to_dtype(DType::F32).and_then(|it| it.to_device(device));
                return Ok((widened.map_err(from_candle)?, flaw));
            }
        };
        let dims =
            lazy.shape().dims().iter().map(|&dim| usize::try_from(dim)).collect::<std::result::Result<Vec<_>, _>>();
        let dims = dims.map_err(|_| Error::limit(format!("shape {} is too large", lazy.shape())))?;
        // SAFETY: all of it is written below, before anything on the stream reads it.
        let tensor = unsafe { Tensor::empty(dims, dtype, device) }.map_err(from_candle)?;
        let to = address(&tensor).map_err(from_candle)?;
        let _inflated = lazy.hold()?;
        let promised = lazy.promised_crc32();
        let (mut sum, mut judged) = (Hasher::new(), FlawScan::NOTHING);
        let size = dtype.size_in_bytes();
        let bytes = tensor.elem_count() * size;
        for first in (0..bytes).step_by(BUFFER) {
            let len = BUFFER.min(bytes - first);
            self.next = (self.next + 1) % self.buffers.len();
            let Some(buffer) = self.buffers.get_mut(self.next) else { continue };
            buffer.sent.synchronize().w().map_err(from_candle)?;
            let memory = buffer.memory.as_mut_slice().w().map_err(from_candle)?;
            let memory = memory.get_mut(..len).unwrap_or_default();
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
                // SAFETY: the piece lies within the tensor, and the buffer is not touched before the event says so.
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
