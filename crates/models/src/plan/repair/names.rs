//! Where each tensor of a file belongs.

use super::kind::RepairKind;
use crate::checkpoint::Checkpoint;
use crate::family::Architecture;
use crate::file_kind::{FileKind, Identity};
use crate::layout::{self, Folder, Layout, Mapped};
use crate::parameterization::is_mark_key;
use crate::plan::spelling;
use crate::{Component, position_ids, quantization, vae, vae_schema};
use trinart_ckpt_formats::state_dict::StateDict;

/// The prefixes of a VAE in a checkpoint.
const VAE_PREFIXES: &[&str] = &[vae::PREFIX, "vae.", "autoencoder."];

/// The prefixes of ComfyUI for text encoders.
const COMFY: &[&str] =
    &["text_encoders.clip_l.", "text_encoders.clip_g.", "text_encoders.clip_h.", "clip_l.", "clip_g.", "clip_h."];

/// The place of a tensor.
pub(super) enum Place<'l> {
    /// Where it is.
    Right,
    /// Under another key.
    Moved { key: String, kind: RepairKind, mapped: Option<Mapped<'l>> },
    /// Nowhere: a constant that no program reads.
    Stray,
}

/// What a file is, which decides where its tensors belong.
pub(super) enum Names<'a> {
    /// A checkpoint: its layout, the prefix of its UNet, and what precedes all keys.
    Whole { layout: &'static Layout, unet: &'a str, wrapper: &'a str },
    /// A UNet or a ControlNet alone: its layout, its prefix, and what of it is needless.
    Network { layout: &'static Layout, folder: Folder, prefix: &'a str, wrapper: &'a str },
    /// A VAE alone: its prefix, what of it is needless, and whether its names are those of diffusers.
    Vae { prefix: &'a str, wrapper: &'a str, is_diffusers: bool },
    /// A text encoder alone, and which one; `None` if its layers are those of no architecture.
    TextEncoder(Option<LoneText>),
    /// Another known kind of file, all of whose keys have a needless prefix.
    Wrapped { wrapper: String },
    /// Anything else: nothing is known about its names.
    Other,
}

impl<'a> Names<'a> {
    /// Finds out what a file is.
    pub(super) fn of(checkpoint: &'a Checkpoint) -> Self {
        let state_dict = checkpoint.state_dict();
        let identity = Identity::of(state_dict);
        if identity.kind == FileKind::ControlNet
            && let Some(prefix) = spelling::control_net_prefix(state_dict)
            && let Some(layout) = spelling::detect_at(state_dict, prefix).architecture().map(Layout::of)
        {
            return Names::Network { layout, folder: Folder::ControlNet, prefix, wrapper: spelling::wrapper(prefix) };
        }
        if let Some(unet) = spelling::unet_prefix(state_dict) {
            let Some(architecture) = spelling::detect_at(state_dict, unet).architecture() else {
                return Names::wrapped(identity);
            };
            let layout = Layout::of(architecture);
            let wrapper = spelling::wrapper_of_unet(unet);
            let whole = Names::Whole { layout, unet, wrapper };
            let is_part = |key: &str| match whole.place(key) {
                Place::Moved { key, .. } => is_of_other_parts(&key),
                Place::Right | Place::Stray => is_of_other_parts(key),
            };
            return match state_dict.keys().any(is_part) {
                true => whole,
                false => Names::Network { layout, folder: Folder::Unet, prefix: unet, wrapper },
            };
        }
        match identity.kind {
            FileKind::Vae => {
                let mut found = vae_schema::prefixes(state_dict.keys());
                found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                let Some(&(prefix, _)) = found.first() else { return Names::Other };
                let wrapper = spelling::wrapper(prefix);
                Names::Vae { prefix, wrapper, is_diffusers: is_in_diffusers_names(state_dict, prefix) }
            }
            FileKind::ClipL | FileKind::ClipH | FileKind::ClipG | FileKind::Clip => {
                Names::TextEncoder(LoneText::of(state_dict))
            }
            _ => Names::wrapped(identity),
        }
    }

    /// Returns a file of another known kind, if training put a prefix before all its keys.
    fn wrapped(identity: Identity) -> Self {
        // RIFE's loader reads only keys with the prefix.
        let is_known = !matches!(identity.kind, FileKind::Unknown | FileKind::FrameInterpolator);
        match is_known && identity.also.is_empty() && spelling::is_of_training(&identity.wrapper) {
            true => Names::Wrapped { wrapper: identity.wrapper },
            false => Names::Other,
        }
    }

    /// Returns the architecture of a checkpoint.
    pub(super) fn architecture(&self) -> Option<Architecture> {
        match self {
            Names::Whole { layout, .. } => Some(layout.architecture()),
            _ => None,
        }
    }

    /// Returns where a tensor belongs.
    pub(super) fn place(&self, key: &str) -> Place<'static> {
        if let Some(weight) = quantization::weight_of(key) {
            return self.place_of_companion(key, &weight);
        }
        match self {
            Names::Whole { layout, unet, wrapper } => whole(layout, unet, wrapper, key),
            Names::Network { wrapper, .. } => stripped(key, wrapper),
            Names::Wrapped { wrapper } => stripped(key, wrapper),
            Names::Vae { prefix, wrapper, is_diffusers } => lone_vae(prefix, wrapper, *is_diffusers, key),
            Names::TextEncoder(_) => lone_text_encoder(key),
            Names::Other => Place::Right,
        }
    }

    /// A part of a quantized weight goes with the weight.
    fn place_of_companion(&self, key: &str, weight: &str) -> Place<'static> {
        let Place::Moved { key: moved, kind, mapped: _ } = self.place(weight) else { return Place::Right };
        let stem = |key: &str| key.strip_suffix("weight").map(str::to_owned);
        let moved = match key.strip_prefix(weight) {
            Some(rest) => Some(format!("{moved}{rest}")),
            None => {
                stem(weight).zip(stem(&moved)).and_then(|(old, new)| Some(format!("{new}{}", key.strip_prefix(&old)?)))
            }
        };
        moved.map_or(Place::Right, |key| Place::Moved { key, kind, mapped: None })
    }
}

