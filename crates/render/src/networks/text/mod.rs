//! The text encoders: CLIP ViT-L in the names of transformers, and OpenCLIP ViT-H and ViT-bigG in their own names.

mod conditioner;
mod encoder;

pub(super) use conditioner::sinusoid;
pub use conditioner::{Conditioning, EncodeOptions, TextEncoders};
pub use encoder::TextEncoder;
