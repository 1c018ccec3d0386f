//! What the UNet predicts, and the constants that come with it.

mod marks;
mod vae_constants;

pub use marks::*;
pub use vae_constants::{EDM_SCALING_FACTOR, SD_SCALING_FACTOR, SDXL_SCALING_FACTOR, VaeConstants};
