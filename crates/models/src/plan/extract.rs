//! Components that are extracted alone: which of two text encoders, and the keys under which programs load one network.

use crate::Component;

/// What precedes the keys of the second text encoder of SDXL base.
const SECOND: &str = "conditioner.embedders.1.model.";

/// What precedes the keys of a text encoder in a checkpoint in LDM names.
const TEXT: &[&str] = &[
    "conditioner.embedders.0.transformer.",
    SECOND,
    "conditioner.embedders.0.model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
];

/// What precedes the keys of an image encoder. The rest begins with `visual.`, as OpenCLIP and ComfyUI have it.
const IMAGE: &[&str] = &["conditioner.embedders.0.open_clip.model.", "embedder.model.", "cond_stage_model.model."];

/// One of the two text encoders of SDXL base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextEncoder {
    /// CLIP ViT-L; the only text encoder of other models.
    First,
    /// OpenCLIP ViT-bigG.
    Second,
}

impl TextEncoder {
    /// Returns whether the key of a text encoder in LDM names is of this one.
    pub(super) fn has(self, key: &str) -> bool {
        key.starts_with(SECOND) == (self == TextEncoder::Second)
    }

    /// The name for people.
    pub(super) fn text(self) -> &'static str {
        match self {
            TextEncoder::First => "first text encoder",
            TextEncoder::Second => "second text encoder",
        }
    }
}

/// Returns a key without the prefix that it has in a checkpoint, if the component is written without.
pub(super) fn bare_key(component: Component, only: Option<TextEncoder>, key: &str) -> &str {
    let prefixes = match (component, only) {
        (Component::TextEncoder, Some(_)) => TEXT,
        (Component::ImageEncoder, _) => IMAGE,
        _ => return key,
    };
    prefixes.iter().find_map(|prefix| key.strip_prefix(prefix)).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_encoder_and_an_image_encoder_have_keys_without_prefix() {
        let (first, second) = ("conditioner.embedders.0.transformer.text_model.a", "conditioner.embedders.1.model.b");
        assert!(TextEncoder::First.has(first) && !TextEncoder::First.has(second));
        assert!(!TextEncoder::Second.has(first) && TextEncoder::Second.has(second));
        let text = |key| bare_key(Component::TextEncoder, Some(TextEncoder::First), key);
        assert_eq!((text(first), text("cond_stage_model.model.ln_final.bias")), ("text_model.a", "ln_final.bias"));
        assert_eq!(bare_key(Component::TextEncoder, None, first), first);
        let image = "conditioner.embedders.0.open_clip.model.visual.proj";
        assert_eq!(bare_key(Component::ImageEncoder, None, image), "visual.proj");
        assert_eq!(bare_key(Component::Unet, None, "model.diffusion_model.a"), "model.diffusion_model.a");
    }
}
