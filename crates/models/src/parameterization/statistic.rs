//! ComfyUI's judgement of SD v2: the biases of the last attention's first norm vary more in models with v-prediction.

use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, Overflow};

use super::claim::{Claim, Mark, MarkSource};
use crate::family::Prediction;

/// The norm, in the names of the original code after the prefix of the UNet, and in those of diffusers.
const NORMS: &[&str] = &[
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "unet/up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
    "unet.up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
];

/// The standard deviation above which a model predicts v.
const THRESHOLD: f64 = 0.09;

/// The most elements of the norm that are read (320 in the published models).
const MOST_ELEMENTS: u64 = 1 << 16;

/// Judges an SD v2 UNet with 4 input channels by one small tensor. `None` if it lacks that tensor, or if its values are
/// NaN or infinite.
pub(crate) fn judge(state_dict: &StateDict) -> Result<Option<Mark>> {
    let Some((key, tensor)) = NORMS.iter().find_map(|&key| Some((key, state_dict.get(key)?))) else { return Ok(None) };
    let elements = tensor.shape().elements();
    if !tensor.dtype().is_float() || elements == 0 || elements > MOST_ELEMENTS {
        return Ok(None);
    }
    let singles =
        tensor.clone().cast(Dtype::F32, Overflow::Saturate)?.to_bytes().map_err(|error| error.in_tensor(key))?;
    let values = || singles.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let count = elements as f64;
    let mean = values().sum::<f64>() / count;
    // torch.std with unbiased=False.
    let deviation = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    if !deviation.is_finite() {
        return Ok(None);
    }
    let prediction = if deviation > THRESHOLD { Prediction::Velocity } else { Prediction::Epsilon };
    let place = format!("standard deviation {deviation:.3} of {key}");
    Ok(Some(Mark::new(MarkSource::Statistic, place, Claim::Prediction(prediction))))
}
