//! The keys that quantizers give the tensors beside a weight.

use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::Dtype;

/// The last part of the key that marks a file as scaled fp8, at the root or behind a component's prefix.
const MARKER: &str = "scaled_fp8";

/// A tensor that a quantizer stores beside a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Companion {
    /// The scales of a weight.
    Scale,
    /// The scales of a weight, one for each tile of 128 x 128 elements if there are several.
    TileScale,
    /// The scale of a layer's input, which concerns only the arithmetic of 8-bit products.
    InputScale,
    /// ComfyUI's description of a layer, as JSON.
    Description,
    /// The largest magnitude of each block; quantized itself if there are nested companions.
    AbsMax,
    /// The values of the 16 codes.
    QuantMap,
    /// The largest magnitude of each block of the block magnitudes.
    NestedAbsMax,
    /// The values of the 256 codes of the block magnitudes.
    NestedQuantMap,
    /// The parameters of the NF4 format, as JSON.
    Nf4State,
    /// The parameters of the FP4 format, as JSON.
    Fp4State,
    /// The largest magnitude of each row.
    RowMax,
    /// The memory layout of an 8-bit matrix.
    Layout8,
}

/// The end of a companion's key, what stands in its place in the key of the weight, and the companion.
const COMPANIONS: &[(&str, &str, Companion)] = &[
    (".scale_weight", ".weight", Companion::Scale),
    (".weight_scale", ".weight", Companion::Scale),
    (".weight_scale_inv", ".weight", Companion::TileScale),
    (".scale_input", ".weight", Companion::InputScale),
    (".input_scale", ".weight", Companion::InputScale),
    (".comfy_quant", ".weight", Companion::Description),
    (".absmax", "", Companion::AbsMax),
    (".quant_map", "", Companion::QuantMap),
    (".nested_absmax", "", Companion::NestedAbsMax),
    (".nested_quant_map", "", Companion::NestedQuantMap),
    (".quant_state.bitsandbytes__nf4", "", Companion::Nf4State),
    (".quant_state.bitsandbytes__fp4", "", Companion::Fp4State),
    (".SCB", ".weight", Companion::RowMax),
    (".weight_format", ".weight", Companion::Layout8),
];

/// The end of a key that only an unsupported quantizer writes, and the quantizer.
const FOREIGN: &[(&str, &str)] = &[
    (".qweight", "GPTQ, AWQ or SVDQuant"),
    (".qzeros", "GPTQ or AWQ"),
    (".wscales", "SVDQuant"),
    ("._data", "Quanto"),
    ("._scale", "Quanto"),
    ("._shift", "Quanto"),
    ("._packed", "Quanto"),
    (".weight_packed", "compressed-tensors"),
    (".weight_zero_point", "compressed-tensors"),
    (".weight_scales", "EETQ"),
    (".weight_scale_2", "NVFP4"),
    (".weight_qdata", "torchao"),
    ("_weight_qdata", "torchao"),
    (".W_q", "HQQ"),
];

/// Returns the key of the weight that this companion belongs to, and what the companion is; `None` for other keys.
pub(super) fn companion(key: &str) -> Option<(String, Companion)> {
    let found =
        COMPANIONS.iter().find_map(|&(end, instead, companion)| Some((key.strip_suffix(end)?, instead, companion)));
    found.map(|(layer, instead, companion)| (format!("{layer}{instead}"), companion))
}

/// Returns the key of the weight that this companion belongs to; `None` for other keys.
pub(crate) fn weight_of(key: &str) -> Option<String> {
    companion(key).map(|(weight, _)| weight)
}

/// Returns the unsupported quantizer that writes such keys.
pub(super) fn foreign(key: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(end, _)| key.ends_with(end)).map(|&(_, quantizer)| quantizer)
}

/// Returns whether this tensor belongs to a quantized weight, as a scale does. It is not a weight itself.
pub fn is_companion(key: &str) -> bool {
    companion(key).is_some()
}

/// Returns whether this key marks scaled fp8 weights: `scaled_fp8`, at the root or behind a component's prefix.
pub fn is_marker(key: &str) -> bool {
    marked_prefix(key).is_some()
}

/// Returns the prefix of the keys that a marker of scaled fp8 is about; `None` for other keys.
pub(super) fn marked_prefix(key: &str) -> Option<&str> {
    key.strip_suffix(MARKER).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Returns whether `key` marks scaled fp8 weights of which some are kept.
pub(crate) fn marks(state_dict: &StateDict, key: &str, is_kept: &dyn Fn(&str) -> bool) -> bool {
    marked_prefix(key).is_some_and(|prefix| {
        let mut marked = state_dict.iter().filter(|(other, _)| other.starts_with(prefix) && !is_marker(other));
        marked.any(|(other, tensor)| is_fp8(tensor.dtype()) && is_kept(other))
    })
}

/// Returns whether weights of this dtype can be scaled fp8.
pub(super) fn is_fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigns_companions_to_their_weight() {
        for (key, weight) in [
            ("a.to_q.scale_weight", "a.to_q.weight"),
            ("a.to_q.weight_scale_inv", "a.to_q.weight"),
            ("a.to_q.input_scale", "a.to_q.weight"),
            ("a.to_q.weight.absmax", "a.to_q.weight"),
            ("a.to_q.weight.nested_absmax", "a.to_q.weight"),
            ("a.to_q.weight.quant_state.bitsandbytes__nf4", "a.to_q.weight"),
            ("a.to_q.SCB", "a.to_q.weight"),
        ] {
            assert_eq!(companion(key).unwrap().0, weight, "{key}");
        }
        for key in ["a.weight", "a.norm.scale", "a.rescale_weight", "absmax"] {
            assert!(!is_companion(key), "{key}");
        }
    }

    #[test]
    fn a_marker_is_about_the_keys_behind_its_prefix() {
        assert_eq!(marked_prefix("scaled_fp8"), Some(""));
        assert_eq!(marked_prefix("text_encoders.t5xxl.scaled_fp8"), Some("text_encoders.t5xxl."));
        assert_eq!(marked_prefix("unscaled_fp8"), None);
    }
}
