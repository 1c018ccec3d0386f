//! The possible values of options.

mod choices;
pub(super) mod dtype;

use clap::ValueEnum;

use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_models::Component;
use trinart_ckpt_models::family::Prediction;
use trinart_ckpt_models::plan::convert::Ema;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PredictionArgument {
    /// The noise
    #[value(alias = "eps")]
    Epsilon,
    /// The velocity
    #[value(aliases = ["v-prediction", "v_prediction", "v-pred", "v_pred", "vpred", "velocity"])]
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
    #[value(alias = "sft")]
    Safetensors,
    #[value(aliases = ["pt", "pth", "bin", "torch", "pytorch"])]
    Ckpt,
    #[value(alias = "folder")]
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
    #[value(aliases = ["text_encoder", "te", "clip"])]
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
