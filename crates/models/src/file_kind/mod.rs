//! Names what a file is, by its keys: a checkpoint, a VAE, a LoRA, a text encoder, a transformer of another family.
//!
//! `rules.rs` lists the keys of each kind, from the most to the least specific. The keys are those of the original code,
//! of diffusers and of common trainers.

mod rules;

use trinart_ckpt_formats::state_dict::StateDict;

use crate::vae_schema;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A Stable Diffusion UNet with a VAE or a text encoder.
    Checkpoint,
    /// A Stable Diffusion UNet alone.
    Unet,
    /// A VAE of Stable Diffusion, with 4 latent channels.
    Vae,
    /// A VAE of Flux or SD v3, with 16 latent channels.
    Vae16,
    /// A VAE of another kind: VQ, video.
    OtherVae,
    /// A TAESD, a tiny autoencoder for previews.
    Taesd,
    /// WebUI's approximation of the VAE decoder, for previews.
    VaeApprox,
    /// CLIP ViT-L, the text encoder of SD v1 and SDXL.
    ClipL,
    /// OpenCLIP ViT-H, the text encoder of SD v2.
    ClipH,
    /// OpenCLIP ViT-bigG, the second text encoder of SDXL.
    ClipG,
    /// A CLIP text encoder of another size.
    Clip,
    /// The image encoder of CLIP.
    ClipVision,
    /// T5, the text encoder of SD v3, Flux and others.
    T5,
    /// A language model: Llama, Gemma, Qwen.
    LanguageModel,
    /// A LoRA with the names of kohya's trainer.
    LoraKohya,
    /// A LoRA with the names of PEFT or diffusers.
    LoraPeft,
    /// A LyCORIS network: LoHa, LoKr, OFT.
    Lycoris,
    /// A ControlNet.
    ControlNet,
    /// A ControlNet-LLLite or a Control-LoRA.
    ControlLora,
    /// A T2I-Adapter.
    T2iAdapter,
    /// An IP-Adapter.
    IpAdapter,
    /// A textual inversion embedding.
    TextualInversion,
    /// A hypernetwork.
    Hypernetwork,
    /// An upscaler: ESRGAN, SwinIR and their kin.
    Upscaler,
    /// A motion module of AnimateDiff.
    MotionModule,
    /// The safety checker of Stable Diffusion.
    SafetyChecker,
    /// Stable Video Diffusion.
    StableVideo,
    /// SD v3.
    Sd3,
    /// Flux.
    Flux,
    /// AuraFlow.
    AuraFlow,
    /// PixArt.
    PixArt,
    /// Stable Cascade or Würstchen.
    Cascade,
    /// Lumina or Z-Image.
    Lumina,
    /// Qwen-Image.
    QwenImage,
    /// Wan.
    Wan,
    /// Hunyuan-DiT.
    HunyuanDit,
    /// Hunyuan Video.
    HunyuanVideo,
    /// LTX-Video.
    LtxVideo,
    /// None of these.
    Unknown,
}

