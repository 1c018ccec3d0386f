//! Names what a file is, by its keys and shapes: a checkpoint, a VAE, a LoRA, a text encoder, an upscaler, and the model
//! that it belongs to.
//!
//! `rules/` lists the keys of each kind, from the most to the least specific. The keys are those of the original code, of
//! diffusers, of ComfyUI and of common trainers.

mod adapters;
mod autoencoder;
mod encoders;
mod identity;
mod kind;
mod model;
mod named;
mod rules;
mod unet;
mod uses;
mod view;

use trinart_ckpt_formats::state_dict::StateDict;

#[cfg(test)]
mod tests;

pub use identity::Identity;
pub use kind::FileKind;
pub use model::Model;
pub use uses::Use;

use view::View;

/// A kind, the model and more words, as rules find them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    kind: FileKind,
    model: Option<Model>,
    details: Vec<&'static str>,
}

impl Found {
    fn new(kind: FileKind, model: Option<Model>) -> Self {
        Found { kind, model, details: Vec::new() }
    }

    fn with(mut self, detail: &'static str) -> Self {
        self.details.push(detail);
        self
    }

    fn with_some(mut self, detail: Option<&'static str>) -> Self {
        self.details.extend(detail);
        self
    }
}

impl FileKind {
    /// Names what a state dict is, in LDM names or as its file stores it.
    pub fn of(state_dict: &StateDict) -> Self {
        Identity::of(state_dict).kind
    }
}

impl Identity {
    /// Names what a state dict is that its file has under this name, which is not in the keys: `string_to_param`.
    pub fn under(root: &str, state_dict: &StateDict) -> Self {
        let tensors = state_dict.iter().map(|(key, tensor)| (format!("{root}.{key}"), tensor.shape().dims()));
        let tensors: Vec<(String, &[u64])> = tensors.collect();
        Self::of_view(&View::of_tensors(tensors.iter().map(|(key, dims)| (key.as_str(), *dims)).collect()))
    }
}

/// Describes a file for an error message: `SDXL base LoRA (kohya)`, or `no known keys (a, b, c)`.
pub fn describe(state_dict: &StateDict) -> String {
    match Identity::of(state_dict) {
        identity if identity.kind == FileKind::Unknown => {
            let keys: Vec<&str> = state_dict.keys().take(3).collect();
            format!("no known keys ({})", keys.join(", "))
        }
        identity => identity.to_text(),
    }
}

/// Returns whether a state dict in LDM names has a UNet of Stable Diffusion where WebUI looks for it.
pub(crate) fn is_base(state_dict: &StateDict) -> bool {
    // The UNet of a video model, whose VAE is another.
    let is_over_time = |key: &str| key.contains(".time_stack.") || key.contains(".temopral_conv.");
    let is_video = |key: &str| key.starts_with("model.diffusion_model.") && is_over_time(key);
    has_unet(state_dict) && !state_dict.keys().any(is_video)
}

/// Returns whether a state dict in LDM names has a UNet where the original code looks for it, of a video model too.
pub(crate) fn has_unet(state_dict: &StateDict) -> bool {
    const PARTS: [&str; 3] = ["input_blocks.", "middle_block.", "output_blocks."];
    let mut names = state_dict.keys().filter_map(|key| key.strip_prefix("model.diffusion_model."));
    names.any(|name| PARTS.iter().any(|part| name.starts_with(part)))
}
