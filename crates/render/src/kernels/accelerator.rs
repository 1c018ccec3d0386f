//! The interface to a device that runs the kernels.

use candle_core::{DType, Device, Result, Tensor};

use crate::weight_flaws::WeightFlaw;
use trinart_ckpt_formats::error;
use trinart_ckpt_formats::tensor::LazyTensor;

/// A device that runs the kernels.
///
/// Work runs in submission order.
pub trait Accelerator: Send + Sync {
    /// The candle device of its tensors.
    fn device(&self) -> &Device;

    /// The number of multiprocessors, which is a lower bound on the blocks that run at the same time.
    fn multiprocessors(&self) -> usize;

    /// Allocates a tensor with unspecified elements. The caller writes all elements before it reads any.
    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor>;

    /// Submits a kernel.
    ///
    /// # Safety
    ///
    /// - `parameters` is the structure of this kernel in `source/`.
    /// - Addresses that the kernel reads are from [`address`](super::address()), and addresses that it writes are from
    ///   [`address_mut`](super::address_mut()), of tensors of this accelerator.
    /// - The tensors have the sizes that `parameters` states, and live until the kernel has run or are freed by work
    ///   that is submitted later.
    /// - No other thread accesses a tensor that the kernel writes.
    unsafe fn launch(&self, launch: &Launch<'_>, parameters: &[u8]) -> Result<()>;

    /// Loads a stored tensor, and returns it with a flaw of its values, if any. F16, BF16 and F32 keep their dtype.
    fn upload(&self, lazy: &LazyTensor) -> error::Result<(Tensor, Option<WeightFlaw>)>;

    /// Copies the elements of `from`, which is on this accelerator or in CPU memory, to `to`.
    ///
    /// Fails if the shapes or dtypes differ.
    fn write(&self, to: &Tensor, from: &Tensor) -> Result<()>;

    /// Records the kernels that `work` submits, without running them, for later replay.
    ///
    /// Returns `None` if the device cannot record; the caller then runs `work` itself.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Option<Box<dyn Recording>>;
}

/// Recorded kernels, with the tensors that they use.
pub trait Recording: Send + Sync {
    /// Submits all recorded kernels.
    fn replay(&self) -> Result<()>;
}

/// A kernel and its launch configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch<'a> {
    /// The name of the kernel.
    pub kernel: &'a str,
    /// The number of blocks in x, y and z.
    pub grid: [usize; 3],
    /// The number of threads per block.
    pub threads: usize,
    /// Dynamic shared memory of a block in bytes.
    pub shared: usize,
}
