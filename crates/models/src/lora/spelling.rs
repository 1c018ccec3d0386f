use crate::family::Architecture;
use trinart_ckpt_formats::serialize_as_name;

/// Whose names the tensors of a LoRA have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoraNames {
    /// Those of kohya's trainer, which WebUI and ComfyUI read: `lora_unet_….lora_down.weight`.
    Kohya,
    /// Those of diffusers: `unet.….lora_A.weight`.
    Diffusers,
    /// Those of PEFT: `base_model.model.….lora_A.weight`, with an `adapter_config.json`. A file is for one network.
    Peft,
}

impl LoraNames {
    /// The word for scripts.
    pub fn name(self) -> &'static str {
        match self {
            LoraNames::Kohya => "kohya",
            LoraNames::Diffusers => "diffusers",
            LoraNames::Peft => "peft",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            LoraNames::Kohya => "kohya",
            LoraNames::Diffusers => "diffusers",
            LoraNames::Peft => "PEFT",
        }
    }

    /// Returns whose names all keys of a file have; `None` for mixed ones and those of early versions of diffusers.
    pub(crate) fn of<'a>(mut keys: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        const NETWORKS: [&str; 3] = ["unet.", "text_encoder.", "text_encoder_2."];
        const PARTS: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];
        let is_of_diffusers = |key: &str| {
            NETWORKS.iter().any(|network| key.starts_with(network)) && PARTS.iter().any(|part| key.ends_with(part))
        };
        if keys.clone().all(|key| key.starts_with("lora_unet_") || key.starts_with("lora_te")) {
            return Some(LoraNames::Kohya);
        }
        if keys.clone().all(|key| key.starts_with("base_model.model.") && !key.contains(".default")) {
            return Some(LoraNames::Peft);
        }
        keys.all(is_of_diffusers).then_some(LoraNames::Diffusers)
    }
}

serialize_as_name!(LoraNames);

/// How kohya's trainer spells modules: not the same for each architecture, and other trainers differ from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spelling {
    /// Whether modules of the UNet have the names of the original code, rather than those of diffusers.
    pub(crate) is_ldm: bool,
    /// Whether the first text encoder is `lora_te1_`, rather than `lora_te_`.
    pub(crate) is_numbered: bool,
}

impl Spelling {
    /// Returns the spelling of kohya's trainer.
    pub(crate) fn of(architecture: Architecture) -> Self {
        let is_xl = !matches!(architecture, Architecture::Sd1 | Architecture::Sd2);
        Spelling { is_ldm: is_xl, is_numbered: is_xl }
    }
}
