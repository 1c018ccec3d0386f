//! The layers that the models are made of, and what they compute.
//!
//! Each has three ways: candle's own operations; for f32 on the CPU one that keeps to the caches; and the kernels of
//! graphics cards. Tests hold them against each other.

mod attention;
mod conv;
mod cpu;
mod engine;
mod gelu;
mod geometry;
mod image;
mod kernel;
mod linear;
mod norm;
mod product;
#[cfg(test)]
pub(super) mod testing;
mod winograd;

pub(super) use attention::attention;
pub(super) use conv::{Added, Conv2d, Padding};
pub use engine::Engine;
pub(super) use gelu::{gated_gelu, quick_gelu};
pub(super) use image::Image;
pub(super) use linear::Linear;
pub(super) use norm::{GroupNorm, LayerNorm};
