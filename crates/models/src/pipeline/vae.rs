use serde_json::{Value, json};

use super::config::{Dims, add, dim, divisor};
use crate::constants::GROUPS;
use crate::family::Architecture;
use crate::parameterization::{SDXL_SCALING_FACTOR, VaeConstants};

/// Resolutions of the VAE.
pub(super) const LEVELS: usize = 4;

/// Returns the widths of a VAE, the highest resolution first.
pub(super) fn widths(dims: Dims<'_>) -> Vec<u64> {
    let of_level = |level| dim(dims, &format!("encoder.down_blocks.{level}.resnets.0.conv2.weight"), 0, 128);
    (0..LEVELS).map(of_level).collect()
}

/// Returns `config.json` of an AutoencoderKL.
pub(super) fn config(architecture: Architecture, constants: &VaeConstants, dims: Dims<'_>) -> Value {
    let widths = widths(dims);
    let is_xl = architecture.is_xl() || constants.scaling_factor == SDXL_SCALING_FACTOR;
    let mut config = json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": vec!["DownEncoderBlock2D"; LEVELS],
        "force_upcast": constants.force_upcast,
        "in_channels": dim(dims, "encoder.conv_in.weight", 1, 3),
        "latent_channels": dim(dims, "decoder.conv_in.weight", 1, 4),
        "layers_per_block": 2,
        "norm_num_groups": divisor(&widths, GROUPS),
        "out_channels": dim(dims, "decoder.conv_out.weight", 0, 3),
        "sample_size": if is_xl { 1024 } else { 512 },
        "scaling_factor": constants.scaling_factor,
        "up_block_types": vec!["UpDecoderBlock2D"; LEVELS],
    });
    if let Some(shift) = constants.shift_factor {
        add(&mut config, [("shift_factor", shift.into())]);
    }
    if let (Some(mean), Some(std)) = (&constants.latents_mean, &constants.latents_std) {
        add(&mut config, [("latents_mean", mean.clone().into()), ("latents_std", std.clone().into())]);
    }
    config
}
