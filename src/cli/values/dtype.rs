//! The values of the options for dtypes.

use super::choices::{Choice, Choices};
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_models::plan::ComponentDtype;
use trinart_ckpt_models::plan::merge_vae::VaeDtype;

/// The dtypes that weights are computed in, the most precise first. The aliases are what torch, diffusers, WebUI, ComfyUI
/// and kohya's scripts call them.
const COMPUTED: [(Dtype, &str, &[&str]); 3] = [
    (Dtype::F32, "f32", &["fp32", "float32", "float", "single", "full"]),
    (Dtype::F16, "f16", &["fp16", "float16", "half"]),
    (Dtype::BF16, "bf16", &["bfloat16", "bfloat"]),
];

/// The further dtypes that weights are stored in. `fp8` alone means e4m3 in WebUI and ComfyUI.
const SMALL: [(Dtype, &str, &[&str]); 2] = [
    (
        Dtype::F8E4M3,
        "f8e4m3",
        &[
            "fp8",
            "f8",
            "float8",
            "f8_e4m3",
            "f8e4m3fn",
            "f8_e4m3fn",
            "fp8e4m3",
            "fp8_e4m3",
            "fp8e4m3fn",
            "fp8_e4m3fn",
            "float8e4m3",
            "float8_e4m3",
            "float8e4m3fn",
            "float8_e4m3fn",
            "e4m3",
            "e4m3fn",
        ],
    ),
    (Dtype::F8E5M2, "f8e5m2", &["f8_e5m2", "fp8e5m2", "fp8_e5m2", "float8e5m2", "float8_e5m2", "e5m2"]),
];

fn choices<T>(names: &[(Dtype, &'static str, &'static [&'static str])], value: fn(Dtype) -> T) -> Vec<Choice<T>> {
    names.iter().map(|&(dtype, name, aliases)| Choice { value: value(dtype), name, aliases, help: None }).collect()
}

fn all<T: Clone>(value: fn(Dtype) -> T) -> Vec<Choice<T>> {
    [choices(&COMPUTED, value), choices(&SMALL, value)].concat()
}

/// Parses the dtypes that weights are computed in.
#[cfg(feature = "render")]
pub(in crate::cli) fn computed() -> Choices<Dtype> {
    Choices(choices(&COMPUTED, |dtype| dtype))
}

/// Parses the dtypes that weights are stored in.
pub(in crate::cli) fn stored() -> Choices<Dtype> {
    Choices(all(|dtype| dtype))
}

/// Parses the dtype of a component.
pub(in crate::cli) fn of_component() -> Choices<ComponentDtype> {
    let help = Some("Keep the dtypes of the input");
    let keep = Choice { value: ComponentDtype::Keep, name: "keep", aliases: &[], help };
    Choices([vec![keep], all(ComponentDtype::As)].concat())
}

/// Parses the dtype of a VAE that is merged.
pub(in crate::cli) fn of_merged_vae() -> Choices<VaeDtype> {
    let help = Some("Keep the dtypes of the VAE file: its tensors stay bit-identical");
    let keep = Choice { value: VaeDtype::Keep, name: "keep", aliases: &[], help };
    let help = Some("Use the dtypes of the checkpoint's VAE");
    let same = Choice { value: VaeDtype::Match, name: "match", aliases: &[], help };
    Choices([vec![keep, same], all(VaeDtype::As)].concat())
}
