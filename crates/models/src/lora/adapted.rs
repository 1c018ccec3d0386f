//! What a LoRA changes: the network, the block and the layer that the name of a module tells.

use super::spelling::LoraNames;
use crate::file_kind::Model;
use trinart_ckpt_formats::serialize_as_name;

/// A network that a LoRA changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AdaptedNetwork {
    /// The UNet of a Stable Diffusion model.
    Unet,
    /// The diffusion model of another family, such as Flux.
    DiffusionModel,
    /// The first text encoder.
    TextEncoder,
    /// The second text encoder.
    TextEncoder2,
    /// The third text encoder.
    TextEncoder3,
    /// A network that the names do not tell.
    Unknown,
}

impl AdaptedNetwork {
    /// The word for scripts.
    pub fn name(self) -> &'static str {
        match self {
            AdaptedNetwork::Unet => "unet",
            AdaptedNetwork::DiffusionModel => "diffusion-model",
            AdaptedNetwork::TextEncoder => "text-encoder",
            AdaptedNetwork::TextEncoder2 => "text-encoder-2",
            AdaptedNetwork::TextEncoder3 => "text-encoder-3",
            AdaptedNetwork::Unknown => "unknown",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            AdaptedNetwork::Unet => "UNet",
            AdaptedNetwork::DiffusionModel => "diffusion model",
            AdaptedNetwork::TextEncoder => "text encoder",
            AdaptedNetwork::TextEncoder2 => "text encoder 2",
            AdaptedNetwork::TextEncoder3 => "text encoder 3",
            AdaptedNetwork::Unknown => "unknown network",
        }
    }
}

serialize_as_name!(AdaptedNetwork);

/// How the names of modules begin in kohya's spelling, behind `lora_` or `lycoris_`.
const NETWORKS: [(&str, AdaptedNetwork); 11] = [
    ("te1_", AdaptedNetwork::TextEncoder),
    ("te2_", AdaptedNetwork::TextEncoder2),
    ("te3_", AdaptedNetwork::TextEncoder3),
    ("te_", AdaptedNetwork::TextEncoder),
    ("prior_te_", AdaptedNetwork::TextEncoder),
    ("text_encoder_2_", AdaptedNetwork::TextEncoder2),
    ("text_encoder_3_", AdaptedNetwork::TextEncoder3),
    ("text_encoder_", AdaptedNetwork::TextEncoder),
    ("text_model_", AdaptedNetwork::TextEncoder),
    ("prior_unet_", AdaptedNetwork::DiffusionModel),
    ("transformer_", AdaptedNetwork::DiffusionModel),
];

/// The place of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place<'n> {
    pub(super) network: AdaptedNetwork,
    /// The name up to its first number, which is that of a block or layer; `None` without a number.
    pub(super) block: Option<&'n str>,
    /// What the module is in its block: the name behind the last number that has a word behind it.
    pub(super) target: &'n str,
    /// The name without the network.
    pub(super) layer: &'n str,
}

impl<'n> Place<'n> {
    /// Returns the place of a module with this name in kohya's spelling.
    pub(super) fn of(module: &'n str, model: Option<Model>, names: Option<LoraNames>) -> Self {
        let bare = ["lora_", "lycoris_"].iter().find_map(|prefix| module.strip_prefix(prefix)).unwrap_or(module);
        let known = NETWORKS.iter().find_map(|(prefix, network)| Some((*network, bare.strip_prefix(prefix)?)));
        let (network, layer) =
            known.unwrap_or_else(|| (of_model(model, names), bare.strip_prefix("unet_").unwrap_or(bare)));
        let mut end_of_block = None;
        let (mut target, mut number_at) = (layer, None);
        let mut at = 0;
        for part in layer.split('_') {
            let end = at + part.len();
            if part.parse::<u32>().is_ok() {
                end_of_block = end_of_block.or(Some(end));
                number_at = Some(end);
            } else if let Some(number) = number_at.take() {
                target = layer.get(number + 1..).unwrap_or(layer);
            }
            at = end + 1;
        }
        Place { network, block: end_of_block.and_then(|end| layer.get(..end)), target, layer }
    }
}

/// The diffusion model of a LoRA.
fn of_model(model: Option<Model>, names: Option<LoraNames>) -> AdaptedNetwork {
    use Model::*;
    match model {
        Some(
            Sd1 | Sd2 | SdTurbo | Sd1Or2 | SdxlBase | SdxlRefiner | Ssd1b | Vega | Koala | BkSdm | Playground25 | CosXl
            | Kolors,
        ) => AdaptedNetwork::Unet,
        Some(_) => AdaptedNetwork::DiffusionModel,
        // The keys of PEFT do not name the network.
        None if names == Some(LoraNames::Peft) => AdaptedNetwork::Unknown,
        None => AdaptedNetwork::DiffusionModel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_place_from_the_name() {
        for (name, network, block, target) in [
            (
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
                AdaptedNetwork::Unet,
                Some("down_blocks_0"),
                "attn1_to_out_0",
            ),
            (
                "lora_te1_text_model_encoder_layers_11_self_attn_q_proj",
                AdaptedNetwork::TextEncoder,
                Some("text_model_encoder_layers_11"),
                "self_attn_q_proj",
            ),
            ("lora_te2_text_projection", AdaptedNetwork::TextEncoder2, None, "text_projection"),
            ("lora_unet_input_blocks_4_1_proj_in", AdaptedNetwork::Unet, Some("input_blocks_4"), "proj_in"),
            ("lycoris_conv_in", AdaptedNetwork::Unet, None, "conv_in"),
        ] {
            let found = Place::of(name, Some(Model::SdxlBase), Some(LoraNames::Kohya));
            assert_eq!((found.network, found.block, found.target), (network, block, target), "{name}");
            assert!(name.ends_with(found.layer) && found.layer.ends_with(target), "{name}");
        }
        let network = |model, names| Place::of("lora_unet_double_blocks_0_img_attn_qkv", model, names).network;
        assert_eq!(network(Some(Model::Flux), Some(LoraNames::Kohya)), AdaptedNetwork::DiffusionModel);
        assert_eq!(network(None, Some(LoraNames::Peft)), AdaptedNetwork::Unknown);
    }
}
