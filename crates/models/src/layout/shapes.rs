//! Checks the shapes of a model against the sizes that a few of its tensors imply.

use super::{IMAGE_ENCODER_PREFIX, Layout, with_rank};
use crate::family::Architecture;
use crate::vae;
use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::error::{Error, Result};

/// The first cross-attention that every architecture has.
const CONTEXT: &str = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";

/// The embedding of the extra conditioning of SDXL.
const LABEL: &str = "model.diffusion_model.label_emb.0.0.weight";

/// Fails if a tensor of a state dict in LDM names has a shape that no model of this architecture has, whatever its widths;
/// or if its UNet does not fit its text encoders: the width of the text, and the size of the extra conditioning.
pub(crate) fn check(architecture: Architecture, state_dict: &StateDict) -> Result<()> {
    let dims = |key: &str| {
        let tensor = state_dict.get(key).or_else(|| state_dict.get(vae::bare_key(key)));
        tensor.map(|tensor| tensor.shape().dims().to_vec())
    };
    let layout = Layout::measured(architecture, &dims);
    for (key, tensor) in state_dict.iter() {
        let canonical = vae::canonical_key(key);
        let Some(mapped) = layout.to_diffusers(&canonical).next() else { continue };
        let Some(expected) = mapped.transform.inverse().dims(mapped.dims) else { continue };
        let dims = tensor.shape().dims();
        if with_rank(dims, expected.len()).is_none_or(|fitted| fitted != expected) {
            let found = format!("shape {}, expected {expected:?} beside the other tensors", tensor.shape());
            return Err(Error::mismatch(found).in_tensor(key));
        }
    }
    check_conditioning(&layout, &dims)
}

/// Fails if the UNet does not fit the text encoders, as far as there are both.
fn check_conditioning(layout: &Layout, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Result<()> {
    let architecture = layout.architecture();
    let at = |key: &str, axis: usize| {
        let pair = layout.pair_of_ldm(key)?;
        pair.ldm_spellings().find_map(dims)?.get(axis).copied()
    };
    let (first, second) = match architecture {
        Architecture::Sd1 => (Some("cond_stage_model.transformer.text_model.final_layer_norm.weight"), None),
        Architecture::Sd2 => (Some("cond_stage_model.model.ln_final.weight"), None),
        Architecture::SdxlRefiner => (None, Some("conditioner.embedders.0.model.")),
        Architecture::StableVideo => return check_video(&at),
        Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => (
            Some("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"),
            Some("conditioner.embedders.1.model."),
        ),
    };
    let widths: Option<Vec<u64>> = [first.map(str::to_owned), second.map(|prefix| format!("{prefix}ln_final.weight"))]
        .into_iter()
        .flatten()
        .map(|key| at(&key, 0))
        .collect();
    if let (Some(widths), Some(context)) = (widths, at(CONTEXT, 1)) {
        // Each width is below 2^32, or it would have failed above.
        let expected = widths.iter().fold(0_u64, |sum, width| sum.saturating_add(*width));
        if context != expected {
            return mismatch(CONTEXT, context, expected, "the width of the text encoder");
        }
    }
    let projection = second.and_then(|prefix| at(&format!("{prefix}text_projection"), 1));
    match (projection, at(LABEL, 1)) {
        (Some(projection), Some(label)) if time_dim(architecture, label, projection).is_none() => {
            let why = format!("the projection of the text encoder and {} sizes", sizes(architecture));
            mismatch(LABEL, label, projection + sizes_width(architecture), &why)
        }
        _ => Ok(()),
    }
}

/// Fails if the UNet of a video model does not fit its image encoder, or if its extra conditioning has an impossible size.
fn check_video(at: &dyn Fn(&str, usize) -> Option<u64>) -> Result<()> {
    let projection = format!("{IMAGE_ENCODER_PREFIX}visual.proj");
    if let (Some(context), Some(expected)) = (at(CONTEXT, 1), at(&projection, 1))
        && context != expected
    {
        return mismatch(CONTEXT, context, expected, "the projection of the image encoder");
    }
    match at(LABEL, 1) {
        Some(label) if time_dim(Architecture::StableVideo, label, 0).is_none() => {
            let why = format!("{} numbers: frames per second, motion and noise", sizes(Architecture::StableVideo));
            mismatch(LABEL, label, sizes_width(Architecture::StableVideo), &why)
        }
        _ => Ok(()),
    }
}

fn mismatch(key: &str, size: u64, expected: u64, why: &str) -> Result<()> {
    let found = format!("{size} columns, expected {expected}: {why}");
    Err(Error::mismatch(found).in_tensor(key))
}

/// The embedding dimensions of each number in the extra conditioning of SDXL and of video models, as published.
const TIME_DIM: u64 = 256;

/// The numbers in the extra conditioning: three pairs of sizes, or two and an aesthetic score. A video model has three.
fn sizes(architecture: Architecture) -> u64 {
    match architecture {
        Architecture::StableVideo => 3,
        Architecture::SdxlRefiner => 5,
        _ => 6,
    }
}

/// The embedding dimensions of all numbers in the extra conditioning, as published.
pub(crate) fn sizes_width(architecture: Architecture) -> u64 {
    sizes(architecture) * TIME_DIM
}

/// Returns the embedding dimensions of each number in the extra conditioning of `label` elements, beside the pooled text of
/// `projection` elements. `None` if there is no such number.
pub(crate) fn time_dim(architecture: Architecture, label: u64, projection: u64) -> Option<u64> {
    let rest = label.checked_sub(projection).filter(|&rest| rest > 0)?;
    let count = sizes(architecture);
    rest.is_multiple_of(count).then(|| rest / count)
}