/// Whether a key in LDM names is part of a VAE or a text encoder.
fn is_of_other_parts(key: &str) -> bool {
    key.starts_with(vae::PREFIX) || Component::from_key(key) == Component::TextEncoder
}

/// Whether most of the keys of a VAE that differ between the layouts are those of diffusers.
fn is_in_diffusers_names(state_dict: &StateDict, prefix: &str) -> bool {
    let bare = || state_dict.keys().filter_map(|key| key.strip_prefix(prefix));
    let diffusers = bare().filter(|key| key.contains("_blocks.") || key.contains(".mid_block.")).count();
    let ldm = bare().filter(|key| key.contains(".block.") || key.contains(".mid.")).count();
    diffusers > ldm
}

fn moved(key: &str, place: &str, kind: RepairKind, mapped: Option<Mapped<'static>>) -> Place<'static> {
    if key == place { Place::Right } else { Place::Moved { key: place.to_owned(), kind, mapped } }
}

/// Returns where a tensor of a checkpoint belongs.
fn whole(layout: &'static Layout, unet: &str, wrapper: &str, key: &str) -> Place<'static> {
    let is_constant = is_mark_key(key) || quantization::is_marker(key);
    if is_constant || matches!(Component::from_key(key), Component::Schedule | Component::Ema) {
        return Place::Right;
    }
    for rest in spelling::unwrapped(key) {
        let bare = VAE_PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix));
        if let Some((bare, name)) = bare.and_then(|bare| Some((bare, vae_schema::ldm_key(bare)?))) {
            let kind = if bare == name { RepairKind::Prefix } else { RepairKind::VaeNames };
            return moved(key, &format!("{}{name}", vae::PREFIX), kind, None);
        }
    }
    // SD-Turbo has its text encoder where the refiner has it.
    let is_turbo = layout.architecture() == Architecture::Sd2 && key.starts_with("conditioner.embedders.0.model.");
    let is_repaired = |folder: &&Folder| !matches!(folder, Folder::Vae | Folder::ImageEncoder);
    for &folder in Folder::of(layout.architecture()).iter().filter(is_repaired) {
        let Some((prefix, mapped)) = spelling::split(layout, folder, key) else { continue };
        let bare = key.strip_prefix(prefix).unwrap_or(key);
        let is_other = match folder {
            Folder::Unet => prefix != unet,
            // Without the name of a text encoder, the key can be that of another network.
            _ => spelling::is_bare(prefix) || is_turbo,
        };
        if is_other {
            continue;
        }
        let own = folder.ldm_prefix(layout.architecture());
        let is_same = own.and_then(|own| mapped.key.strip_prefix(own)) == Some(bare);
        let kind = match folder {
            _ if is_same => RepairKind::Prefix,
            Folder::Unet => RepairKind::UnetNames,
            _ => RepairKind::TextEncoderNames,
        };
        return moved(key, mapped.key, kind, Some(mapped));
    }
    match stripped(key, wrapper) {
        Place::Right if position_ids::is_key(key) && position_ids_are_stray(layout, key) => Place::Stray,
        place => place,
    }
}

