//! The model that an adapter is for, by the names and sizes of the layers that it adapts.

use super::model::Model;
use super::rules::diffusion;
use super::view::View;
use super::{FileKind, Found, encoders};

/// Returns the model that an adapter of this kind is for, and more about it.
pub(super) fn base(kind: FileKind, view: &View<'_>) -> Found {
    let found = |model| Found::new(kind, model);
    match kind {
        FileKind::ControlNet | FileKind::ControlNetUnion | FileKind::ControlLora | FileKind::Gligen => {
            found(control_base(view))
        }
        FileKind::T2iAdapter => found(match view.dim("conv_in.weight", 1) {
            Some(64 | 192) => Some(Model::Sd1),
            Some(256 | 768) => Some(Model::SdxlBase),
            _ => None,
        }),
        FileKind::IpAdapter => ip_adapter(view),
        FileKind::InstantId => found(Some(Model::SdxlBase)),
        FileKind::PuLid => found(Some(if view.has("pulid_ca.") { Model::Flux } else { Model::SdxlBase })),
        FileKind::StyleModel if view.has("redux_up.") => found(Some(Model::Redux)),
        FileKind::TextualInversion => {
            let widths: Vec<u64> = view.iter().filter_map(|(_, dims)| dims.last().copied()).collect();
            found(encoders::of_widths(&widths))
        }
        FileKind::MotionModule | FileKind::MotionLora => motion(kind, view),
        FileKind::PhotoMaker => found(Some(Model::SdxlBase)),
        FileKind::Loha | FileKind::Lokr if view.keys().any(|key| key.ends_with(".dora_scale")) => {
            found(network_base(view)).with("DoRA")
        }
        _ if kind.is_adapter() || kind == FileKind::ControlNetLllite => found(network_base(view)),
        _ => found(None),
    }
}

/// The model with this width of text.
fn of_text_width(width: u64) -> Option<Model> {
    match width {
        768 => Some(Model::Sd1),
        1024 => Some(Model::Sd2),
        2048 => Some(Model::SdxlBase),
        1280 => Some(Model::SdxlRefiner),
        _ => None,
    }
}

fn control_base(view: &View<'_>) -> Option<Model> {
    if view.has("controlnet_blocks.0.y_rms.") || view.has("controlnet_blocks.0.x_rms.") {
        return Some(Model::QwenImage);
    }
    if view.has("controlnet_patch_embedding.") {
        return Some(Model::Wan);
    }
    if view.has("control_all_x_embedder.") || view.has("control_noise_refiner.0.") {
        return Some(Model::ZImage);
    }
    if let Some((model, _)) = diffusion::RULES.iter().find(|(_, parts)| view.holds(parts)) {
        return Some(match model {
            Model::FluxDev | Model::FluxSchnell | Model::FluxControl | Model::FluxFill => Model::Flux,
            known => *known,
        });
    }
    if view.has("transformer_blocks.0.norm1_context.") || view.has("transformer_blocks.0.attn.add_k_proj.") {
        let is_flux = view.has("controlnet_x_embedder.") || view.has("single_transformer_blocks.0.");
        return Some(if is_flux { Model::Flux } else { Model::Sd3 });
    }
    if view.has("label_emb.") || view.has("add_embedding.") || view.blocks("input_blocks.7.1.transformer_blocks.") > 1 {
        return Some(Model::SdxlBase);
    }
    let text = |(key, dims): (&str, &[u64])| {
        let is_text = key.ends_with("attn2.to_k.weight") || key.ends_with("attn2.to_k.down");
        if is_text { of_text_width(dims.get(1).copied()?) } else { None }
    };
    view.iter().find_map(text)
}

fn ip_adapter(view: &View<'_>) -> Found {
    let width = view.iter().find(|(key, _)| key.ends_with("to_k_ip.weight")).and_then(|(_, dims)| dims.get(1).copied());
    let model = match width {
        _ if view.keys().any(|key| key.contains("double_stream")) => Some(Model::Flux),
        Some(4096) => Some(Model::Flux),
        Some(width) => of_text_width(width).filter(|model| *model != Model::SdxlRefiner),
        None => None,
    };
    // Its image encoder is a ViT-L; that of the adapters for SDXL is a ViT-H.
    let is_kolors = view.dim("image_proj.proj_in.weight", 1) == Some(1024);
    let model = if is_kolors && model == Some(Model::SdxlBase) { Some(Model::Kolors) } else { model };
    let found = Found::new(FileKind::IpAdapter, model);
    match () {
        () if view.keys().any(|key| key.contains(".lora") || key.contains("_lora.")) => found.with("FaceID"),
        () if view.has("image_proj.latents") => found.with("Plus"),
        () if view.has("image_proj.proj.3.") || view.has("image_proj.proj.0.") => found.with("full face"),
        () => found,
    }
}

fn motion(kind: FileKind, view: &View<'_>) -> Found {
    let has_up_3 = view.keys().any(|key| key.contains("up_blocks.3."));
    let model = if has_up_3 || kind == FileKind::MotionLora { Model::Sd1 } else { Model::SdxlBase };
    let found = Found::new(kind, Some(model));
    let frames =
        view.iter().find(|(key, _)| key.ends_with("pos_encoder.pe")).and_then(|(_, dims)| dims.get(1).copied());
    match (kind, frames) {
        (FileKind::MotionModule, _) if view.keys().any(|key| key.contains("mid_block.")) => found.with("v2"),
        (FileKind::MotionModule, Some(24)) => found.with("v1"),
        (FileKind::MotionModule, Some(32)) if has_up_3 => found.with("v3"),
        _ => found,
    }
}

