//! The keys of each kind of file.

use super::FileKind;

/// Yields the keys of a file.
pub(super) type Keys<'a, 'b> = &'b dyn Fn() -> Box<dyn Iterator<Item = &'a str> + 'a>;

/// A part of a key.
#[derive(Debug, Clone, Copy)]
enum Part {
    Start(&'static str),
    Within(&'static str),
    End(&'static str),
}

use Part::{End, Start, Within};

impl Part {
    fn is_in(self, key: &str) -> bool {
        match self {
            Start(part) => key.starts_with(part),
            Within(part) => key.contains(part),
            End(part) => key.ends_with(part),
        }
    }
}

/// A kind, and parts of its keys: each must be in some key of the file.
type Rule = (FileKind, &'static [Part]);

/// The first rule that holds decides, so that more specific ones come first: a LoRA of Flux has names of Flux in its
/// keys.
const RULES: &[Rule] = &[
    // Networks that adapt other networks.
    (FileKind::ControlLora, &[Start("lora_controlnet")]),
    (FileKind::ControlLora, &[Start("lllite_")]),
    (FileKind::Lycoris, &[Within(".hada_w1_a")]),
    (FileKind::Lycoris, &[Within(".lokr_w1")]),
    (FileKind::Lycoris, &[Within(".lokr_w2")]),
    (FileKind::Lycoris, &[Start("lora_"), Within(".oft_")]),
    (FileKind::Lycoris, &[Start("oft_")]),
    (FileKind::Lycoris, &[Start("lycoris_")]),
    (FileKind::Lycoris, &[Start("lora_"), End(".diff")]),
    (FileKind::LoraKohya, &[Within(".lora_down.weight")]),
    (FileKind::LoraKohya, &[Start("lora_unet_")]),
    (FileKind::LoraKohya, &[Start("lora_te")]),
    (FileKind::LoraPeft, &[Within(".lora_A.")]),
    (FileKind::LoraPeft, &[Within("lora.down.weight")]),
    (FileKind::LoraPeft, &[Within(".lora_linear_layer.")]),
    (FileKind::LoraPeft, &[Within(".lora_magnitude_vector")]),
    (FileKind::IpAdapter, &[Within("to_k_ip.weight")]),
    (FileKind::IpAdapter, &[Start("ip_adapter.")]),
    (FileKind::IpAdapter, &[Start("image_proj.")]),
    (FileKind::ControlNet, &[Within("input_hint_block.0.weight")]),
    (FileKind::ControlNet, &[Within("controlnet_cond_embedding.")]),
    (FileKind::ControlNet, &[Start("controlnet_")]),
    (FileKind::ControlNet, &[Start("control_model.")]),
    (FileKind::ControlNet, &[Within("controlnet_blocks.0.")]),
    (FileKind::T2iAdapter, &[Start("adapter.body.0.")]),
    (FileKind::T2iAdapter, &[Start("body.0.block1."), Start("conv_in.")]),
    (FileKind::T2iAdapter, &[Start("body.0.resnets.0.block1.")]),
    (FileKind::MotionModule, &[Within("motion_modules.0.")]),
    (FileKind::TextualInversion, &[Start("string_to_param")]),
    (FileKind::TextualInversion, &[Start("emb_params")]),
    (FileKind::SafetyChecker, &[Start("concept_embeds")]),
    // UNets and checkpoints of Stable Diffusion in other names.
    (FileKind::StableVideo, &[Within("input_blocks.1.0.time_stack.in_layers.0.weight")]),
    (FileKind::StableVideo, &[Within("temporal_res_block.conv1.weight"), Within("time_embedding.linear_1.weight")]),
    (FileKind::Checkpoint, &[Within("unet.time_embedding.linear_1.weight"), Within("unet.conv_in.weight")]),
    (FileKind::Checkpoint, &[Start("unet/"), Start("vae/")]),
    (
        FileKind::Unet,
        &[Within("input_blocks.0.0.weight"), Within("output_blocks.0.0.in_layers.0."), Within("middle_block.0.")],
    ),
    (
        FileKind::Unet,
        &[Within("conv_in.weight"), Within("down_blocks.0.resnets.0."), Within("time_embedding.linear_1.")],
    ),
    // Transformers and their kin.
    (FileKind::HunyuanVideo, &[Within("txt_in.individual_token_refiner.")]),
    (FileKind::HunyuanVideo, &[Within("context_embedder.token_refiner.")]),
    (FileKind::Sd3, &[Within("joint_blocks.0.context_block.")]),
    (FileKind::Flux, &[Within("double_blocks.0.img_attn.")]),
    (FileKind::Flux, &[Within("single_transformer_blocks.0.proj_mlp."), Within("transformer_blocks.0.norm1_context.")]),
    (FileKind::AuraFlow, &[Within("double_layers.0."), Within("cond_seq_linear.")]),
    (FileKind::AuraFlow, &[Within("joint_transformer_blocks.0."), Within("register_tokens")]),
    (FileKind::Sd3, &[Within("transformer_blocks.0.norm1_context."), Within("pos_embed.proj.")]),
    (FileKind::QwenImage, &[Within("transformer_blocks.0.img_mlp."), Within("txt_norm.")]),
    (FileKind::LtxVideo, &[Within("patchify_proj."), Within("adaln_single.")]),
    (
        FileKind::LtxVideo,
        &[Within("adaln_single."), Start("proj_in."), Within("transformer_blocks.0.scale_shift_table")],
    ),
    (FileKind::PixArt, &[Within("adaln_single."), Within("caption_projection.")]),
    (FileKind::PixArt, &[Within("t_block.1."), Within("y_embedder.")]),
    (FileKind::Cascade, &[Within("clip_txt_pooled_mapper.")]),
    (FileKind::Cascade, &[Within("effnet_mapper.0.")]),
    (FileKind::Cascade, &[Within("channelwise.0."), Within("down_blocks.0.0.")]),
    (FileKind::Lumina, &[Within("cap_embedder."), Within("noise_refiner.0.")]),
    (FileKind::Lumina, &[Within("cap_embedder."), Within("layers.0.attention.")]),
    (FileKind::Lumina, &[Within("time_caption_embed.caption_embedder.")]),
    (FileKind::HunyuanDit, &[Within("mlp_t5.0."), Within("pooler.")]),
    (FileKind::HunyuanDit, &[Within("text_embedding_padding")]),
    (FileKind::Wan, &[Within("head.modulation"), Within("blocks.0.cross_attn.")]),
    (FileKind::Wan, &[Within("condition_embedder.text_embedder."), Within("blocks.0.attn2.")]),
    // Text and image encoders.
    (FileKind::T5, &[Within("encoder.block.0.layer.0.SelfAttention.q.")]),
    (FileKind::T5, &[Within("enc.blk.0.attn_q.")]),
    (FileKind::LanguageModel, &[Within("layers.0.self_attn.q_proj."), Within("layers.0.mlp.gate_proj.")]),
    (FileKind::ClipVision, &[Start("vision_model.")]),
    (FileKind::ClipVision, &[Start("visual.")]),
    // Autoencoders.
    (FileKind::OtherVae, &[Within("quantize.embedding.weight")]),
    (FileKind::OtherVae, &[Within("decoder.up_blocks.0.resnets.0.temporal_res_block.")]),
    (FileKind::OtherVae, &[Within("decoder.middle.0.residual.0."), Within("encoder.downsamples.0.")]),
    (FileKind::OtherVae, &[Within("decoder.conv_in.conv.")]),
    (FileKind::Taesd, &[Start("taesd_")]),
    (FileKind::Taesd, &[Within("coder.layers.1.conv.0.weight")]),
    (FileKind::Taesd, &[Within("decoder.layers.3.conv.0.weight")]),
    (FileKind::Taesd, &[Start("1.conv.0.weight"), Start("0.weight")]),
    (FileKind::Taesd, &[Start("3.conv.0.weight"), Start("1.weight")]),
    (FileKind::Taesd, &[Start("encoder.1.conv.0.weight")]),
    (FileKind::Taesd, &[Start("decoder.3.conv.0.weight")]),
    (FileKind::VaeApprox, &[Start("conv1.weight"), Start("conv8.weight")]),
    // Upscalers.
    (FileKind::Upscaler, &[Within("RDB1.conv1.0.weight")]),
    (FileKind::Upscaler, &[Within("rdb1.conv1.weight")]),
    (FileKind::Upscaler, &[Within("RDB1.conv1.weight")]),
    (FileKind::Upscaler, &[Within("conv_first.weight"), Within("residual_group.")]),
    (FileKind::Upscaler, &[Within("conv_first.weight"), Within("conv_after_body.")]),
    (FileKind::Upscaler, &[Within("conv_first.weight"), Within("upsample.0.")]),
    (FileKind::Upscaler, &[Within("relative_position_bias_table"), Within("conv_after_body.")]),
    (FileKind::Upscaler, &[Within("body.0.weight"), Within("body.1.weight"), Within("body.2.weight")]),
    (FileKind::Hypernetwork, &[Start("768.0.linear")]),
    (FileKind::Hypernetwork, &[Start("320.0.linear")]),
    (FileKind::Hypernetwork, &[Start("640.0.linear")]),
    (FileKind::Hypernetwork, &[Start("1024.0.linear")]),
    (FileKind::Hypernetwork, &[Start("1280.0.linear")]),
];

/// Returns the kind of the first rule that holds.
pub(super) fn named_by(keys: Keys<'_, '_>) -> Option<FileKind> {
    let holds = |parts: &[Part]| parts.iter().all(|part| keys().any(|key| part.is_in(key)));
    RULES.iter().find(|(_, parts)| holds(parts)).map(|&(kind, _)| kind)
}

/// The layer count of each text encoder. The folders of SD v2 hold 23 of the 24 layers of ViT-H.
fn of_layers(layers: usize) -> FileKind {
    match layers {
        12 => FileKind::ClipL,
        23 | 24 => FileKind::ClipH,
        32 => FileKind::ClipG,
        _ => FileKind::Clip,
    }
}

/// Names a CLIP text encoder by its layer count.
pub(super) fn clip(keys: Keys<'_, '_>) -> Option<FileKind> {
    let layer = |key: &str, start: &str, end: &str| {
        let (layer, rest) = key.split_once(start)?.1.split_once('.')?;
        (rest == end).then(|| layer.parse::<usize>().ok())?
    };
    let last = keys().filter_map(|key| {
        layer(key, "encoder.layers.", "layer_norm1.weight")
            .or_else(|| layer(key, "transformer.resblocks.", "ln_1.weight"))
    });
    last.max().map(|last| of_layers(last.saturating_add(1)))
}

/// The most tensors of a textual inversion: two for SDXL, one per token in diffusers.
const MOST_EMBEDDINGS: usize = 4;

/// Recognizes a textual inversion in a file of few tensors by their width, which is that of a text encoder.
pub(super) fn embedding(keys: Keys<'_, '_>, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Option<FileKind> {
    let is_embedding = |key: &str| match dims(key).as_deref() {
        Some([768 | 1024 | 1280]) => true,
        Some([vectors, 768 | 1024 | 1280]) => *vectors <= 128,
        _ => false,
    };
    let is_one = keys().take(MOST_EMBEDDINGS + 1).count() <= MOST_EMBEDDINGS && keys().next().is_some();
    (is_one && keys().all(is_embedding)).then_some(FileKind::TextualInversion)
}

/// The kinds that a rule names.
#[cfg(test)]
pub(super) fn named() -> impl Iterator<Item = FileKind> {
    RULES.iter().map(|&(kind, _)| kind)
}