impl FileKind {
    /// Names what a state dict is, in LDM names or as its file stores it.
    pub fn of(state_dict: &StateDict) -> Self {
        Self::from_keys(&|| Box::new(state_dict.keys()), &|key| {
            state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec())
        })
    }

    fn from_keys<'a>(
        keys: &dyn Fn() -> Box<dyn Iterator<Item = &'a str> + 'a>,
        dims: &dyn Fn(&str) -> Option<Vec<u64>>,
    ) -> Self {
        if has_sd_unet(keys()) {
            let is_part = |key: &str| {
                ["first_stage_model.", "cond_stage_model.", "conditioner."].iter().any(|it| key.starts_with(it))
            };
            return if keys().any(is_part) { FileKind::Checkpoint } else { FileKind::Unet };
        }
        if let Some(kind) = rules::named_by(keys) {
            return kind;
        }
        if let Some(prefix) = vae_prefix(keys()) {
            let latents = dims(&format!("{prefix}decoder.conv_in.weight")).and_then(|dims| dims.get(1).copied());
            return match latents {
                Some(16) => FileKind::Vae16,
                None | Some(vae_schema::LATENT_CHANNELS) => FileKind::Vae,
                Some(_) => FileKind::OtherVae,
            };
        }
        rules::clip(keys).or_else(|| rules::embedding(keys, dims)).unwrap_or(FileKind::Unknown)
    }

    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Checkpoint => "checkpoint",
            FileKind::Unet => "unet",
            FileKind::Vae => "vae",
            FileKind::Vae16 => "vae-16-channels",
            FileKind::OtherVae => "vae-other",
            FileKind::Taesd => "taesd",
            FileKind::VaeApprox => "vae-approx",
            FileKind::ClipL => "clip-l",
            FileKind::ClipH => "clip-h",
            FileKind::ClipG => "clip-g",
            FileKind::Clip => "clip",
            FileKind::ClipVision => "clip-vision",
            FileKind::T5 => "t5",
            FileKind::LanguageModel => "language-model",
            FileKind::LoraKohya => "lora-kohya",
            FileKind::LoraPeft => "lora-peft",
            FileKind::Lycoris => "lycoris",
            FileKind::ControlNet => "controlnet",
            FileKind::ControlLora => "control-lora",
            FileKind::T2iAdapter => "t2i-adapter",
            FileKind::IpAdapter => "ip-adapter",
            FileKind::TextualInversion => "textual-inversion",
            FileKind::Hypernetwork => "hypernetwork",
            FileKind::Upscaler => "upscaler",
            FileKind::MotionModule => "motion-module",
            FileKind::SafetyChecker => "safety-checker",
            FileKind::StableVideo => "stable-video-diffusion",
            FileKind::Sd3 => "sd-v3",
            FileKind::Flux => "flux",
            FileKind::AuraFlow => "auraflow",
            FileKind::PixArt => "pixart",
            FileKind::Cascade => "stable-cascade",
            FileKind::Lumina => "lumina",
            FileKind::QwenImage => "qwen-image",
            FileKind::Wan => "wan",
            FileKind::HunyuanDit => "hunyuan-dit",
            FileKind::HunyuanVideo => "hunyuan-video",
            FileKind::LtxVideo => "ltx-video",
            FileKind::Unknown => "unknown",
        }
    }

    /// The name for people, without an article.
    pub fn text(self) -> &'static str {
        match self {
            FileKind::Checkpoint => "Stable Diffusion checkpoint",
            FileKind::Unet => "UNet",
            FileKind::Vae => "VAE",
            FileKind::Vae16 => "VAE with 16 latent channels, as of Flux or SD v3",
            FileKind::OtherVae => "VAE of another model",
            FileKind::Taesd => "TAESD",
            FileKind::VaeApprox => "approximate VAE decoder",
            FileKind::ClipL => "CLIP ViT-L text encoder",
            FileKind::ClipH => "OpenCLIP ViT-H text encoder",
            FileKind::ClipG => "OpenCLIP ViT-bigG text encoder",
            FileKind::Clip => "CLIP text encoder",
            FileKind::ClipVision => "CLIP image encoder",
            FileKind::T5 => "T5 text encoder",
            FileKind::LanguageModel => "language model",
            FileKind::LoraKohya => "LoRA (kohya)",
            FileKind::LoraPeft => "LoRA (PEFT)",
            FileKind::Lycoris => "LyCORIS network",
            FileKind::ControlNet => "ControlNet",
            FileKind::ControlLora => "Control-LoRA",
            FileKind::T2iAdapter => "T2I-Adapter",
            FileKind::IpAdapter => "IP-Adapter",
            FileKind::TextualInversion => "textual inversion",
            FileKind::Hypernetwork => "hypernetwork",
            FileKind::Upscaler => "upscaler",
            FileKind::MotionModule => "AnimateDiff motion module",
            FileKind::SafetyChecker => "safety checker",
            FileKind::StableVideo => "Stable Video Diffusion",
            FileKind::Sd3 => "SD v3 transformer",
            FileKind::Flux => "Flux transformer",
            FileKind::AuraFlow => "AuraFlow transformer",
            FileKind::PixArt => "PixArt transformer",
            FileKind::Cascade => "Stable Cascade",
            FileKind::Lumina => "Lumina transformer",
            FileKind::QwenImage => "Qwen-Image transformer",
            FileKind::Wan => "Wan transformer",
            FileKind::HunyuanDit => "Hunyuan-DiT",
            FileKind::HunyuanVideo => "Hunyuan Video transformer",
            FileKind::LtxVideo => "LTX-Video transformer",
            FileKind::Unknown => "unknown",
        }
    }
}