/// Whether position_ids are where no text encoder of the architecture has any.
fn position_ids_are_stray(layout: &Layout, key: &str) -> bool {
    let prefixes = ["cond_stage_model.", "conditioner.", "text_encoders.", "clip_l.", "clip_g.", "clip_h."];
    prefixes.iter().any(|prefix| key.starts_with(prefix)) && layout.to_diffusers(key).next().is_none()
}

/// Returns the place of a key that needs no wrapper.
fn stripped(key: &str, wrapper: &str) -> Place<'static> {
    match key.strip_prefix(wrapper) {
        Some(place) if !place.is_empty() => moved(key, place, RepairKind::Prefix, None),
        _ => Place::Right,
    }
}

/// Returns where a tensor of a VAE alone belongs: in the names that most of its tensors have.
fn lone_vae(prefix: &str, wrapper: &str, is_diffusers: bool, key: &str) -> Place<'static> {
    let name = key.strip_prefix(prefix).and_then(|bare| Some((bare, vae_schema::ldm_key(bare)?)));
    let Some((bare, name)) = name else { return stripped(key, wrapper) };
    let kept = prefix.strip_prefix(wrapper).unwrap_or(prefix);
    let name = match is_diffusers {
        true => diffusers_key(name).unwrap_or_else(|| bare.to_owned()),
        false => name.to_owned(),
    };
    let kind = if bare == name { RepairKind::Prefix } else { RepairKind::VaeNames };
    moved(key, &format!("{kept}{name}"), kind, None)
}

/// Returns the diffusers name of a tensor of a VAE.
fn diffusers_key(name: &str) -> Option<String> {
    let pairs = layout::vae_pairs(vae_schema::widths(vae_schema::PUBLISHED_WIDTH));
    let pair = pairs.into_iter().find(|pair| pair.ldm.key.strip_prefix(vae::PREFIX) == Some(name))?;
    Some(pair.diffusers.key)
}

/// A text encoder alone, in the names that a repair gives it.
pub(super) struct LoneText {
    pub(super) layout: &'static Layout,
    pub(super) folder: Folder,
    /// What precedes its keys.
    pub(super) prefix: String,
}

impl LoneText {
    fn of(state_dict: &StateDict) -> Option<Self> {
        const FIRST_LAYER: [&str; 2] = ["encoder.layers.0.layer_norm1.weight", "transformer.resblocks.0.ln_1.weight"];
        let (key, first) =
            state_dict.keys().find_map(|key| Some((key, FIRST_LAYER.iter().find(|first| key.ends_with(**first))?)))?;
        let start = key.strip_suffix(first)?;
        let has =
            |layer: usize| state_dict.contains(&format!("{start}{}", first.replacen(".0.", &format!(".{layer}."), 1)));
        let (architecture, folder) = match layout::count(|layer| has(*layer)) {
            12 => (Architecture::Sd1, Folder::TextEncoder),
            23 | 24 => (Architecture::Sd2, Folder::TextEncoder),
            32 => (Architecture::SdxlBase, Folder::TextEncoder2),
            _ => return None,
        };
        let placed = match lone_text_encoder(key) {
            Place::Moved { key, .. } => key,
            Place::Right | Place::Stray => key.to_owned(),
        };
        let start = placed.strip_suffix(first)?;
        let prefix = start.strip_suffix("text_model.").unwrap_or(start).to_owned();
        Some(LoneText { layout: Layout::of(architecture), folder, prefix })
    }
}

/// Returns where a tensor of a text encoder alone belongs: under the names of transformers or OpenCLIP, without prefix.
fn lone_text_encoder(key: &str) -> Place<'static> {
    let of_comfy = spelling::unwrapped(key).find_map(|rest| COMFY.iter().find_map(|prefix| rest.strip_prefix(prefix)));
    let place = match of_comfy {
        Some(rest) if rest.starts_with("transformer.resblocks.") => rest,
        Some(rest) => rest.strip_prefix("transformer.").unwrap_or(rest),
        None => {
            let is_known = |rest: &&str| {
                [
                    "text_model.",
                    "cond_stage_model.",
                    "conditioner.",
                    "transformer.resblocks.",
                    "embeddings.",
                    "encoder.",
                ]
                .iter()
                .any(|it| rest.starts_with(it))
            };
            spelling::unwrapped(key).find(is_known).unwrap_or(key)
        }
    };
    moved(key, place, RepairKind::Prefix, None)
}
