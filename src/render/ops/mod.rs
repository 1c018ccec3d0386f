//! The layers that the models are made of, and what they compute.
//!
//! Each has two ways: candle's own operations, which run on every device, and for f32 on the CPU one that keeps to the
//! caches. Tests hold one against the other.

mod attention;
mod conv;
mod cpu;
mod gelu;
mod geometry;
mod kernel;
mod linear;
mod norm;
mod product;
#[cfg(test)]
mod testing;
mod winograd;

pub(super) use attention::attention;
pub(super) use conv::{Added, Conv2d, Padding};
pub(super) use gelu::{gated_gelu, quick_gelu};
pub(super) use linear::Linear;
pub(super) use norm::{GroupNorm, LayerNorm};
