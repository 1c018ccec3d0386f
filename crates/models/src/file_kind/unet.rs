//! Tells the models with Stable Diffusion's UNet apart.

use super::model::Model;
use super::view::View;
use crate::detection::{Detection, detect_by};
use crate::family::Architecture;

/// What a UNet is, whatever its names.
pub(super) struct Unet {
    /// The model; `None` if the keys do not tell.
    pub model: Option<Model>,
}

/// Returns whether a file has a UNet in the names of the original code or of diffusers.
pub(super) fn is_unet(unet: &View<'_>) -> bool {
    let has_all = |parts: &[&str]| parts.iter().all(|part| unet.has(part));
    let is_ldm = (unet.has("input_blocks.") && (unet.has("output_blocks.") || unet.has("middle_block.")))
        || has_all(&["input_blocks.0.0.weight", "time_embed.0."]);
    let is_diffusers = has_all(&["conv_in.", "down_blocks.0.resnets.0.", "time_embedding.linear_1."])
        && (unet.has("up_blocks.") || unet.has("conv_norm_out.") || !unet.has("controlnet"));
    is_ldm || is_diffusers
}

/// Names the model of a UNet. `whole` has the other tensors of the file, which mark some models.
pub(super) fn model(unet: &View<'_>, whole: &View<'_>) -> Unet {
    Unet { model: kin(unet, whole).or_else(|| architecture_model(unet, whole)) }
}

/// Models that differ from the four architectures by a key or by the number of their blocks.
fn kin(unet: &View<'_>, whole: &View<'_>) -> Option<Model> {
    let label = unet.dim("label_emb.0.0.weight", 1).or_else(|| unet.dim("add_embedding.linear_1.weight", 1));
    if unet.has("input_blocks.1.0.time_stack.") || unet.has("down_blocks.0.resnets.0.temporal_res_block.") {
        let is_3d = matches!(label, Some(256 | 1280));
        return Some(if is_3d { Model::Sv3d } else { Model::StableVideo });
    }
    if unet.has("down_blocks.0.temp_convs.0.") {
        return Some(Model::TextToVideo);
    }
    if unet.has("input_blocks.1.0.temopral_conv.") {
        // That of ModelScope has no text encoder and no VAE beside it, and embeds no frame rate.
        let is_crafter = ["init_attn.", "fps_embedding.", "framestride_embed."].iter().any(|part| unet.has(part));
        return Some(if is_crafter { Model::VideoCrafter } else { Model::TextToVideo });
    }
    let marks = [
        ("camera_embed.", Model::MvDream),
        ("project_modules.", Model::Supir),
        ("structcond_stage_model.", Model::StableSr),
        ("edm_vpred.sigma_max", Model::CosXl),
        ("edm_mean", Model::Playground25),
        ("cc_projection.", Model::Zero123),
        ("cond_stage_model.roberta.", Model::AltDiffusion),
        ("noise_augmentor.", Model::Sd2Unclip),
        ("embedder.model.", Model::Sd2Unclip),
        ("encoder_hid_proj.image_embeds.", Model::Kandinsky2),
        ("add_embedding.image_norm.", Model::Kandinsky2),
        ("add_embedding.image_proj.", Model::Kandinsky2),
        ("down_blocks.0.attentions.0.add_k_proj.", Model::DeepFloyd),
        ("down_blocks.1.attentions.0.add_k_proj.", Model::DeepFloyd),
        ("encoder_hid_proj.weight", Model::Kolors),
    ];
    if let Some((_, model)) = marks.iter().find(|(part, _)| whole.has(part)) {
        return Some(*model);
    }
    let channels = unet.dim("input_blocks.0.0.weight", 1).or_else(|| unet.dim("conv_in.weight", 1));
    if channels == Some(7) && (unet.has("label_emb.weight") || unet.has("class_embedding.weight")) {
        return Some(Model::SdX4Upscaler);
    }
    if label == Some(5632) {
        return Some(Model::Kolors);
    }
    let class = label.or_else(|| unet.dim("class_embedding.linear_1.weight", 1));
    if class == Some(4) {
        return Some(Model::Lotus);
    }
    if unet.has("class_embedding.linear_1.") || matches!(label, Some(1536 | 2048)) {
        return Some(Model::Sd2Unclip);
    }
    // The number of transformer blocks at the second and third resolution, and whether the middle has some. SDXL has 2
    // and 10.
    let ldm = |level: &str| unet.blocks(&format!("input_blocks.{level}.1.transformer_blocks."));
    let diffusers = |level: &str| unet.blocks(&format!("down_blocks.{level}.attentions.0.transformer_blocks."));
    let depths = (ldm("4").max(diffusers("1")), ldm("7").max(diffusers("2")));
    let middle = unet.has("middle_block.1.transformer_blocks.") || unet.has("mid_block.attentions.0.");
    match (depths, middle) {
        ((2, 4), false) => Some(Model::Ssd1b),
        ((1, 2), false) => Some(Model::Vega),
        ((2, 5), false) | ((2, 6), _) => Some(Model::Koala),
        _ if label.is_none() && is_compressed(unet) => Some(Model::BkSdm),
        _ => None,
    }
}

/// Returns whether a UNet of SD v1 or v2 lacks a residual block in each resolution, or the middle.
fn is_compressed(unet: &View<'_>) -> bool {
    let diffusers = unet.has("down_blocks.1.resnets.0.") && !unet.has("down_blocks.1.resnets.1.");
    diffusers && unet.has("down_blocks.0.attentions.0.") && unet.has("up_blocks.1.")
}

fn architecture_model(unet: &View<'_>, whole: &View<'_>) -> Option<Model> {
    Some(match detect(unet).candidates().as_slice() {
        // SD-Turbo stores its text encoder as SDXL does.
        [Architecture::Sd2] if whole.has("conditioner.embedders.0.model.") => Model::SdTurbo,
        [Architecture::Sd1] => Model::Sd1,
        [Architecture::Sd2] => Model::Sd2,
        [Architecture::SdxlBase] => Model::SdxlBase,
        [Architecture::SdxlRefiner] => Model::SdxlRefiner,
        [Architecture::Sd1, Architecture::Sd2] => Model::Sd1Or2,
        _ => return None,
    })
}

fn detect(unet: &View<'_>) -> Detection {
    // The keys of a bare UNet, as detection looks for them.
    let prefix = ["input_blocks.0.0.weight", "conv_in.weight"].iter().find_map(|first| {
        unet.keys().find_map(|key| key.strip_suffix(first).filter(|it| it.is_empty() || it.ends_with(['.', '/'])))
    });
    let prefix = prefix.unwrap_or_default();
    let tensors: std::collections::HashMap<&str, &[u64]> =
        unet.iter().filter_map(|(key, dims)| Some((key.strip_prefix(prefix)?, dims))).collect();
    detect_by(&|key| tensors.get(key).map(|dims| dims.to_vec()))
}