/// Describes a file for an error message: `LoRA (kohya)`, or `no known keys, such as a, b, c`.
pub fn describe(state_dict: &StateDict) -> String {
    match FileKind::of(state_dict) {
        FileKind::Unknown => {
            let keys: Vec<&str> = state_dict.keys().take(3).collect();
            let keys = if keys.is_empty() { "no tensors".to_owned() } else { keys.join(", ") };
            if state_dict.is_empty() { keys } else { format!("no known keys ({keys})") }
        }
        known => known.text().to_owned(),
    }
}

/// Returns whether a state dict in LDM names has a UNet of Stable Diffusion where WebUI looks for it.
pub(crate) fn is_base(state_dict: &StateDict) -> bool {
    has_sd_unet(state_dict.keys())
}

/// Whether there are all parts of a UNet under `model.diffusion_model.`.
fn has_sd_unet<'a>(keys: impl Iterator<Item = &'a str>) -> bool {
    let [mut input, mut middle, mut output] = [false; 3];
    for key in keys.filter_map(|key| key.strip_prefix("model.diffusion_model.")) {
        input |= key.starts_with("input_blocks.");
        middle |= key.starts_with("middle_block.");
        output |= key.starts_with("output_blocks.");
    }
    input && middle && output
}

/// Returns the prefix under which most keys are those of a VAE; `None` if there are fewer than three.
fn vae_prefix<'a>(keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut found = vae_schema::prefixes(keys);
    found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    found.first().filter(|(_, count)| *count >= 3).map(|(prefix, _)| *prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[&'static str], dims: &[u64]) -> FileKind {
        FileKind::from_keys(&|| Box::new(keys.to_vec().into_iter()), &|_| Some(dims.to_vec()))
    }

    #[test]
    fn names_checkpoints_and_their_parts() {
        let unet =
            ["input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight", "output_blocks.0.0.in_layers.0.bias"];
        assert_eq!(of(&unet, &[4]), FileKind::Unet);
        let prefixed = unet.map(|key| &*format!("model.diffusion_model.{key}").leak());
        assert_eq!(of(&prefixed, &[4]), FileKind::Unet);
        let whole = [&prefixed[..], &["first_stage_model.encoder.conv_in.weight"]].concat();
        assert_eq!(of(&whole, &[4]), FileKind::Checkpoint);
        let diffusers = ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"];
        assert_eq!(of(&diffusers, &[4]), FileKind::Unet);
        let one_file = ["unet.conv_in.weight", "unet.time_embedding.linear_1.weight", "vae.encoder.conv_in.weight"];
        assert_eq!(of(&one_file, &[4]), FileKind::Checkpoint);
    }

    #[test]
    fn names_vaes_by_their_latent_channels() {
        let keys = ["decoder.conv_in.weight", "decoder.conv_out.weight", "encoder.conv_in.weight"];
        assert_eq!(of(&keys, &[512, 4, 3, 3]), FileKind::Vae);
        assert_eq!(of(&keys, &[512, 16, 3, 3]), FileKind::Vae16);
        assert_eq!(of(&keys, &[512, 8, 3, 3]), FileKind::OtherVae);
    }

    #[test]
    fn every_name_is_one_word_and_distinct() {
        let kinds = rules::named().chain([FileKind::Checkpoint, FileKind::Vae, FileKind::ClipL, FileKind::Unknown]);
        let names: std::collections::BTreeSet<&str> = kinds.map(FileKind::name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|it| it.is_ascii_lowercase() || it == b'-' || it.is_ascii_digit()))
        );
        assert!(names.len() > 25, "{names:?}");
    }
}
