//! The families of models, and what differs between them besides the sizes that their tensors show.

use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::family::Architecture;
use trinart_ckpt_models::renderable;

use super::encoders::EncoderTraits;

/// The key prefix of the UNet.
pub(super) const UNET: &str = "model.diffusion_model";

/// What differs between families of models. SSD-1B and Vega belong to SDXL base, with other numbers of layers.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) architecture: Architecture,
    /// The attention heads of the UNet.
    pub(super) heads: Heads,
    /// The text encoders, in the order in which their outputs are concatenated.
    pub(super) encoders: &'static [EncoderTraits],
    /// What the UNet gets besides time and text.
    pub(super) extra: Extra,
}

/// The number of attention heads of a UNet, which tensors do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// The same number at every level.
    Count(usize),
    /// Heads of this width. Narrower levels have one head.
    Width(usize),
}

/// The conditioning of a UNet besides time and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    /// Pooled text, and six numbers: original height and width, crop at the top and at the left, target height and width.
    PooledAndSizes,
    /// Pooled text, and five numbers: original height and width, crop at the top and at the left, aesthetic score.
    PooledAndScore,
}

impl Heads {
    /// Returns the number of heads for `width` channels; `None` if they cannot be divided.
    pub(super) fn of(self, width: usize) -> Option<usize> {
        match self {
            Heads::Count(heads) => width.is_multiple_of(heads).then_some(heads),
            Heads::Width(head) if width < head => Some(1),
            Heads::Width(head) => width.is_multiple_of(head).then_some(width / head),
        }
    }
}

/// The families that can be rendered.
static FAMILIES: [Family; 4] = [
    Family {
        architecture: Architecture::Sd1,
        heads: Heads::Count(8),
        encoders: &[EncoderTraits::SD1],
        extra: Extra::None,
    },
    Family {
        architecture: Architecture::Sd2,
        heads: Heads::Width(64),
        encoders: &[EncoderTraits::SD2],
        extra: Extra::None,
    },
    Family {
        architecture: Architecture::SdxlBase,
        heads: Heads::Width(64),
        encoders: &[EncoderTraits::SDXL_L, EncoderTraits::SDXL_G],
        extra: Extra::PooledAndSizes,
    },
    Family {
        architecture: Architecture::SdxlRefiner,
        heads: Heads::Width(64),
        encoders: &[EncoderTraits::REFINER_G],
        extra: Extra::PooledAndScore,
    },
];

impl Family {
    /// Returns the family of a checkpoint in LDM names. Reads no weights.
    ///
    /// Fails for models that cannot be rendered, with their name.
    pub(crate) fn of(state_dict: &StateDict) -> Result<&'static Family> {
        let architecture = renderable::architecture(state_dict)?;
        let family = FAMILIES.iter().find(|family| family.architecture == architecture);
        family.or_internal("an architecture that can be rendered has no family")
    }

    /// Whether the UNet takes pooled text and sizes.
    pub(crate) fn has_vector(&self) -> bool {
        self.extra != Extra::None
    }
}
