//! Model families: the architecture, the task of the UNet and what it predicts.

use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner, Ssd1b, StableVideo, Vega};

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
    /// SSD-1B of Segmind: SDXL base with fewer transformer blocks, and without attention in the middle.
    Ssd1b,
    /// Vega of Segmind: as SSD-1B, with fewer blocks still.
    Vega,
    /// Stable Video Diffusion: the UNet of SD v2 with layers over time, and the image encoder of OpenCLIP ViT-H.
    StableVideo,
}

impl Architecture {
    /// All architectures.
    pub const ALL: &'static [Architecture] = &[Sd1, Sd2, SdxlBase, SdxlRefiner, Ssd1b, Vega, StableVideo];

    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Sd1 => "sd-v1",
            Sd2 => "sd-v2",
            SdxlBase => "sdxl-base",
            SdxlRefiner => "sdxl-refiner",
            Ssd1b => "ssd-1b",
            Vega => "vega",
            StableVideo => "stable-video-diffusion",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Sd1 => "SD v1",
            Sd2 => "SD v2",
            SdxlBase => "SDXL base",
            SdxlRefiner => "SDXL refiner",
            Ssd1b => "SSD-1B",
            Vega => "Vega",
            StableVideo => "Stable Video Diffusion",
        }
    }

    /// The architectures with both text encoders of SDXL, and its keys for them: SDXL base and those distilled from it.
    pub(crate) const XL_BASES: &'static [Architecture] = &[SdxlBase, Ssd1b, Vega];

    /// The architectures with CLIP ViT-L.
    pub(crate) const WITH_CLIP_L: &'static [Architecture] = &[Sd1, SdxlBase, Ssd1b, Vega];

    /// The architectures with OpenCLIP ViT-bigG.
    pub(crate) const WITH_CLIP_G: &'static [Architecture] = &[SdxlBase, SdxlRefiner, Ssd1b, Vega];

    /// Returns the architecture that this one was distilled from, or itself: the same networks with more blocks.
    pub fn base(self) -> Self {
        match self {
            Ssd1b | Vega => SdxlBase,
            Sd1 | Sd2 | SdxlBase | SdxlRefiner | StableVideo => self,
        }
    }

    /// Returns whether the model is SDXL or distilled from it: it has the text encoders and the VAE of SDXL.
    pub fn is_xl(self) -> bool {
        !matches!(self, Sd1 | Sd2 | StableVideo)
    }

    /// Returns whether the model has both text encoders of SDXL, and its keys for them.
    pub fn has_two_text_encoders(self) -> bool {
        Self::XL_BASES.contains(&self)
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
    /// 8 channels of a video model: the latent of the first frame.
    ImageToVideo,
    /// Another number of channels.
    Other(u64),
}

impl Task {
    /// The task of a UNet with this number of input channels. `is_video` tells whether it has layers over time.
    pub(crate) fn from_channels(channels: u64, is_video: bool) -> Self {
        match channels {
            8 if is_video => Task::ImageToVideo,
            other if is_video => Task::Other(other),
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
            Task::ImageToVideo => "image-to-video",
            Task::Other(_) => "unknown",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Task::TextToImage => "text to image",
            Task::Depth => "depth to image",
            Task::ImageToVideo => "image to video",
            Task::InstructPix2Pix | Task::Inpainting | Task::Other(_) => self.name(),
        }
    }
}

/// What a UNet was trained to predict, and how its input is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity (v-prediction).
    Velocity,
    /// The output of the EDM preconditioning of Karras et al., as in Playground 2.5.
    Edm,
    /// The velocity, with the continuous sigmas of EDM, as in CosXL.
    EdmVelocity,
    /// The flow from noise to image (rectified flow).
    Flow,
    /// The clean latent.
    Sample,
    /// Nothing shows it.
    Unknown,
}

impl Prediction {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::Velocity => "v-prediction",
            Prediction::Edm => "edm",
            Prediction::EdmVelocity => "edm-v-prediction",
            Prediction::Flow => "flow",
            Prediction::Sample => "sample",
            Prediction::Unknown => "unknown",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Prediction::Edm => "EDM",
            Prediction::EdmVelocity => "EDM v-prediction",
            other => other.name(),
        }
    }

    /// Returns whether the schedule of the model is that of EDM: continuous sigmas instead of 1000 timesteps.
    pub fn is_edm(self) -> bool {
        matches!(self, Prediction::Edm | Prediction::EdmVelocity)
    }
}
