//! Which models can be rendered, and as which architecture.

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;

use crate::detection::{self, detect_by};
use crate::family::{Architecture, Prediction, Task};
use crate::file_kind;

/// The key prefix of the UNet.
const UNET: &str = "model.diffusion_model.";

/// Returns the architecture by which a checkpoint in LDM names is rendered. Models with fewer blocks, such as SSD-1B, are
/// rendered as the architecture that they were distilled from. Reads no weights.
///
/// Fails for models that cannot be rendered, with their name.
pub fn architecture(state_dict: &StateDict) -> Result<Architecture> {
    let dims = |key: &str| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec());
    let found = detect_by(&dims);
    if let Some(model) = found.foreign() {
        return Err(Error::unsupported(format!("{model} cannot be rendered: only SD v1, SD v2 and SDXL can")));
    }
    let of_unet = |name: &str| dims(&format!("{UNET}{name}"));
    let Some(attention) = first_attention(|name| of_unet(name).is_some()) else {
        if !state_dict.keys().any(|key| key.starts_with(UNET)) {
            let found = file_kind::describe(state_dict);
            let expected = "expected a checkpoint of SD v1, SD v2 or SDXL";
            return Err(Error::unsupported(format!("cannot be rendered: {found}; {expected}")));
        }
        let key = format!("{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight");
        return Err(Error::missing("the UNet has no cross-attention; it cannot follow a prompt").in_tensor(key));
    };
    match found.task {
        Some(Task::Depth) => {
            let found = "a depth-to-image model, which also takes a depth map (5 channels): it cannot be rendered";
            return Err(Error::unsupported(found));
        }
        Some(Task::Other(channels)) => {
            let found = format!("an unknown kind of UNet with {channels} input channels: it cannot be rendered");
            return Err(Error::unsupported(found));
        }
        _ => {}
    }
    if let Some(architecture) = found.architecture() {
        return Ok(architecture.base());
    }
    // A model that no published one equals, such as one with other numbers of blocks.
    let by_width = |name: &str, widths: fn(u64) -> &'static [Architecture]| {
        of_unet(name).and_then(|dims| widths(*dims.get(1)?).first().copied()).map(Architecture::base)
    };
    let text = format!("{attention}.transformer_blocks.0.attn2.to_k.weight");
    let by_text = by_width(&text, detection::with_text_width);
    let has_label = of_unet("label_emb.0.0.weight").is_some();
    let has_encoder = |prefix: &str| state_dict.keys().any(|key| key.starts_with(prefix));
    let is_refiner = || has_encoder("conditioner.embedders.0.model.");
    let is_linear = || of_unet(&format!("{attention}.proj_in.weight")).is_some_and(|dims| dims.len() == 2);
    let by_label = by_width("label_emb.0.0.weight", detection::with_label_width);
    match has_label {
        // The names of a text encoder tell more than the sizes of a UNet that no published one equals.
        false if has_encoder("cond_stage_model.transformer.") => return Ok(Architecture::Sd1),
        false if has_encoder("cond_stage_model.model.") => return Ok(Architecture::Sd2),
        _ => {}
    }
    Ok(match (has_label, by_text.filter(|it| it.is_xl() == has_label).or(by_label)) {
        (_, Some(architecture)) => architecture,
        (true, None) if is_refiner() => Architecture::SdxlRefiner,
        (true, None) => Architecture::SdxlBase,
        (false, None) if is_linear() => Architecture::Sd2,
        (false, None) => Architecture::Sd1,
    })
}

/// Fails if a model cannot be rendered alone: the refiner, which finishes pictures of another model, and UNets that predict
/// what no sampler here takes.
pub fn check(architecture: Architecture, prediction: Prediction) -> Result<()> {
    if architecture == Architecture::SdxlRefiner {
        let found = "the SDXL refiner cannot be rendered alone: it only finishes pictures of a base model";
        return Err(Error::unsupported(found));
    }
    match prediction {
        Prediction::Flow | Prediction::Sample => Err(unsupported(prediction)),
        Prediction::Epsilon
        | Prediction::Velocity
        | Prediction::Edm
        | Prediction::EdmVelocity
        | Prediction::Unknown => Ok(()),
    }
}

/// The error for a UNet that predicts what no sampler takes.
pub fn unsupported(prediction: Prediction) -> Error {
    Error::unsupported(format!("the UNet predicts {}, which cannot be rendered", prediction.text()))
}

/// Returns the name of the first cross-attention of a UNet. `has` tells whether the UNet has a tensor.
pub fn first_attention(has: impl Fn(&str) -> bool) -> Option<String> {
    let inputs = (1..20).map(|block| format!("input_blocks.{block}.1"));
    let mut names = inputs.chain(["middle_block.1".to_owned()]);
    names.find(|name| has(&format!("{name}.transformer_blocks.0.attn2.to_k.weight")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

    fn model(tensors: &[(&str, &[u64])]) -> StateDict {
        let mut state_dict = StateDict::new();
        for (name, dims) in tensors {
            let elements: u64 = dims.iter().product();
            let tensor = LazyTensor::owned(Dtype::U8, Shape::new(dims.to_vec()).unwrap(), vec![0; elements as usize]);
            state_dict.insert(format!("{UNET}{name}"), tensor.unwrap()).unwrap();
        }
        state_dict
    }

    #[test]
    fn models_with_other_numbers_of_blocks_are_rendered_as_what_their_widths_show() {
        const KEY: &str = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";
        const LABEL: &str = "label_emb.0.0.weight";
        const PROJECTION: &str = "input_blocks.4.1.proj_in.weight";
        type Case<'a> = (&'a [(&'a str, &'a [u64])], Architecture);
        let cases: [Case<'_>; 7] = [
            (&[(KEY, &[4, 2048]), (LABEL, &[4, 2816])], Architecture::SdxlBase),
            (&[(KEY, &[4, 1280]), (LABEL, &[4, 2560])], Architecture::SdxlRefiner),
            (&[(KEY, &[4, 30]), (LABEL, &[4, 30])], Architecture::SdxlBase),
            (&[(KEY, &[4, 768])], Architecture::Sd1),
            (&[(KEY, &[4, 1024])], Architecture::Sd2),
            (&[(KEY, &[4, 30]), (PROJECTION, &[4, 4])], Architecture::Sd2),
            (&[(KEY, &[4, 30]), (PROJECTION, &[4, 4, 1, 1])], Architecture::Sd1),
        ];
        for (tensors, expected) in cases {
            assert_eq!(architecture(&model(tensors)).unwrap(), expected, "{tensors:?}");
        }
        let mut vae = StateDict::new();
        let tensor = LazyTensor::owned(Dtype::U8, Shape::new([0]).unwrap(), []).unwrap();
        vae.insert("first_stage_model.decoder.conv_in.weight", tensor).unwrap();
        let error = architecture(&vae).unwrap_err().to_string();
        assert!(
            error.contains("no known keys (first_stage_model.decoder.conv_in.weight); expected a checkpoint"),
            "{error}"
        );
        assert!(architecture(&model(&[(LABEL, &[4, 2816])])).is_err());
        assert!(check(Architecture::SdxlRefiner, Prediction::Epsilon).is_err());
        assert!(check(Architecture::SdxlBase, Prediction::Flow).is_err());
    }
}
