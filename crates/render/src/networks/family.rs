//! The families of models, and what differs between them besides the sizes that their tensors show.

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::detection::detect_by;
use trinart_ckpt_models::family::{Architecture, Task};

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
        let dims = |key: &str| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec());
        let found = detect_by(&dims);
        if let Some(model) = found.foreign() {
            return Err(Error::unsupported(format!("{model} cannot be rendered: only SD v1, SD v2 and SDXL can")));
        }
        let architecture = architecture(state_dict)?;
        match found.task {
            Some(Task::Depth) => Err(Error::unsupported(
                "a depth-to-image model, which also takes a depth map (5 channels): it cannot be rendered",
            )),
            Some(Task::Other(channels)) => {
                let found = format!("an unknown kind of UNet with {channels} input channels: it cannot be rendered");
                Err(Error::unsupported(found))
            }
            _ => {
                let family = FAMILIES.iter().find(|family| family.architecture == architecture);
                family.ok_or_else(|| {
                    let name = architecture.text();
                    Error::unsupported(format!("{name} cannot be rendered: only SD v1, SD v2 and SDXL can"))
                })
            }
        }
    }

    /// Whether the UNet takes pooled text and sizes.
    pub(crate) fn has_vector(&self) -> bool {
        self.extra != Extra::None
    }
}

/// Returns the architecture from the UNet, and where that is not clear from the prefix of the text encoders. Depths do not
/// matter, because distilled models have other ones.
fn architecture(state_dict: &StateDict) -> Result<Architecture> {
    let of_unet = |name: &str| state_dict.get(&format!("{UNET}.{name}")).map(|it| it.shape().dims().to_vec());
    let attention = first_attention(|name| of_unet(name).is_some());
    let Some(attention) = attention else {
        let key = format!("{UNET}.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight");
        return Err(Error::missing("the UNet has no cross-attention; it cannot follow a prompt").in_tensor(key));
    };
    let context = of_unet(&format!("{attention}.transformer_blocks.0.attn2.to_k.weight"));
    let context = context.and_then(|dims| dims.get(1).copied());
    let has = |prefix: &str| state_dict.keys().any(|key| key.starts_with(prefix));
    if let Some(label) = of_unet("label_emb.0.0.weight") {
        return Ok(match (context, label.get(1)) {
            (Some(2048), _) | (_, Some(2816)) => Architecture::SdxlBase,
            (Some(1280), _) | (_, Some(2560)) => Architecture::SdxlRefiner,
            _ if has("conditioner.embedders.0.model.") => Architecture::SdxlRefiner,
            _ => Architecture::SdxlBase,
        });
    }
    let is_linear = of_unet(&format!("{attention}.proj_in.weight")).is_some_and(|dims| dims.len() == 2);
    Ok(match context {
        Some(768) => Architecture::Sd1,
        Some(1024) => Architecture::Sd2,
        _ if is_linear => Architecture::Sd2,
        _ => Architecture::Sd1,
    })
}

/// Returns the name of the first cross-attention of the UNet. `has` tells whether the UNet has a tensor.
pub(super) fn first_attention(has: impl Fn(&str) -> bool) -> Option<String> {
    let inputs = (1..20).map(|block| format!("input_blocks.{block}.1"));
    let mut names = inputs.chain(["middle_block.1".to_owned()]);
    names.find(|name| has(&format!("{name}.transformer_blocks.0.attn2.to_k.weight")))
}
