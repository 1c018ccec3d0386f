//! diffusers folders: `model_index.json`, and a folder for each component with its configuration and weights.
//!
//! The state dict of such a folder has its keys behind the component's name: `unet/conv_in.weight`.

mod read;
mod write;

pub use read::{Companions, companions, read};
pub use write::{Entry, Files, entries};

/// Component folders that hold tensors.
pub const COMPONENTS: &[&str] = &["unet", "vae", "text_encoder", "text_encoder_2"];

/// What stands between a component and a key.
pub const SEPARATOR: char = '/';

/// What names every part of a pipeline; a folder without it is one of a single component.
pub const MODEL_INDEX: &str = "model_index.json";

/// How the weights of a component are called, as safetensors and as `.bin`.
fn stems(component: &str) -> (&'static str, &'static str) {
    match component.starts_with("text_encoder") {
        true => ("model", "pytorch_model"),
        false => ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    }
}

/// Whether a file of this name holds weights of a component, or their index.
pub fn is_weights(name: &str) -> bool {
    let is_of = |component: &str| {
        let (safetensors, bin) = stems(component);
        [safetensors, bin].iter().any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['.', '-'])))
    };
    COMPONENTS.iter().any(|component| is_of(component))
}
