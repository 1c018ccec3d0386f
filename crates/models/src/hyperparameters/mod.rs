//! Hyperparameters of networks that their tensors do not show, from the configurations of a diffusers folder.
//!
//! A single file has none: programs take those of the published models.

mod config;
mod published;
mod values;

use serde_json::Value;
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::Result;

use crate::layout::Folder;
use config::{CLIP, Config, RENDERABLE, UNET, VAE};
pub(crate) use published::unlike_published;
use values::SCHEDULER;
pub use values::{Activation, TextHyperparameters, scaled_linear};

/// Hyperparameters of the networks of a model. What is `None` or empty is that of the published models.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Hyperparameters {
    /// The attention heads of the UNet at each resolution, the highest first.
    pub unet_heads: Vec<usize>,
    /// Whether the UNet has no middle block, as in some distilled models.
    pub unet_lacks_middle: bool,
    /// The groups of each group norm of the UNet.
    pub unet_groups: Option<usize>,
    /// The groups of each group norm of the VAE.
    pub vae_groups: Option<usize>,
    /// Those of the first text encoder.
    pub text_encoder: TextHyperparameters,
    /// Those of the second text encoder.
    pub text_encoder_2: TextHyperparameters,
    /// The variance of the noise that each timestep adds.
    pub betas: Option<Vec<f64>>,
}

impl Hyperparameters {
    /// Reads the configurations of a folder. Absent fields have the defaults of diffusers and transformers, except for
    /// those of the scheduler. Those of a single file are the published ones.
    ///
    /// Fails if a configuration describes another network than those of Stable Diffusion.
    pub fn read(stored: &StoredCheckpoint) -> Result<Self> {
        let of = |folder: Folder| Config::of(stored.configs(), folder.name());
        let mut found = Hyperparameters::default();
        if let Some(unet) = of(Folder::Unet) {
            unet.check(RENDERABLE)?;
            unet.check(UNET)?;
            found.unet_heads = unet.heads()?;
            found.unet_lacks_middle = unet.fields.get("mid_block_type").is_some_and(Value::is_null);
            found.unet_groups = unet.count("norm_num_groups")?;
        }
        if let Some(vae) = of(Folder::Vae) {
            vae.check(VAE)?;
            found.vae_groups = vae.count("norm_num_groups")?;
        }
        if let Some(text) = of(Folder::TextEncoder) {
            text.check(CLIP)?;
            found.text_encoder = text.clip()?;
        }
        if let Some(text) = of(Folder::TextEncoder2) {
            text.check(CLIP)?;
            found.text_encoder_2 = text.clip()?;
        }
        if let Some(scheduler) = Config::of(stored.configs(), SCHEDULER) {
            found.betas = scheduler.betas()?;
        }
        Ok(found)
    }

    /// Returns the hyperparameters of a model whose VAE was replaced by that of `vae`.
    #[must_use]
    pub fn with_vae_of(self, vae: &Self) -> Self {
        Hyperparameters { vae_groups: vae.vae_groups, ..self }
    }
}
