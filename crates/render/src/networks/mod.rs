//! The networks of SD v1: text encoder, UNet and VAE.
//!
//! Each loads with a [`WeightLoader`](crate::weights::WeightLoader) and takes its sizes from the shapes of its tensors.

mod clip;
mod reader;
mod unet;
mod vae;

use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::state_dict::StateDict;

pub use clip::TextEncoder;
pub use unet::{PreparedPrompt, Unet};
pub use vae::Vae;

/// Fails if the text encoder or the UNet of a checkpoint is not from SD v1. Reads no weights.
pub(crate) fn check_supported(state_dict: &StateDict) -> Result<()> {
    clip::check_supported(state_dict)?;
    unet::check_supported(state_dict)
}
