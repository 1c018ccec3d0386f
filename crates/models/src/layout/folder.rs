use crate::family::Architecture;
use crate::vae;

/// The prefix of a ControlNet in a file in LDM names.
pub(super) const CONTROL_PREFIX: &str = "control_model.";

/// The prefix of the image encoder of Stable Video Diffusion in a checkpoint.
pub(crate) const IMAGE_ENCODER_PREFIX: &str = "conditioner.embedders.0.open_clip.model.";

/// The prefix of the UNet in a checkpoint.
pub(super) const UNET_PREFIX: &str = "model.diffusion_model.";

/// A component of a diffusers folder that holds tensors. Each has a subfolder, or a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Folder {
    /// The UNet.
    Unet,
    /// The VAE.
    Vae,
    /// The text encoder: CLIP ViT-L of SD v1 and SDXL, OpenCLIP ViT-H of SD v2.
    TextEncoder,
    /// The second text encoder: OpenCLIP ViT-bigG of SDXL base and refiner.
    TextEncoder2,
    /// The image encoder of Stable Video Diffusion: OpenCLIP ViT-H.
    ImageEncoder,
    /// A ControlNet, which belongs to no checkpoint: it has a folder of its own.
    ControlNet,
}

impl Folder {
    /// All components.
    pub const ALL: &'static [Folder] = &[
        Folder::Unet,
        Folder::Vae,
        Folder::TextEncoder,
        Folder::TextEncoder2,
        Folder::ImageEncoder,
        Folder::ControlNet,
    ];

    /// Returns the components of a checkpoint of an architecture. The SDXL refiner has only the second text encoder.
    pub fn of(architecture: Architecture) -> &'static [Folder] {
        match architecture {
            Architecture::Sd1 | Architecture::Sd2 => &[Folder::Unet, Folder::Vae, Folder::TextEncoder],
            Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => {
                &[Folder::Unet, Folder::Vae, Folder::TextEncoder, Folder::TextEncoder2]
            }
            Architecture::SdxlRefiner => &[Folder::Unet, Folder::Vae, Folder::TextEncoder2],
            Architecture::StableVideo => &[Folder::Unet, Folder::Vae, Folder::ImageEncoder],
        }
    }

    /// The name of the subfolder, and of the entry in `model_index.json`.
    pub fn name(self) -> &'static str {
        match self {
            Folder::Unet => "unet",
            Folder::Vae => "vae",
            Folder::TextEncoder => "text_encoder",
            Folder::TextEncoder2 => "text_encoder_2",
            Folder::ImageEncoder => "image_encoder",
            Folder::ControlNet => "controlnet",
        }
    }

    /// Returns the component with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|folder| folder.name() == name)
    }

    /// The prefix of the component's keys in a file in LDM names; `None` if the architecture lacks the component.
    pub fn ldm_prefix(self, architecture: Architecture) -> Option<&'static str> {
        match (self, architecture) {
            (Folder::Unet, _) => Some(UNET_PREFIX),
            (Folder::Vae, _) => Some(vae::PREFIX),
            (Folder::ControlNet, Architecture::Sd1 | Architecture::Sd2 | Architecture::SdxlBase) => {
                Some(CONTROL_PREFIX)
            }
            (
                Folder::ControlNet,
                Architecture::SdxlRefiner | Architecture::Ssd1b | Architecture::Vega | Architecture::StableVideo,
            ) => None,
            (Folder::ImageEncoder, Architecture::StableVideo) => Some(IMAGE_ENCODER_PREFIX),
            (Folder::ImageEncoder, _) => None,
            (Folder::TextEncoder, Architecture::Sd1) => Some("cond_stage_model.transformer."),
            (Folder::TextEncoder, Architecture::Sd2) => Some("cond_stage_model.model."),
            (Folder::TextEncoder2, Architecture::SdxlRefiner) => Some("conditioner.embedders.0.model."),
            (Folder::TextEncoder, Architecture::SdxlRefiner | Architecture::StableVideo)
            | (Folder::TextEncoder2, Architecture::Sd1 | Architecture::Sd2 | Architecture::StableVideo) => None,
            (Folder::TextEncoder, Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega) => {
                Some("conditioner.embedders.0.transformer.")
            }
            (Folder::TextEncoder2, Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega) => {
                Some("conditioner.embedders.1.model.")
            }
        }
    }
}
