use serde::Serialize;

use crate::family::Architecture;

/// The constants of a VAE that its weights do not show: how its latents are scaled for the UNet, and whether it has to run
/// in f32.
///
/// A latent `z` of the encoder becomes `(z - mean) * scaling_factor / std` for the UNet, or `(z - shift) * scaling_factor`.
/// The names are those of `vae/config.json` in diffusers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VaeConstants {
    /// The factor between the latents of the VAE and those of the UNet.
    pub scaling_factor: f64,
    /// What is subtracted from each latent before scaling; `None` for SD v1, v2 and SDXL.
    pub shift_factor: Option<f64>,
    /// The mean of each latent channel; `None` except for EDM models.
    pub latents_mean: Option<Vec<f64>>,
    /// The standard deviation of each latent channel; `None` except for EDM models.
    pub latents_std: Option<Vec<f64>>,
    /// Whether diffusers decodes in f32 although the weights are f16.
    pub force_upcast: bool,
}

/// The scaling factor of SD v1 and v2.
pub const SD_SCALING_FACTOR: f64 = 0.18215;

/// The scaling factor of SDXL.
pub const SDXL_SCALING_FACTOR: f64 = 0.13025;

/// The scaling factor of EDM models with a mean and a standard deviation, such as Playground 2.5 (diffusers,
/// `PLAYGROUND_VAE_SCALING_FACTOR`; ComfyUI, `SDXL_Playground_2_5`).
pub const EDM_SCALING_FACTOR: f64 = 0.5;

impl VaeConstants {
    /// The constants of the published models of an architecture.
    pub fn of(architecture: Architecture) -> Self {
        let scaling_factor = if architecture.is_xl() { SDXL_SCALING_FACTOR } else { SD_SCALING_FACTOR };
        // The default of diffusers. The published VAE of SDXL overflows in f16.
        let force_upcast = true;
        VaeConstants { scaling_factor, shift_factor: None, latents_mean: None, latents_std: None, force_upcast }
    }
}
