//! The configurations of Stable Video Diffusion, with the fields of the published folders of img2vid-xt.

use serde_json::{Value, json};

use super::config::{Dims, dim, heads};
use super::vae;
use crate::family::Architecture;
use crate::layout::shapes;
use crate::parameterization::VaeConstants;

/// The frames of a video. img2vid has 14, img2vid-xt 25, and no tensor shows which.
pub(crate) const FRAMES: u64 = 25;

/// Returns `config.json` of a UNetSpatioTemporalConditionModel.
pub(super) fn unet(dims: Dims<'_>) -> Value {
    const LEVELS: usize = 4;
    let widths: Vec<u64> = (0..LEVELS)
        .map(|level| dim(dims, &format!("down_blocks.{level}.resnets.0.spatial_res_block.conv2.weight"), 0, 320))
        .collect();
    let (cross_down, cross_up) = ("CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal");
    let label = dim(dims, "add_embedding.linear_1.weight", 1, 768);
    json!({
        "_class_name": "UNetSpatioTemporalConditionModel",
        "addition_time_embed_dim": shapes::time_dim(Architecture::StableVideo, label, 0).unwrap_or(256),
        "block_out_channels": widths,
        "cross_attention_dim": dim(dims, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1, 1024),
        "down_block_types": [cross_down, cross_down, cross_down, "DownBlockSpatioTemporal"],
        "in_channels": dim(dims, "conv_in.weight", 1, 8),
        "layers_per_block": 2,
        "num_attention_heads": widths.iter().map(|&width| heads(width)).collect::<Vec<_>>(),
        "num_frames": FRAMES,
        "out_channels": dim(dims, "conv_out.weight", 0, 4),
        "projection_class_embeddings_input_dim": label,
        "sample_size": 96,
        "transformer_layers_per_block": 1,
        "up_block_types": ["UpBlockSpatioTemporal", cross_up, cross_up, cross_up],
    })
}

/// Returns `config.json` of an AutoencoderKLTemporalDecoder.
pub(super) fn vae(constants: &VaeConstants, dims: Dims<'_>) -> Value {
    json!({
        "_class_name": "AutoencoderKLTemporalDecoder",
        "block_out_channels": vae::widths(dims),
        "down_block_types": vec!["DownEncoderBlock2D"; vae::LEVELS],
        "force_upcast": constants.force_upcast,
        "in_channels": dim(dims, "encoder.conv_in.weight", 1, 3),
        "latent_channels": dim(dims, "decoder.conv_in.weight", 1, 4),
        "layers_per_block": 2,
        "out_channels": dim(dims, "decoder.conv_out.weight", 0, 3),
        "sample_size": 768,
        "scaling_factor": constants.scaling_factor,
    })
}

/// The width of a patch of ViT-H.
const PATCH: u64 = 14;

/// Returns the width and height of the pictures that an image encoder takes: 224 in the published one.
pub(super) fn picture_size(dims: Dims<'_>) -> u64 {
    let positions = dim(dims, "vision_model.embeddings.position_embedding.weight", 0, 257);
    // One of the positions is that of the class.
    positions.saturating_sub(1).isqrt() * dim(dims, "vision_model.embeddings.patch_embedding.weight", 3, PATCH)
}

/// Returns `config.json` of a CLIPVisionModelWithProjection, or of a CLIPVisionModel without a projection. `activation` is
/// that of its MLPs, which no tensor shows.
pub(crate) fn image_encoder(dims: Dims<'_>, activation: &str) -> Value {
    let width = dim(dims, "vision_model.post_layernorm.weight", 0, 1280);
    let has_layer = |layer: &usize| dims(&format!("vision_model.encoder.layers.{layer}.layer_norm1.weight")).is_some();
    let projection = dims("visual_projection.weight").is_some();
    let class = if projection { "CLIPVisionModelWithProjection" } else { "CLIPVisionModel" };
    json!({
        "architectures": [class],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": activation,
        "hidden_size": width,
        "image_size": picture_size(dims),
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": dim(dims, "vision_model.encoder.layers.0.mlp.fc1.weight", 0, 4 * width),
        "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model",
        "num_attention_heads": vision_heads(width),
        "num_channels": dim(dims, "vision_model.embeddings.patch_embedding.weight", 1, 3),
        "num_hidden_layers": crate::layout::count(has_layer),
        "patch_size": dim(dims, "vision_model.embeddings.patch_embedding.weight", 3, PATCH),
        "projection_dim": dim(dims, "visual_projection.weight", 0, 1024),
    })
}

/// Returns the number of attention heads of an image encoder: of size 80 in ViT-H, of size 64 in ViT-L and narrow ones.
pub(crate) fn vision_heads(width: u64) -> u64 {
    const SIZE: u64 = 80;
    match width {
        // ViT-g and ViT-bigG.
        1408 | 1664 => 16,
        0 => 1,
        _ if width.is_multiple_of(SIZE) => width / SIZE,
        _ => heads(width),
    }
}

/// Returns `preprocessor_config.json` of a CLIPImageProcessor for pictures of this width and height.
pub(super) fn feature_extractor(size: u64) -> Value {
    json!({
        "crop_size": { "height": size, "width": size },
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": { "shortest_edge": size },
    })
}
