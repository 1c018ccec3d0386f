//! The possible values of options.

use clap::ValueEnum;

use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_models::Component;
use trinart_ckpt_models::family::Prediction;
use trinart_ckpt_models::plan::ComponentDtype;
use trinart_ckpt_models::plan::convert::Ema;
use trinart_ckpt_models::plan::merge_vae::VaeDtype;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PredictionArgument {
    /// The noise
    Epsilon,
    /// The velocity
    V,
}

impl From<PredictionArgument> for Prediction {
    fn from(argument: PredictionArgument) -> Self {
        match argument {
            PredictionArgument::Epsilon => Prediction::Epsilon,
            PredictionArgument::V => Prediction::Velocity,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TargetArgument {
    Safetensors,
    Ckpt,
    Diffusers,
}

impl From<TargetArgument> for Target {
    fn from(argument: TargetArgument) -> Self {
        match argument {
            TargetArgument::Safetensors => Target::Safetensors,
            TargetArgument::Ckpt => Target::Torch,
            TargetArgument::Diffusers => Target::Diffusers,
        }
    }
}

/// The dtypes that weights are computed in. The aliases are what torch, diffusers, WebUI and ComfyUI call them.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DtypeArgument {
    #[value(aliases = ["fp32", "float32", "float", "single", "full"])]
    F32,
    #[value(aliases = ["fp16", "float16", "half"])]
    F16,
    #[value(aliases = ["bfloat16", "bfloat"])]
    Bf16,
}

impl From<DtypeArgument> for Dtype {
    fn from(argument: DtypeArgument) -> Self {
        match argument {
            DtypeArgument::F32 => Dtype::F32,
            DtypeArgument::F16 => Dtype::F16,
            DtypeArgument::Bf16 => Dtype::BF16,
        }
    }
}

/// The dtypes that weights are stored in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StoredDtypeArgument {
    #[value(aliases = ["fp32", "float32", "float", "single", "full"])]
    F32,
    #[value(aliases = ["fp16", "float16", "half"])]
    F16,
    #[value(aliases = ["bfloat16", "bfloat"])]
    Bf16,
    #[value(name = "f8e4m3", aliases = F8_E4M3)]
    F8E4M3,
    #[value(name = "f8e5m2", aliases = F8_E5M2)]
    F8E5M2,
}

/// Other names of e4m3. "fp8" alone means it in WebUI and ComfyUI.
const F8_E4M3: [&str; 11] = [
    "fp8",
    "f8",
    "float8",
    "fp8_e4m3",
    "fp8_e4m3fn",
    "fp8e4m3fn",
    "fp8e4m3",
    "float8_e4m3fn",
    "float8_e4m3",
    "f8_e4m3",
    "e4m3fn",
];

/// Other names of e5m2.
const F8_E5M2: [&str; 6] = ["fp8_e5m2", "fp8e5m2", "float8_e5m2", "f8_e5m2", "float8e5m2", "e5m2"];

impl From<StoredDtypeArgument> for Dtype {
    fn from(argument: StoredDtypeArgument) -> Self {
        match argument {
            StoredDtypeArgument::F32 => Dtype::F32,
            StoredDtypeArgument::F16 => Dtype::F16,
            StoredDtypeArgument::Bf16 => Dtype::BF16,
            StoredDtypeArgument::F8E4M3 => Dtype::F8E4M3,
            StoredDtypeArgument::F8E5M2 => Dtype::F8E5M2,
        }
    }
}

/// The dtype of a component: its own, or one of [`StoredDtypeArgument`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ComponentDtypeArgument {
    /// Keep the dtypes of the input
    Keep,
    #[value(aliases = ["fp32", "float32", "float", "single", "full"])]
    F32,
    #[value(aliases = ["fp16", "float16", "half"])]
    F16,
    #[value(aliases = ["bfloat16", "bfloat"])]
    Bf16,
    #[value(name = "f8e4m3", aliases = F8_E4M3)]
    F8E4M3,
    #[value(name = "f8e5m2", aliases = F8_E5M2)]
    F8E5M2,
}

impl From<ComponentDtypeArgument> for ComponentDtype {
    fn from(argument: ComponentDtypeArgument) -> Self {
        match argument {
            ComponentDtypeArgument::Keep => ComponentDtype::Keep,
            ComponentDtypeArgument::F32 => ComponentDtype::As(Dtype::F32),
            ComponentDtypeArgument::F16 => ComponentDtype::As(Dtype::F16),
            ComponentDtypeArgument::Bf16 => ComponentDtype::As(Dtype::BF16),
            ComponentDtypeArgument::F8E4M3 => ComponentDtype::As(Dtype::F8E4M3),
            ComponentDtypeArgument::F8E5M2 => ComponentDtype::As(Dtype::F8E5M2),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EmaArgument {
    /// Keep the EMA beside the weights
    Keep,
    /// Drop the EMA
    Drop,
    /// Replace the weights with the EMA
    Use,
}

impl From<EmaArgument> for Ema {
    fn from(argument: EmaArgument) -> Self {
        match argument {
            EmaArgument::Keep => Ema::Keep,
            EmaArgument::Drop => Ema::Drop,
            EmaArgument::Use => Ema::Use,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ComponentArgument {
    Unet,
    Vae,
    TextEncoder,
}

impl From<ComponentArgument> for Component {
    fn from(argument: ComponentArgument) -> Self {
        match argument {
            ComponentArgument::Unet => Component::Unet,
            ComponentArgument::Vae => Component::Vae,
            ComponentArgument::TextEncoder => Component::TextEncoder,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum VaeDtypeArgument {
    /// Keep the dtypes of the VAE file: its tensors stay bit-identical
    Keep,
    /// Use the dtypes of the checkpoint's VAE
    Match,
    #[value(aliases = ["fp32", "float32", "float", "single", "full"])]
    F32,
    #[value(aliases = ["fp16", "float16", "half"])]
    F16,
    #[value(aliases = ["bfloat16", "bfloat"])]
    Bf16,
    #[value(name = "f8e4m3", aliases = F8_E4M3)]
    F8E4M3,
    #[value(name = "f8e5m2", aliases = F8_E5M2)]
    F8E5M2,
}

impl From<VaeDtypeArgument> for VaeDtype {
    fn from(argument: VaeDtypeArgument) -> Self {
        match argument {
            VaeDtypeArgument::Keep => VaeDtype::Keep,
            VaeDtypeArgument::Match => VaeDtype::Match,
            VaeDtypeArgument::F32 => VaeDtype::As(Dtype::F32),
            VaeDtypeArgument::F16 => VaeDtype::As(Dtype::F16),
            VaeDtypeArgument::Bf16 => VaeDtype::As(Dtype::BF16),
            VaeDtypeArgument::F8E4M3 => VaeDtype::As(Dtype::F8E4M3),
            VaeDtypeArgument::F8E5M2 => VaeDtype::As(Dtype::F8E5M2),
        }
    }
}
