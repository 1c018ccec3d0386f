//! Diffusers folders: `model_index.json`, and one folder per component with its configuration and weights.
//!
//! The keys of such a folder's state dict are prefixed with the component: `unet/conv_in.weight`.

mod companions;
mod json;
mod listing;
mod part;
mod parts;
mod read;
mod write;

pub use companions::{Companions, companions};
pub use json::{parse_json, write_json};
pub use part::Part;
pub use read::is_model;
pub(super) use read::read;
pub use write::{Entry, Files, check_variant, entries};

/// Component folders that hold tensors.
pub const COMPONENTS: &[&str] = &["unet", "vae", "text_encoder", "text_encoder_2"];

/// Component folders that hold tensors in pipelines without a UNet, such as those of SD v3 and Flux.
pub const OTHER_COMPONENTS: &[&str] = &["transformer", "transformer_2", "text_encoder_3"];

/// Component folders that hold tensors in pipelines of Stable Video Diffusion. In others, they are parts that are copied as
/// they are.
pub const VIDEO_COMPONENTS: &[&str] = &["image_encoder"];

/// The class of a pipeline with [`VIDEO_COMPONENTS`].
const VIDEO_PIPELINE: &str = "StableVideoDiffusionPipeline";

/// Components that are read from a folder of their own. In a pipeline, they are parts that are copied as they are.
pub const LONE_COMPONENTS: &[&str] = &["controlnet"];

/// The separator between component and key.
pub const SEPARATOR: char = '/';

/// The file that lists the components of a pipeline. A folder without it holds a single component.
pub const MODEL_INDEX: &str = "model_index.json";

/// Returns the file stems of a component's weights, as safetensors and as `.bin`.
fn stems(component: &str) -> (&'static str, &'static str) {
    if component.starts_with("text_encoder") || VIDEO_COMPONENTS.contains(&component) {
        ("model", "pytorch_model")
    } else {
        ("diffusion_pytorch_model", "diffusion_pytorch_model")
    }
}

/// Returns whether a file of this name holds a component's weights, or their index.
pub(crate) fn is_weights(name: &str) -> bool {
    let is_of = |component: &str| {
        let (safetensors, bin) = stems(component);
        [safetensors, bin].iter().any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['.', '-'])))
    };
    components().any(is_of)
}

/// Returns whether a component with tensors may have this name.
pub fn is_component(name: &str) -> bool {
    components().any(|component| component == name)
}

/// The names of all components with tensors.
fn components() -> impl Iterator<Item = &'static str> {
    COMPONENTS.iter().chain(OTHER_COMPONENTS).chain(VIDEO_COMPONENTS).chain(LONE_COMPONENTS).copied()
}
