//! The layers of the models.
//!
//! Each layer has three implementations: candle's operations, a cache-friendly one for F32 on the CPU, and the CUDA
//! kernels. Tests compare the implementations with each other.

mod activations;
mod attention;
mod conv;
mod cpu;
mod disjoint;
mod elements;
mod engine;
mod geometry;
mod image;
mod linear;
mod matmul;
mod microkernel;
mod norm;
mod simd;
#[cfg(test)]
pub(super) mod testing;
mod winograd;

pub(super) use activations::{gated_gelu, gelu, quick_gelu, silu};
pub(super) use attention::attention;
pub(super) use conv::{Conv2d, Epilogue, Padding};
pub use engine::Engine;
pub(super) use image::Image;
pub(super) use linear::Linear;
pub(super) use norm::{GroupNorm, LayerNorm};
