//! diffusers folders: `model_index.json`, and a folder for each component with its configuration and weights.
//!
//! The state dict of such a folder has its keys behind the component's name: `unet/conv_in.weight`.

mod read;

pub use read::read;

/// Component folders that hold tensors.
pub const COMPONENTS: &[&str] = &["unet", "vae", "text_encoder", "text_encoder_2"];

/// What stands between a component and a key.
pub const SEPARATOR: char = '/';
