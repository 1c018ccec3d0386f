//! The networks of a model: text encoders, UNet and VAE.
//!
//! Each loads with a [`WeightLoader`](crate::weights::WeightLoader) and takes its sizes from the shapes of its tensors.
//! What differs between families apart from sizes is in one table, `family.rs`.

mod encoders;
mod family;
mod reader;
mod text;
mod unet;
mod vae;

pub(crate) use family::Family;
pub use text::{Conditioning, EncodeOptions, TextEncoder, TextEncoders};
pub use unet::{PreparedPrompt, Unet};
pub use vae::Vae;

use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::state_dict::StateDict;

/// Fails if the model of a checkpoint cannot be rendered, or lacks a text encoder. Reads no weights.
pub(crate) fn check_supported(state_dict: &StateDict) -> Result<()> {
    let family = Family::of(state_dict)?;
    family.encoders.iter().try_for_each(|encoder| encoder.prefix(state_dict).map(|_| ()))
}
