//! Finds the networks of Stable Diffusion in a single file by a few of their keys, whatever prefix they have.

use std::collections::BTreeSet;

use crate::detection::detect_by;
use crate::family::Architecture;
use crate::layout::{self, Folder};
use trinart_ckpt_formats::StateDict;

/// A network in a file.
#[derive(Debug, Clone)]
pub(super) struct Network<'a> {
    /// What precedes the keys of the network; empty, or with a dot at its end.
    pub(super) prefix: &'a str,
    pub(super) folder: Folder,
    /// Whether the keys are those of the original code, rather than those of diffusers and transformers. CLIP ViT-L has the
    /// same keys in both.
    pub(super) is_ldm: bool,
    /// The architectures that can have the network.
    candidates: Vec<Architecture>,
}

/// A key of a network, without its prefix, that others lack; a second key that it has too; and the network.
const SIGNATURES: &[(&str, &str, Folder, bool)] = &[
    ("output_blocks.0.0.in_layers.0.weight", "time_embed.0.weight", Folder::Unet, true),
    ("up_blocks.0.resnets.0.norm1.weight", "time_embedding.linear_1.weight", Folder::Unet, false),
    ("up_blocks.0.resnets.0.spatial_res_block.norm1.weight", "time_embedding.linear_1.weight", Folder::Unet, false),
    ("zero_convs.0.0.weight", "time_embed.0.weight", Folder::ControlNet, true),
    ("controlnet_down_blocks.0.weight", "time_embedding.linear_1.weight", Folder::ControlNet, false),
    ("decoder.up.0.block.0.norm1.weight", "encoder.conv_in.weight", Folder::Vae, true),
    ("decoder.up_blocks.0.resnets.0.norm1.weight", "encoder.conv_in.weight", Folder::Vae, false),
    ("decoder.up_blocks.0.resnets.0.spatial_res_block.norm1.weight", "encoder.conv_in.weight", Folder::Vae, false),
    ("text_model.embeddings.token_embedding.weight", CLIP_LAYER, Folder::TextEncoder, false),
    ("embeddings.token_embedding.weight", BARE_CLIP_LAYER, Folder::TextEncoder, false),
    ("token_embedding.weight", OPEN_CLIP_LAYER, Folder::TextEncoder, true),
];

const CLIP_LAYER: &str = "text_model.encoder.layers.0.layer_norm1.weight";
const BARE_CLIP_LAYER: &str = "encoder.layers.0.layer_norm1.weight";
const OPEN_CLIP_LAYER: &str = "transformer.resblocks.0.ln_1.weight";

/// Finds the networks of a file, and the architecture that all of them can be of. Leaves out networks of others, and
/// further networks of the same kind. `None` if there is no network, or if the architecture is unknown.
pub(super) fn find(state_dict: &StateDict) -> Option<(Architecture, Vec<Network<'_>>)> {
    let mut networks: Vec<Network<'_>> = Vec::new();
    for key in state_dict.keys() {
        for &(signature, other, folder, is_ldm) in SIGNATURES {
            let Some(prefix) = key.strip_suffix(signature) else { continue };
            let is_prefix = prefix.is_empty() || prefix.ends_with('.');
            // `text_model.` belongs to the keys of the network.
            let is_inner = signature.starts_with("embeddings.") && prefix.ends_with("text_model.");
            if is_prefix && !is_inner && state_dict.contains(&format!("{prefix}{other}")) {
                networks.extend(network(state_dict, prefix, folder, is_ldm));
            }
        }
    }
    let unet = networks.iter().find(|network| network.folder == Folder::Unet);
    let possible: Vec<Architecture> = match unet {
        Some(unet) => unet.candidates.clone(),
        None => Architecture::ALL
            .iter()
            .copied()
            .filter(|it| networks.iter().all(|all| all.candidates.contains(it)))
            .collect(),
    };
    let architecture = *possible.first()?;
    let mut seen = BTreeSet::new();
    networks.retain(|network| network.candidates.contains(&architecture) && seen.insert(network.folder));
    (!networks.is_empty()).then_some((architecture, networks))
}

/// Returns the network with this prefix; `None` if it is of no known architecture.
fn network<'a>(state_dict: &StateDict, prefix: &'a str, folder: Folder, is_ldm: bool) -> Option<Network<'a>> {
    let dims = |key: &str| state_dict.get(&format!("{prefix}{key}")).map(|tensor| tensor.shape().dims().to_vec());
    let (folder, candidates) = match folder {
        Folder::Unet | Folder::ControlNet => (folder, vec![detect_by(&dims).architecture()?]),
        Folder::Vae => {
            let is_video = detect_by(&dims).architecture() == Some(Architecture::StableVideo);
            let fits = |it: &Architecture| (*it == Architecture::StableVideo) == is_video;
            (folder, Architecture::ALL.iter().copied().filter(fits).collect())
        }
        Folder::ImageEncoder => return None,
        Folder::TextEncoder | Folder::TextEncoder2 => {
            let has_layer = |layer: &usize| {
                let has = |key: &str| {
                    state_dict.contains(&format!("{prefix}{}", key.replacen(".0.", &format!(".{layer}."), 1)))
                };
                [CLIP_LAYER, BARE_CLIP_LAYER, OPEN_CLIP_LAYER].into_iter().any(has)
            };
            match layout::count(has_layer) {
                // The same network, in places of their own.
                12 if prefix.starts_with("conditioner.") => (Folder::TextEncoder, Architecture::XL_BASES.to_vec()),
                12 => (Folder::TextEncoder, Architecture::WITH_CLIP_L.to_vec()),
                23 | 24 => (Folder::TextEncoder, vec![Architecture::Sd2]),
                32 if prefix == "conditioner.embedders.0.model." => {
                    (Folder::TextEncoder2, vec![Architecture::SdxlRefiner])
                }
                32 if prefix.starts_with("conditioner.") => (Folder::TextEncoder2, Architecture::XL_BASES.to_vec()),
                32 => (Folder::TextEncoder2, Architecture::WITH_CLIP_G.to_vec()),
                _ => return None,
            }
        }
    };
    Some(Network { prefix, folder, is_ldm, candidates })
}
