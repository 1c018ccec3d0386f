use serde_json::Value;

use super::config::{Dims, add, dim};
use super::definition::Pipeline;
use super::unet;

/// Returns `config.json` of a ControlNetModel. Whether its outputs are averaged over the picture, as those of the published
/// shuffle model are, no tensor shows.
pub(super) fn config(pipeline: &Pipeline<'_>, dims: Dims<'_>) -> Value {
    let in_hint =
        |layer: &str, axis, published| dim(dims, &format!("controlnet_cond_embedding.{layer}.weight"), axis, published);
    let widths = [
        in_hint("conv_in", 0, 16),
        in_hint("blocks.1", 0, 32),
        in_hint("blocks.3", 0, 96),
        in_hint("blocks.5", 0, 256),
    ];
    // The projection of SDXL's second text encoder, which the ControlNet lacks.
    let mut config = unet::first_half("ControlNetModel", pipeline.architecture, dims, 1280);
    let fields = [
        ("conditioning_channels", in_hint("conv_in", 1, 3).into()),
        ("conditioning_embedding_out_channels", widths.to_vec().into()),
        ("controlnet_conditioning_channel_order", "rgb".into()),
        ("global_pool_conditions", false.into()),
    ];
    add(&mut config, fields);
    config
}
