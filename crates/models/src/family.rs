//! Model families: the architecture, the task of the UNet and what it predicts.

use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner};

/// A family of models with the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Architecture {
    /// SD 1.1 to 1.5.
    Sd1,
    /// SD 2.0, 2.1 and Turbo.
    Sd2,
    /// The base model of SDXL.
    SdxlBase,
    /// The refiner of SDXL.
    SdxlRefiner,
}

impl Architecture {
    /// All architectures.
    pub const ALL: &'static [Architecture] = &[Sd1, Sd2, SdxlBase, SdxlRefiner];

    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Sd1 => "sd-v1",
            Sd2 => "sd-v2",
            SdxlBase => "sdxl-base",
            SdxlRefiner => "sdxl-refiner",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Sd1 => "SD v1",
            Sd2 => "SD v2",
            SdxlBase => "SDXL base",
            SdxlRefiner => "SDXL refiner",
        }
    }
}

/// The conditioning that a UNet concatenates to the noisy latent, as its input channels show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Task {
    /// 4 channels: none.
    TextToImage,
    /// 5 channels: a depth map.
    Depth,
    /// 8 channels: the latent of an image to edit.
    InstructPix2Pix,
    /// 9 channels: a mask and the latent of the masked image.
    Inpainting,
    /// Another number of channels.
    Other(u64),
}

impl Task {
    /// The task of a UNet with this number of input channels.
    pub(crate) fn from_channels(channels: u64) -> Self {
        match channels {
            4 => Task::TextToImage,
            5 => Task::Depth,
            8 => Task::InstructPix2Pix,
            9 => Task::Inpainting,
            other => Task::Other(other),
        }
    }

    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Task::TextToImage => "text-to-image",
            Task::Depth => "depth-to-image",
            Task::InstructPix2Pix => "instruct-pix2pix",
            Task::Inpainting => "inpainting",
            Task::Other(_) => "unknown",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Task::TextToImage => "text to image",
            Task::Depth => "depth to image",
            Task::InstructPix2Pix | Task::Inpainting | Task::Other(_) => self.name(),
        }
    }
}

/// What a UNet was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prediction {
    /// The noise. Files do not record it.
    Epsilon,
    /// The velocity (v-prediction). SDXL trainers mark such files with the key `v_pred`.
    Velocity,
    /// Keys and shapes do not show it: SD 2.0 base and SD 2.1 have the same ones.
    Unknown,
}

impl Prediction {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::Velocity => "v-prediction",
            Prediction::Unknown => "unknown",
        }
    }
}
