//! The possible values of options.

mod choices;
pub(super) mod dtype;
#[cfg(feature = "render")]
pub(super) mod sampling;

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValue;

pub(super) use choices::{Choice, Choices};

use crate::ops::{Convert, Ignored};
use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_models::Component;
use trinart_ckpt_models::family::Prediction;
use trinart_ckpt_models::lora::LoraNames;
use trinart_ckpt_models::plan::TextEncoder;
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
pub(super) enum LoraNamesArgument {
    #[value(aliases = ["webui", "comfyui", "sd-scripts"])]
    Kohya,
    Diffusers,
    Peft,
}

impl From<LoraNamesArgument> for LoraNames {
    fn from(argument: LoraNamesArgument) -> Self {
        match argument {
            LoraNamesArgument::Kohya => LoraNames::Kohya,
            LoraNamesArgument::Diffusers => LoraNames::Diffusers,
            LoraNamesArgument::Peft => LoraNames::Peft,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum SidecarsArgument {
    /// Copy them beside the output
    Carry,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum IgnoreArgument {
    Dtype,
    Metadata,
    Ema,
    #[value(alias = "schedule-buffers")]
    Schedule,
}

impl From<IgnoreArgument> for Ignored {
    fn from(argument: IgnoreArgument) -> Self {
        match argument {
            IgnoreArgument::Dtype => Ignored::Dtype,
            IgnoreArgument::Metadata => Ignored::Metadata,
            IgnoreArgument::Ema => Ignored::Ema,
            IgnoreArgument::Schedule => Ignored::Schedule,
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
    #[value(aliases = ["image_encoder", "clip-vision", "clip_vision"])]
    ImageEncoder,
    #[value(name = "controlnet", aliases = ["control-net", "control_net", "control"])]
    ControlNet,
}

impl From<ComponentArgument> for Component {
    fn from(argument: ComponentArgument) -> Self {
        match argument {
            ComponentArgument::Unet => Component::Unet,
            ComponentArgument::Vae => Component::Vae,
            ComponentArgument::TextEncoder => Component::TextEncoder,
            ComponentArgument::ImageEncoder => Component::ImageEncoder,
            ComponentArgument::ControlNet => Component::ControlNet,
        }
    }
}

/// A component that `convert --component` extracts.
#[derive(Debug, Clone, Copy)]
pub(super) enum ExtractArgument {
    Component(ComponentArgument),
    TextEncoder(TextEncoder),
}

impl ValueEnum for ExtractArgument {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            ExtractArgument::Component(ComponentArgument::Unet),
            ExtractArgument::Component(ComponentArgument::Vae),
            ExtractArgument::Component(ComponentArgument::TextEncoder),
            ExtractArgument::TextEncoder(TextEncoder::First),
            ExtractArgument::TextEncoder(TextEncoder::Second),
            ExtractArgument::Component(ComponentArgument::ImageEncoder),
            ExtractArgument::Component(ComponentArgument::ControlNet),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            ExtractArgument::Component(component) => component.to_possible_value(),
            ExtractArgument::TextEncoder(TextEncoder::First) => {
                Some(PossibleValue::new("text-encoder-1").aliases(["text_encoder_1", "clip-l", "clip_l"]))
            }
            ExtractArgument::TextEncoder(TextEncoder::Second) => {
                Some(PossibleValue::new("text-encoder-2").aliases(["text_encoder_2", "clip-g", "clip_g"]))
            }
            ExtractArgument::TextEncoder(_) => None,
        }
    }
}

impl ExtractArgument {
    /// Sets the component of a conversion.
    pub(super) fn apply(self, convert: Convert<'_>) -> Convert<'_> {
        match self {
            ExtractArgument::Component(component) => convert.component(component.into()),
            ExtractArgument::TextEncoder(only) => convert.text_encoder(only),
        }
    }
}

/// A component that `--replace` can replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PartArgument {
    Unet,
    Vae,
    #[value(alias = "text_encoder")]
    TextEncoder,
    #[value(name = "text-encoder-2", alias = "text_encoder_2")]
    TextEncoder2,
    #[value(alias = "image_encoder")]
    ImageEncoder,
}

/// The value of `--replace`: a component, and the file to take it from.
#[derive(Debug, Clone)]
pub(super) struct Replacement {
    pub(super) part: PartArgument,
    pub(super) file: PathBuf,
}

impl Replacement {
    /// Parses `COMPONENT=FILE`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected COMPONENT=FILE with unet, vae, text-encoder, text-encoder-2 or image-encoder, such as \
             vae=vae.safetensors";
        let (part, file) = text.split_once('=').ok_or(expected)?;
        let part = PartArgument::from_str(part, true).map_err(|_| expected)?;
        if file.is_empty() {
            return Err(expected.to_owned());
        }
        Ok(Replacement { part, file: PathBuf::from(file) })
    }
}
