//! The possible values of options.

use clap::ValueEnum;

use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_models::Component;
use trinart_ckpt_models::family::Prediction;
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

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DtypeArgument {
    F32,
    F16,
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
    F32,
    F16,
    Bf16,
}

impl From<VaeDtypeArgument> for VaeDtype {
    fn from(argument: VaeDtypeArgument) -> Self {
        match argument {
            VaeDtypeArgument::Keep => VaeDtype::Keep,
            VaeDtypeArgument::Match => VaeDtype::Match,
            VaeDtypeArgument::F32 => VaeDtype::As(Dtype::F32),
            VaeDtypeArgument::F16 => VaeDtype::As(Dtype::F16),
            VaeDtypeArgument::Bf16 => VaeDtype::As(Dtype::BF16),
        }
    }
}
