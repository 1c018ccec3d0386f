//! Launching kernels for the dtype of the layers.

use std::sync::Arc;

use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

use super::accelerator::{Accelerator, Launch};

/// An accelerator, with the dtype of images, tokens and weights on it.
#[derive(Clone)]
pub struct Kernels {
    pub(super) accelerator: Arc<dyn Accelerator>,
    pub(super) dtype: DType,
    suffix: &'static str,
}

impl Kernels {
    /// Creates kernels for F16, BF16 or F32. Fails for other dtypes.
    pub fn new(accelerator: Arc<dyn Accelerator>, dtype: DType) -> Result<Self> {
        let suffix = suffix(dtype)?;
        Ok(Kernels { accelerator, dtype, suffix })
    }

    /// The dtype of images, tokens and weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns kernels for another dtype on the same accelerator.
    pub fn in_dtype(&self, dtype: DType) -> Result<Self> {
        Self::new(Arc::clone(&self.accelerator), dtype)
    }

    /// The accelerator that runs the kernels.
    pub fn accelerator(&self) -> &Arc<dyn Accelerator> {
        &self.accelerator
    }

    /// Allocates a tensor of the layers' dtype with unspecified elements.
    pub(super) fn empty(&self, shape: &[usize]) -> Result<Tensor> {
        self.accelerator.empty(shape, self.dtype)
    }

    /// Allocates an F32 tensor with unspecified elements.
    pub(super) fn empty_f32(&self, shape: &[usize]) -> Result<Tensor> {
        self.accelerator.empty(shape, DType::F32)
    }

    /// Launches the kernel `name` for the dtype of the layers.
    ///
    /// # Safety
    ///
    /// Same as for [`Accelerator::launch`].
    pub(super) unsafe fn launch<P: NoUninit>(
        &self,
        name: &str,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        parameters: &P,
    ) -> Result<()> {
        let kernel = format!("{name}_{}", self.suffix);
        // SAFETY: this function has the same contract as `launch`.
        unsafe { launch(&*self.accelerator, &Launch { kernel: &kernel, grid, threads, shared }, parameters) }
    }

    /// Like [`Kernels::launch`], for kernels that iterate over `items` with any number of threads.
    ///
    /// # Safety
    ///
    /// Same as for [`Accelerator::launch`].
    pub(super) unsafe fn launch_each<P: NoUninit>(&self, name: &str, items: usize, parameters: &P) -> Result<()> {
        // SAFETY: this function has the same contract as `launch`.
        unsafe { self.launch(name, [blocks_for(&*self.accelerator, items), 1, 1], THREADS, 0, parameters) }
    }
}

/// Default number of threads per block.
pub(super) const THREADS: usize = 256;

/// Kernels read and write eight channels at a time.
pub(super) const EIGHT: usize = 8;

/// Returns the number of blocks for one thread per item, up to the number that keeps the accelerator busy.
pub(super) fn blocks_for(accelerator: &dyn Accelerator, items: usize) -> usize {
    items.div_ceil(THREADS).clamp(1, 16 * accelerator.multiprocessors().max(1))
}

/// Rounds up to a multiple of eight.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(EIGHT)
}

/// Returns the suffix of the kernels for a dtype.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        DType::F32 => Ok("f32"),
        _ => bail!("unsupported dtype {dtype:?}: expected F16, BF16 or F32"),
    }
}

/// Launches a kernel whose structure is `P`. [`NoUninit`] rules out padding, whose bytes may not be read.
///
/// # Safety
///
/// Same as for [`Accelerator::launch`].
pub(super) unsafe fn launch<P: NoUninit>(
    accelerator: &dyn Accelerator,
    launch: &Launch<'_>,
    parameters: &P,
) -> Result<()> {
    // SAFETY: this function has the same contract as `Accelerator::launch`.
    unsafe { accelerator.launch(launch, bytemuck::bytes_of(parameters)) }
}

/// Converts a size to the integer type of the kernels' structures. Fails above 2^31 - 1.
pub(super) fn int(value: usize) -> Result<i32> {
    i32::try_from(value)
        .map_err(|_| candle_core::Error::Msg(format!("kernels support sizes up to 2^31 - 1, not {value}")))
}