/// The model that a LoRA or a LyCORIS network is for. Trainers write the names of layers with `.` or `_`.
fn network_base(view: &View<'_>) -> Option<Model> {
    let names: Vec<(String, &[u64])> = view.iter().map(|(key, dims)| (key.replace('.', "_"), dims)).collect();
    let has = |part: &str| names.iter().any(|(name, _)| name.contains(part));
    let blocks = |part: &str| {
        let number = |name: &str| {
            let rest = name.get(name.find(part)? + part.len()..)?;
            rest.split('_').next()?.parse::<usize>().ok()
        };
        names.iter().filter_map(|(name, _)| number(name)).max().map_or(0, |last| last.saturating_add(1))
    };
    // The width of what goes into a layer: the second dimension of its first matrix.
    let width = |part: &str| {
        let is_first =
            |name: &str| ["lora_down", "lora_A", "lora_linear_layer_down"].iter().any(|it| name.contains(it));
        let found =
            names.iter().find(|(name, _)| name.contains(part) && (is_first(name) || name.contains("_lora_down")));
        found.and_then(|(_, dims)| dims.get(1).copied())
    };
    let of_text_encoder = || match blocks("lora_te_text_model_encoder_layers_") {
        12 => Some(Model::Sd1),
        23 | 24 => Some(Model::Sd2),
        _ => None,
    };
    if has("lllite_unet_") {
        return Some(Model::SdxlBase);
    }
    if has("prior_unet") || has("clip_txt") {
        return Some(Model::CascadeC);
    }
    if has("single_stream_modulation") || has("double_stream_modulation") || has("to_qkv_mlp_proj") {
        return Some(Model::Flux2);
    }
    if has("individual_token_refiner") || has("token_refiner") {
        return Some(Model::HunyuanVideo);
    }
    if has("double_stream_blocks") {
        return Some(Model::HiDream);
    }
    if has("double_blocks_") || (has("single_blocks_") && has("linear1")) {
        let (double, single) = (blocks("double_blocks_"), blocks("single_blocks_"));
        return Some(match () {
            () if has("distilled_guidance_layer") => Model::Chroma,
            () if double == 20 || single > 48 => Model::HunyuanVideo,
            () if single == 48 || (double == 8 && matches!(single, 24 | 0)) => Model::Flux2,
            () if single > 38 => Model::HunyuanVideo,
            () => Model::Flux,
        });
    }
    if has("joint_transformer_blocks_") || has("double_layers_") {
        return Some(Model::AuraFlow);
    }
    if has("joint_blocks_") {
        return Some(Model::Sd3);
    }
    if has("single_transformer_blocks_") {
        return Some(Model::Flux);
    }
    if has("img_mlp") || has("txt_mlp") || has("img_mod") {
        return Some(Model::QwenImage);
    }
    const UNET: &[&str] =
        &["down_blocks_", "up_blocks_", "mid_block_", "input_blocks_", "output_blocks_", "middle_block_"];
    if UNET.iter().any(|part| has(part)) {
        if let Some(model) = width("attn2_to_k_").or_else(|| width("attn2_processor_to_k_")).and_then(of_text_width) {
            return Some(model);
        }
        let is_deep = names.iter().any(|(name, _)| name.contains("_transformer_blocks_1_"));
        if is_deep || has("lora_te2_") || has("text_encoder_2_") || has("lora_unet_input_blocks_") {
            return Some(Model::SdxlBase);
        }
        return Some(of_text_encoder().unwrap_or(Model::Sd1Or2));
    }
    if has("transformer_blocks_") && has("add_k_proj") {
        return Some(if blocks("transformer_blocks_") > 38 { Model::QwenImage } else { Model::Sd3 });
    }
    if has("ref_image_refiner_") {
        return Some(Model::OmniGen2);
    }
    if has("layers_0_attention") || has("noise_refiner_") {
        let is_z = has("adaLN_modulation_0") || width("attention_") == Some(3840) || blocks("layers_") > 26;
        return Some(if is_z { Model::ZImage } else { Model::Lumina2 });
    }
    if has("cross_attn") && has("llm_adapter") {
        return Some(Model::Anima);
    }
    if has("blocks_0_self_attn") || has("blocks_0_cross_attn") {
        return Some(if has("self_attn_q_proj") { Model::CosmosPredict2 } else { Model::Wan });
    }
    if has("transformer_blocks_0_attn1") {
        return match width("attn1_to_q_") {
            Some(1152) => Some(Model::PixArt),
            Some(2240 | 1120) => Some(Model::Sana),
            _ => Some(Model::LtxVideo),
        };
    }
    if has("blocks_0_attn1") {
        return Some(if has("attn2_kv_proj") || has("Wqkv") { Model::HunyuanDit } else { Model::Wan });
    }
    if has("lora_te2_") {
        return Some(Model::SdxlBase);
    }
    of_text_encoder()
}
