//! The tensors of a single file under the keys of the original code, whatever the file calls them.

use std::collections::HashSet;

use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::tensor::{LazyTensor, Shape};

use super::networks::{self, Network};
use super::translate::{FolderTensor, Translation, translate};
use crate::family::Architecture;
use crate::layout::{Folder, Layout, Transform, with_rank};
use crate::ledger::Change;
use crate::parameterization::is_mark_key;
use crate::{Component, position_ids, quantization, vae, vae_schema};

/// Where a tensor goes.
enum Target<'a> {
    /// To this key, as it is or transposed, with this rank if one is given.
    Key { key: &'a str, is_transposed: bool, rank: Option<usize> },
    /// Through the translation of folders.
    Translated { folder: Folder, name: &'a str },
}

/// Returns the tensors of a file whose networks have other keys than those of the original code: without a prefix, with
/// another one, or those of diffusers and transformers. Tensors of no network keep their keys and follow.
///
/// `None` if all keys are those of the original code, and for files that are not understood: of an unknown architecture,
/// with quantized weights, with other networks and no UNet, with other tensors in the UNet, or with a tensor in two spellings.
pub(super) fn to_ldm(state_dict: &StateDict) -> Option<(StateDict, Translation)> {
    let (architecture, mut networks) = networks::find(state_dict)?;
    if state_dict.keys().any(quantization::is_companion) {
        return None;
    }
    let layout = Layout::of(architecture);
    networks.sort_by_key(|network| std::cmp::Reverse(network.prefix.len()));
    let target_of = |key| networks.iter().find_map(|network| target(layout, network, key));
    let has_unet = networks.iter().any(|network| network.folder == Folder::Unet);
    let mut known: Vec<FolderTensor<'_>> = Vec::new();
    let (mut direct, mut taken) = (Vec::new(), HashSet::new());
    let mut is_canonical = true;
    for (key, tensor) in state_dict.iter() {
        match target_of(key) {
            Some(Target::Translated { folder, name }) => {
                is_canonical &= layout.to_ldm(folder, name).is_some_and(|mapped| mapped.key == key);
                known.push((folder, name, key, tensor));
            }
            Some(Target::Key { key: to, is_transposed, rank }) => {
                if !taken.insert(to) {
                    return None;
                }
                let (moved, mut changes) = moved(tensor, is_transposed, rank)?;
                if to != key {
                    changes.insert(0, Change::Renamed);
                }
                is_canonical &= changes.is_empty();
                direct.push((key, to, moved, changes));
            }
            None if is_of_unet(&networks, key) => return None,
            None if has_unet || is_mark_key(key) => direct.push((key, key, tensor.clone(), Vec::new())),
            None => return None,
        }
    }
    if is_canonical {
        return None;
    }
    let (mut found, mut translation) = translate(Layout::of(architecture), &known).ok()?;
    for (key, to, tensor, changes) in direct {
        found.insert(to, tensor).ok()?;
        if !changes.is_empty() {
            translation.changed(key, to, changes);
        }
    }
    Some((found, translation))
}

/// Returns whether a key that no layout has is of the UNet of a file: then the UNet is another one. Without a prefix, so are
/// those of no other part of a checkpoint.
fn is_of_unet(networks: &[Network<'_>], key: &str) -> bool {
    let Some(unet) = networks.iter().find(|network| network.folder == Folder::Unet) else { return false };
    match unet.prefix {
        "" => Component::from_key(key) == Component::Other && !is_mark_key(key) && !position_ids::is_key(key),
        prefix => key.starts_with(prefix),
    }
}

/// Returns where a tensor of a network goes; `None` if the network has no such key.
fn target<'a>(layout: &'a Layout, network: &Network<'_>, key: &'a str) -> Option<Target<'a>> {
    let name = key.strip_prefix(network.prefix)?;
    let folder = network.folder;
    // The attention of the VAE of Stable Diffusion has more names than the layouts have.
    let is_plain_vae = folder == Folder::Vae && layout.architecture() != Architecture::StableVideo;
    if !network.is_ldm && !is_plain_vae {
        let is_known = layout.to_ldm(folder, name).is_some() || layout.is_redundant(folder, name);
        return is_known.then_some(Target::Translated { folder, name });
    }
    let full = match folder {
        Folder::Vae if is_plain_vae => format!("{}{}", vae::PREFIX, vae_schema::ldm_key(name)?),
        _ => format!("{}{name}", folder.ldm_prefix(layout.architecture())?),
    };
    let mapped = layout.to_diffusers(&full).next()?;
    let written = layout.to_ldm(mapped.folder, mapped.key)?;
    let is_transposed = written.transform == Transform::Transpose && mapped.transform == Transform::None;
    let rank = (folder == Folder::Vae).then_some(written.dims.len());
    Some(Target::Key { key: written.key, is_transposed, rank })
}

/// Returns a tensor as the original code has it, and the changes. `None` if its shape does not fit.
fn moved(tensor: &LazyTensor, is_transposed: bool, rank: Option<usize>) -> Option<(LazyTensor, Vec<Change>)> {
    if is_transposed {
        return Some((tensor.clone().transpose().ok()?, vec![Change::Transposed]));
    }
    let dims = tensor.shape().dims();
    match rank.and_then(|rank| with_rank(dims, rank)) {
        Some(fitted) if fitted != dims => {
            Some((tensor.clone().reshape(Shape::new(fitted).ok()?).ok()?, vec![Change::Reshaped]))
        }
        _ => Some((tensor.clone(), Vec::new())),
    }
}
