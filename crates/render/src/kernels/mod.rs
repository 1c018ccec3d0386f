//! The layers as CUDA kernels. Experimental: they have never run on a GPU.
//!
//! `source/` contains the kernels in CUDA C++; the files here launch them. They run on an [`Accelerator`]: an NVIDIA
//! GPU with the feature `cuda`, or an emulation on the CPU in tests. Only the emulation has been tested.
//!
//! Images are channels-last, in F16, BF16 or F32, and all sums are F32. Tensor cores multiply F16 and BF16 directly. An
//! F32 product is three TF32 products, which together have the precision of F32.

mod accelerator;
mod address;
mod attention;
mod convolution;
mod launch;
mod norm;
mod pointwise;
#[cfg(test)]
mod tests;

pub use accelerator::{Accelerator, Launch, Recording};
pub use address::{address, address_mut};
pub(super) use attention::attention;
pub(super) use convolution::{Convolution, Epilogue, Window};
pub use launch::Kernels;
pub(super) use norm::{GroupNorm, LayerNorm};
pub(super) use pointwise::{
    cast, concat_channels, concat_rows, embed, gated_gelu, gelu, sigmoid_gate, to_host, to_pixels, write_planes,
};
