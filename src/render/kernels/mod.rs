//! The layers as kernels of our own, for graphics cards.
//!
//! `source/` holds them in CUDA C++; the files here say how each is launched. What runs them is a [`Machine`]: an NVIDIA
//! card with the feature `cuda`, or, in tests, a program that plays one on the CPU. Images lie channels last, in f16,
//! bf16 or f32, and every sum is one of f32: of halves by the tensor cores as they are, of f32 by three products of
//! TF32, which together have the digits of f32.

mod attention;
mod convolution;
mod norm;
mod pointwise;

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

use crate::error;
use crate::render::weight_flaws::WeightFlaw;
use crate::tensor::LazyTensor;

pub(super) use attention::attention;
pub(super) use convolution::{Convolution, Onto, Window};
pub(super) use norm::{GroupNorm, LayerNorm};
pub(super) use pointwise::{cast, from_pixels, gated_gelu, join, joined, look_up, sigmoid_gate, to_pixels, widened};

/// Something that runs the kernels.
pub trait Machine: Send + Sync {
    /// Where its tensors lie, as candle says it.
    fn device(&self) -> &Device;

    /// How many blocks it works on at a time, but for their size.
    fn multiprocessors(&self) -> usize;

    /// A tensor whose elements are not set yet.
    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor>;

    /// Runs a kernel, behind whatever was asked for before.
    ///
    /// # Safety
    ///
    /// The addresses in `parameters` are those that the kernel may read and write, as [`address`] gives them of tensors
    /// of this machine, and `parameters` are laid out as the kernel's structure in `source/` is.
    unsafe fn launch(&self, launch: &Launch<'_>, parameters: &[u8]) -> Result<()>;

    /// A stored tensor, in F16, BF16 or F32 where it is stored so, and what is wrong with its values.
    fn upload(&self, lazy: &LazyTensor) -> error::Result<(Tensor, Option<WeightFlaw>)>;

    /// Replaces the elements of a tensor by those of another one, of this machine or in the CPU's memory.
    fn write(&self, to: &Tensor, from: &Tensor) -> Result<()>;

    /// Records what `work` launches, to be run again with one call; nothing is run. `None` where that cannot be done:
    /// then `work` was not called, or has to be called again.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Option<Box<dyn Recording>>;
}

/// Launches that can be run again, on the same tensors.
pub trait Recording: Send + Sync {
    /// Runs them, behind whatever was asked for before.
    fn replay(&self) -> Result<()>;
}

/// What is launched, and with how many threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch<'a> {
    /// The name of the kernel.
    pub kernel: &'a str,
    /// Blocks in three directions.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory that a block is given.
    pub shared: usize,
}

/// A machine, and the type in which layers compute on it.
#[derive(Clone)]
pub struct Kernels {
    machine: Arc<dyn Machine>,
    dtype: DType,
    suffix: &'static str,
}

impl Kernels {
    /// Layers in F16, BF16 or F32.
    pub fn new(machine: Arc<dyn Machine>, dtype: DType) -> Result<Self> {
        let suffix = suffix(dtype)?;
        Ok(Kernels { machine, dtype, suffix })
    }

    /// The type of images, tokens and weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same machine, computing in another type.
    pub fn in_dtype(&self, dtype: DType) -> Result<Self> {
        Self::new(Arc::clone(&self.machine), dtype)
    }

    /// Where the kernels run.
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    fn empty(&self, shape: &[usize]) -> Result<Tensor> {
        self.machine.empty(shape, self.dtype)
    }

    fn empty_f32(&self, shape: &[usize]) -> Result<Tensor> {
        self.machine.empty(shape, DType::F32)
    }

    /// Launches the kernel of this name for the type of the layers.
    ///
    /// # Safety
    ///
    /// As for [`Machine::launch`], with `parameters` of the kernel's structure.
    unsafe fn launch<P: Copy>(
        &self,
        name: &str,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        parameters: &P,
    ) -> Result<()> {
        let kernel = format!("{name}_{}", self.suffix);
        // SAFETY: the caller's promise is this function's.
        unsafe { launch(&*self.machine, &Launch { kernel: &kernel, grid, threads, shared }, parameters) }
    }

    /// As [`Kernels::launch`], for kernels that go over so many items with as many threads as are of use.
    ///
    /// # Safety
    ///
    /// As for [`Kernels::launch`].
    unsafe fn launch_each<P: Copy>(&self, name: &str, items: usize, parameters: &P) -> Result<()> {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.launch(name, [blocks_for(&*self.machine, items), 1, 1], THREADS, 0, parameters) }
    }
}

/// Threads of a block, where nothing else asks for another number.
const THREADS: usize = 256;

/// Channels are read and written by eights.
const EIGHT: usize = 8;

/// Blocks for so many items, one for each thread: more than the machine has room for are of no use.
fn blocks_for(machine: &dyn Machine, items: usize) -> usize {
    items.div_ceil(THREADS).clamp(1, 16 * machine.multiprocessors().max(1))
}

/// The next multiple of eight.
fn padded(channels: usize) -> usize {
    channels.next_multiple_of(EIGHT)
}

fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        DType::F32 => Ok("f32"),
        _ => bail!("there are kernels for f16, bf16 and f32, not for {dtype:?}"),
    }
}

/// # Safety
///
/// As for [`Machine::launch`], with `parameters` of the kernel's structure.
unsafe fn launch<P: Copy>(machine: &dyn Machine, launch: &Launch<'_>, parameters: &P) -> Result<()> {
    // SAFETY: a structure is as many bytes as it has; padding among them is copied and never looked at.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(parameters).cast::<u8>(), size_of::<P>()) };
    // SAFETY: the caller's promise is this function's.
    unsafe { machine.launch(launch, bytes) }
}

/// Where the elements of a contiguous tensor lie, in the memory of its device.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    if !layout.is_contiguous() {
        bail!("a kernel takes contiguous tensors, not {tensor:?}")
    }
    let first: u64 = match &*storage {
        Storage::Cpu(storage) => match storage {
            CpuStorage::U8(values) => values.as_ptr() as u64,
            CpuStorage::U32(values) => values.as_ptr() as u64,
            CpuStorage::F16(values) => values.as_ptr() as u64,
            CpuStorage::BF16(values) => values.as_ptr() as u64,
            CpuStorage::F32(values) => values.as_ptr() as u64,
            _ => bail!("kernels take no tensors of {:?}", tensor.dtype()),
        },
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::cuda::address(storage)?,
        _ => bail!("kernels take no tensors of this device"),
    };
    Ok(first + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// The address of a tensor that may be missing: 0 then.
fn address_or_null(tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), address)
}

/// A number as the kernels' structures have it.
fn int(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| candle_core::Error::Msg(format!("{value} is more than a kernel counts")))
}

#[cfg(test)]
mod tests;
