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

/// Whether there is a UNet under `model.diffusion_model.`, and not one of videos, whose VAE is another.
fn has_sd_unet<'a>(keys: impl Iterator<Item = &'a str>) -> bool {
    const PARTS: [&str; 3] = ["input_blocks.", "middle_block.", "output_blocks."];
    let mut is_unet = false;
    for key in keys.filter_map(|key| key.strip_prefix("model.diffusion_model.")) {
        is_unet |= PARTS.iter().any(|part| key.starts_with(part));
        if key.contains(".time_stack.") {
            return false;
        }
    }
    is_unet
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
        FileKind::from_keys(&|| Box::new(keys.iter().copied()), &|_| Some(dims.to_vec()))
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

    /// Keys as diffusers 0.35, transformers 4.56, PEFT 0.17 and the original code write them.
    const KEYS: &[(FileKind, &[&str])] = &[
        (
            FileKind::Taesd,
            &["encoder.layers.0.weight", "encoder.layers.1.conv.0.weight", "decoder.layers.3.conv.0.weight"],
        ),
        (FileKind::Taesd, &["1.weight", "1.bias", "3.conv.0.weight", "3.conv.0.bias"]),
        (FileKind::VaeApprox, &["conv1.weight", "conv1.bias", "conv8.weight", "conv8.bias"]),
        (FileKind::OtherVae, &["encoder.conv_in.weight", "quantize.embedding.weight", "decoder.conv_in.weight"]),
        (FileKind::OtherVae, &["encoder.downsamples.0.residual.0.gamma", "decoder.middle.0.residual.0.gamma"]),
        (FileKind::T5, &["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]),
        (FileKind::LanguageModel, &["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"]),
        (FileKind::ClipL, &["text_model.encoder.layers.11.layer_norm1.weight"]),
        (FileKind::ClipL, &["encoder.layers.11.layer_norm1.weight", "embeddings.token_embedding.weight"]),
        (FileKind::ClipH, &["text_model.encoder.layers.22.layer_norm1.weight"]),
        (FileKind::ClipH, &["transformer.resblocks.23.ln_1.weight"]),
        (FileKind::ClipG, &["text_model.encoder.layers.31.layer_norm1.weight"]),
        (FileKind::ClipVision, &["vision_model.encoder.layers.0.layer_norm1.weight", "visual_projection.weight"]),
        (FileKind::LoraKohya, &["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"]),
        (FileKind::LoraKohya, &["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"]),
        (FileKind::LoraPeft, &["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"]),
        (FileKind::LoraPeft, &["mid_block.attentions.0.attn1.processor.to_q_lora.down.weight"]),
        (FileKind::Lycoris, &["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"]),
        (FileKind::Lycoris, &["lora_unet_mid_block_attentions_0_proj_in.lokr_w1"]),
        (FileKind::ControlNet, &["control_model.input_hint_block.0.weight", "control_model.zero_convs.0.0.weight"]),
        (FileKind::ControlNet, &["controlnet_cond_embedding.conv_in.weight", "time_embedding.linear_1.bias"]),
        (FileKind::ControlLora, &["lora_controlnet", "input_hint_block.0.weight"]),
        (FileKind::ControlLora, &["lllite_unet_input_blocks_4_1.down.0.weight"]),
        (FileKind::T2iAdapter, &["adapter.body.0.resnets.0.block1.weight", "adapter.conv_in.weight"]),
        (FileKind::T2iAdapter, &["body.0.block1.weight", "conv_in.weight"]),
        (FileKind::IpAdapter, &["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"]),
        (FileKind::TextualInversion, &["string_to_param.*"]),
        (FileKind::TextualInversion, &["emb_params"]),
        (FileKind::Hypernetwork, &["768.0.linear.0.weight", "768.1.linear.0.weight"]),
        (FileKind::Upscaler, &["conv_first.weight", "body.0.rdb1.conv1.weight"]),
        (FileKind::Upscaler, &["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"]),
        (FileKind::MotionModule, &["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"]),
        (FileKind::Sd3, &["model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias"]),
        (FileKind::Sd3, &["pos_embed.proj.weight", "transformer_blocks.0.norm1_context.linear.weight"]),
        (FileKind::Flux, &["double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"]),
        (
            FileKind::Flux,
            &["transformer_blocks.0.norm1_context.linear.bias", "single_transformer_blocks.0.proj_mlp.bias"],
        ),
        (FileKind::AuraFlow, &["double_layers.0.attn.w1q.weight", "cond_seq_linear.weight"]),
        (FileKind::AuraFlow, &["joint_transformer_blocks.0.attn.to_q.weight", "register_tokens"]),
        (FileKind::PixArt, &["adaln_single.linear.weight", "caption_projection.linear_1.weight"]),
        (FileKind::Cascade, &["clip_txt_pooled_mapper.weight", "down_blocks.0.0.channelwise.0.weight"]),
        (FileKind::Lumina, &["time_caption_embed.caption_embedder.0.weight"]),
        (FileKind::QwenImage, &["transformer_blocks.0.img_mlp.net.0.proj.weight", "txt_norm.weight"]),
        (FileKind::Wan, &["condition_embedder.text_embedder.linear_1.weight", "blocks.0.attn2.to_q.weight"]),
        (FileKind::Wan, &["head.modulation", "blocks.0.cross_attn.q.weight"]),
        (FileKind::HunyuanDit, &["mlp_t5.0.weight", "pooler.k_proj.weight"]),
        (FileKind::HunyuanVideo, &["context_embedder.token_refiner.refiner_blocks.0.norm1.weight"]),
        (
            FileKind::LtxVideo,
            &[
                "proj_in.bias",
                "time_embed.emb.timestep_embedder.linear_1.bias",
                "transformer_blocks.0.scale_shift_table",
            ],
        ),
        (FileKind::StableVideo, &["model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight"]),
        (FileKind::Unknown, &["weight", "bias"]),
    ];

    #[test]
    fn names_each_kind_by_its_keys() {
        for &(kind, keys) in KEYS {
            assert_eq!(of(keys, &[3, 3]), kind, "{keys:?}");
        }
        assert_eq!(of(&["<cat>"], &[768]), FileKind::TextualInversion);
        assert_eq!(of(&["clip_g", "clip_l"], &[3, 1280]), FileKind::TextualInversion);
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
