use serde_json::{Value, json};

use super::config::{Dims, add, dim, divisor, heads};
use super::definition::Pipeline;
use crate::constants::{GROUPS, HEADS};
use crate::family::{Architecture, Prediction, Task};
use crate::layout::{UnetStructure, shapes};

const CROSS_DOWN: &str = "CrossAttnDownBlock2D";
const CROSS_UP: &str = "CrossAttnUpBlock2D";
const DOWN: &str = "DownBlock2D";
const UP: &str = "UpBlock2D";

/// Returns `config.json` of a UNet2DConditionModel. `projection` is the size of the pooled text of SDXL.
pub(super) fn config(pipeline: &Pipeline<'_>, dims: Dims<'_>, projection: u64) -> Value {
    let architecture = pipeline.architecture;
    let structure = UnetStructure::of(architecture);
    let is_cross = |depths: &[usize]| depths.iter().any(|&depth| depth > 0);
    let up: Vec<&str> = structure.up_depths.iter().map(|depths| if is_cross(depths) { CROSS_UP } else { UP }).collect();
    let mut config = first_half("UNet2DConditionModel", architecture, dims, projection);
    let fields = [
        ("center_input_sample", false.into()),
        ("out_channels", dim(dims, "conv_out.weight", 0, 4).into()),
        ("sample_size", sample_size(pipeline).into()),
        ("up_block_types", up.into()),
    ];
    add(&mut config, fields);
    let reversed = match architecture {
        Architecture::Ssd1b => Some(json!([[4, 4, 10], [2, 1, 1], 1])),
        Architecture::Vega => Some(json!([[2, 2, 2], [1, 1, 1], 1])),
        _ => None,
    };
    if let Some(reversed) = reversed {
        add(&mut config, [("reverse_transformer_layers_per_block", reversed)]);
    }
    config
}

/// Returns the fields of a configuration that a UNet and a ControlNet share: those of the first half of a UNet.
pub(super) fn first_half(class: &str, architecture: Architecture, dims: Dims<'_>, projection: u64) -> Value {
    let structure = UnetStructure::of(architecture);
    let down: Vec<&str> = structure.depths.iter().map(|&depth| if depth > 0 { CROSS_DOWN } else { DOWN }).collect();
    let widths: Vec<u64> = (0..down.len())
        .map(|level| dim(dims, &format!("down_blocks.{level}.resnets.0.conv2.weight"), 0, 320))
        .collect();
    // In diffusers, `attention_head_dim` is the number of heads.
    let attention_heads = match architecture {
        Architecture::Sd1 => json!(divisor(&widths, HEADS)),
        _ => json!(widths.iter().map(|&width| heads(width)).collect::<Vec<_>>()),
    };
    let transformer_layers = match architecture {
        Architecture::Sd1 | Architecture::Sd2 | Architecture::StableVideo => json!(1),
        Architecture::SdxlBase => json!([1, 2, 10]),
        Architecture::SdxlRefiner => json!(4),
        Architecture::Ssd1b => json!([1, [2, 2], [4, 4]]),
        Architecture::Vega => json!([1, [1, 1], [2, 2]]),
    };
    let context = dim(dims, "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1, 768);
    let mut config = json!({
        "_class_name": class,
        "act_fn": "silu",
        "attention_head_dim": attention_heads,
        "block_out_channels": widths,
        "cross_attention_dim": context,
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": dim(dims, "conv_in.weight", 1, 4),
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "mid_block_type": if structure.middle.is_some() { "UNetMidBlock2DCrossAttn" } else { "UNetMidBlock2D" },
        "norm_eps": 1e-5,
        "norm_num_groups": divisor(&widths, GROUPS),
        "transformer_layers_per_block": transformer_layers,
        "use_linear_projection": structure.linear,
    });
    if structure.label {
        let label = dim(dims, "add_embedding.linear_1.weight", 1, 2816);
        let fields = [
            ("addition_embed_type", "text_time".into()),
            ("addition_time_embed_dim", shapes::time_dim(architecture, label, projection).unwrap_or(256).into()),
            ("projection_class_embeddings_input_dim", label.into()),
        ];
        add(&mut config, fields);
    }
    config
}

/// Returns the latent width and height of the last training stage of the published model.
fn sample_size(pipeline: &Pipeline<'_>) -> u64 {
    match (pipeline.architecture, pipeline.task) {
        (Architecture::Sd2, Task::TextToImage) if pipeline.parameterization.prediction != Prediction::Epsilon => 96,
        (architecture, _) if architecture.is_xl() => 128,
        _ => 64,
    }
}
