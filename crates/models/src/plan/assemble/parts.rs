use crate::checkpoint::Checkpoint;
use crate::family::Architecture;
use crate::layout::Folder;
use crate::ledger::Origin;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::Overflow;

/// The files whose components replace those of a checkpoint.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Parts<'a> {
    /// The file of the UNet.
    pub unet: Option<&'a Checkpoint>,
    /// The file of the VAE.
    pub vae: Option<&'a Checkpoint>,
    /// The file of the text encoder: the first of SDXL base, the only one of other architectures.
    pub text_encoder: Option<&'a Checkpoint>,
    /// The file of the second text encoder of SDXL base.
    pub text_encoder_2: Option<&'a Checkpoint>,
    /// The file of the image encoder of Stable Video Diffusion.
    pub image_encoder: Option<&'a Checkpoint>,
}

impl<'a> Parts<'a> {
    /// Takes the UNet from this file, with the marks of what it predicts.
    #[must_use]
    pub fn unet(self, file: &'a Checkpoint) -> Self {
        Parts { unet: Some(file), ..self }
    }

    /// Takes the VAE from this file.
    #[must_use]
    pub fn vae(self, file: &'a Checkpoint) -> Self {
        Parts { vae: Some(file), ..self }
    }

    /// Takes the text encoder from this file: the first of SDXL base, the only one of other architectures.
    #[must_use]
    pub fn text_encoder(self, file: &'a Checkpoint) -> Self {
        Parts { text_encoder: Some(file), ..self }
    }

    /// Takes the second text encoder of SDXL base from this file.
    #[must_use]
    pub fn text_encoder_2(self, file: &'a Checkpoint) -> Self {
        Parts { text_encoder_2: Some(file), ..self }
    }

    /// Takes the image encoder of Stable Video Diffusion from this file.
    #[must_use]
    pub fn image_encoder(self, file: &'a Checkpoint) -> Self {
        Parts { image_encoder: Some(file), ..self }
    }

    /// Returns whether no component is replaced.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// The files with their origin in a ledger.
    pub fn all(&self) -> impl Iterator<Item = (Origin, &'a Checkpoint)> {
        let all = [
            (Origin::Unet, self.unet),
            (Origin::Vae, self.vae),
            (Origin::TextEncoder, self.text_encoder),
            (Origin::TextEncoder2, self.text_encoder_2),
            (Origin::ImageEncoder, self.image_encoder),
        ];
        all.into_iter().filter_map(|(origin, file)| Some((origin, file?)))
    }

    /// The files of text encoders and image encoders by component. Fails if the architecture has no such one.
    pub(super) fn encoders(&self, architecture: Architecture) -> Result<Vec<(Origin, Folder, &'a Checkpoint)>> {
        let refuse = |file: &Checkpoint, has: &str| {
            Err(Error::usage(format!("{} has {has}", architecture.text())).in_file(file.path()))
        };
        if architecture == Architecture::StableVideo {
            return match self.text_encoder.or(self.text_encoder_2) {
                Some(text) => refuse(text, "no text encoder, but an image encoder"),
                None => Ok(self
                    .image_encoder
                    .map(|file| (Origin::ImageEncoder, Folder::ImageEncoder, file))
                    .into_iter()
                    .collect()),
            };
        }
        if let Some(image) = self.image_encoder {
            return refuse(image, "no image encoder");
        }
        let first = match architecture {
            // Its only text encoder is the second one of SDXL base.
            Architecture::SdxlRefiner => Folder::TextEncoder2,
            _ => Folder::TextEncoder,
        };
        if let Some(second) = self.text_encoder_2.filter(|_| !architecture.has_two_text_encoders()) {
            return refuse(second, "only one text encoder");
        }
        let first = self.text_encoder.map(|file| (Origin::TextEncoder, first, file));
        let second = self.text_encoder_2.map(|file| (Origin::TextEncoder2, Folder::TextEncoder2, file));
        Ok(first.into_iter().chain(second).collect())
    }
}

/// How to put a checkpoint together. The default is strict about missing keys and families.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AssembleOptions {
    /// How to treat values that overflow when quantized weights are dequantized.
    pub overflow: Overflow,
    /// Keeps the checkpoint's own tensors where the VAE lacks them.
    pub partial: bool,
    /// Accepts a VAE of another family than the checkpoint.
    pub allow_family_mismatch: bool,
}

impl Default for AssembleOptions {
    fn default() -> Self {
        AssembleOptions { overflow: Overflow::Refuse, partial: false, allow_family_mismatch: false }
    }
}
