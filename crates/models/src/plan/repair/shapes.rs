//! The shapes that the tensors of a file must have.

use std::collections::HashMap;

use super::names::Names;
use crate::layout::{self, Folder, Layout};
use crate::{position_ids, vae, vae_schema};

/// Returns the dimensions that each tensor must have, by its key. `dims` returns those that it has. Tensors of unknown
/// networks are missing, and so are those of networks whose sizes are unknown.
pub(super) fn expected(names: &Names<'_>, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> HashMap<String, Vec<u64>> {
    match names {
        Names::Whole { layout, .. } => whole(layout, dims),
        Names::Vae { prefix, wrapper, is_diffusers } => {
            let kept = prefix.strip_prefix(wrapper).unwrap_or(prefix);
            lone_vae(kept, *is_diffusers, dims)
        }
        Names::Network { layout, folder, prefix, wrapper } => {
            let kept = prefix.strip_prefix(wrapper).unwrap_or(prefix);
            lone(layout, *folder, kept, dims)
        }
        Names::TextEncoder(Some(text)) => lone(text.layout, text.folder, &text.prefix, dims),
        Names::TextEncoder(None) | Names::Wrapped { .. } | Names::Other => HashMap::new(),
    }
}

/// The ranks of a network alone under a prefix, in LDM or diffusers names. Tensors whose shapes do not fit are missing:
/// other programs than those for checkpoints may take them.
fn lone(
    layout: &Layout,
    folder: Folder,
    prefix: &str,
    dims: &dyn Fn(&str) -> Option<Vec<u64>>,
) -> HashMap<String, Vec<u64>> {
    let Some(ldm) = folder.ldm_prefix(layout.architecture()) else { return HashMap::new() };
    let stored = |name: &str| dims(&format!("{prefix}{name}"));
    let of_ldm = |key: &str| stored(key.strip_prefix(ldm)?);
    let in_ldm_names = Layout::measured(layout.architecture(), &of_ldm);
    let of_folder = |found: Folder, name: &str| stored(name).filter(|_| found == folder);
    let in_diffusers_names = Layout::measured_in_folder(layout.architecture(), &of_folder);
    let of_pair = |pair: &layout::Pair| {
        let spelled = pair.ldm_spellings().filter_map(|key| key.strip_prefix(ldm));
        spelled.map(|name| (name.to_owned(), pair.ldm.dims.clone())).collect::<Vec<_>>()
    };
    let in_folder = |pair: &layout::Pair| {
        pair.diffusers_spellings().map(|name| (name.to_owned(), pair.diffusers.dims.clone())).collect::<Vec<_>>()
    };
    let is_own = |pair: &&layout::Pair| pair.folder == folder;
    let names = in_ldm_names.pairs().iter().filter(is_own).flat_map(of_pair);
    let names = names.chain(in_diffusers_names.pairs().iter().filter(is_own).flat_map(in_folder));
    let found = names.filter_map(|(name, expected)| {
        let fits = vae_schema::fits(&stored(&name)?, &expected) && !position_ids::is_key(&name);
        fits.then(|| (format!("{prefix}{name}"), expected))
    });
    found.collect()
}

fn whole(layout: &Layout, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> HashMap<String, Vec<u64>> {
    let measured = Layout::measured(layout.architecture(), dims);
    let networks = Folder::of(layout.architecture()).iter().filter(|folder| **folder != Folder::Vae);
    let schemas = networks.flat_map(|folder| measured.ldm_schema(*folder));
    let mut expected: HashMap<String, Vec<u64>> =
        schemas.map(|schema| (schema.key.clone(), schema.dims.clone())).collect();
    expected.extend(lone_vae(vae::PREFIX, false, dims));
    expected
}

/// The shapes of a VAE under a prefix, in LDM or diffusers names.
fn lone_vae(prefix: &str, is_diffusers: bool, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> HashMap<String, Vec<u64>> {
    let name = |pair: &layout::Pair| match is_diffusers {
        true => pair.diffusers.key.clone(),
        false => pair.ldm.key.strip_prefix(vae::PREFIX).unwrap_or(&pair.ldm.key).to_owned(),
    };
    let published = layout::vae_pairs(vae_schema::widths(vae_schema::PUBLISHED_WIDTH));
    let stored: HashMap<&str, String> = published
        .iter()
        .map(|pair| {
            (pair.ldm.key.strip_prefix(vae::PREFIX).unwrap_or(&pair.ldm.key), format!("{prefix}{}", name(pair)))
        })
        .collect();
    let Some(widths) = vae_schema::measure(&|key| dims(stored.get(key)?)) else { return HashMap::new() };
    let pairs = layout::vae_pairs(widths);
    let of_pair = |pair: &layout::Pair| {
        let dims = if is_diffusers { pair.diffusers.dims.clone() } else { pair.ldm.dims.clone() };
        (format!("{prefix}{}", name(pair)), dims)
    };
    pairs.iter().map(of_pair).collect()
}
