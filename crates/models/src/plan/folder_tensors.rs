//! The tensors of a folder: their keys, their shapes and their order, and the ledger with them.

use std::collections::HashMap;

use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::containers::diffusers::SEPARATOR;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::tensor::{LazyTensor, Shape};

use crate::layout::{self, Folder, Layout, Mapped};
use crate::ledger::{Change, Disposition, DropReason, Ledger, LedgerLine, Origin};
use crate::parameterization::is_mark_key;
use crate::{Component, position_ids, quantization, vae};

/// A tensor of a folder: its component, its key, and the tensor.
pub(super) type FolderTensor = (Folder, String, LazyTensor);

/// The destination of a key in LDM names.
pub(super) enum Destination {
    /// These keys in the folder, each after these changes.
    Keys(Vec<(String, Vec<Change>)>),
    /// None, for this reason.
    None(DropReason),
}

/// Fails if a weight is quantized.
pub(super) fn refuse_quantized(state_dict: &StateDict) -> Result<()> {
    match state_dict.keys().find(|key| quantization::is_companion(key)) {
        Some(key) => {
            let found = "part of a quantized weight; a folder needs the weight dequantized";
            Err(Error::unsupported(found).in_tensor(key))
        }
        None => Ok(()),
    }
}

/// Gives the tensors of these components their keys and shapes in the folder.
pub(super) fn rename(
    layout: &Layout,
    state_dict: &StateDict,
    folders: &[Folder],
    is_bare: bool,
) -> Result<(Vec<FolderTensor>, HashMap<String, Destination>)> {
    let mut tensors = Vec::new();
    let mut destinations = HashMap::new();
    for (key, tensor) in state_dict.iter() {
        let canonical = vae::canonical_key(key);
        let mapped: Vec<Mapped<'_>> = layout.to_diffusers(&canonical).collect();
        let destination = match mapped.as_slice() {
            [] => Destination::None(drop_reason(key, false)),
            [first, ..] if !folders.contains(&first.folder) => Destination::None(drop_reason(key, false)),
            [first, ..] if !first.in_folder => Destination::None(drop_reason(key, true)),
            mapped => {
                let mut keys = Vec::new();
                for mapped in mapped {
                    let (fitted, change) = fit(mapped, tensor).map_err(|error| error.in_tensor(key))?;
                    let key = match mapped.key.strip_prefix("text_model.") {
                        Some(bare) if is_bare && mapped.folder == Folder::TextEncoder => bare,
                        _ => mapped.key,
                    };
                    let name = format!("{}{SEPARATOR}{key}", mapped.folder.name());
                    tensors.push((mapped.folder, name.clone(), fitted));
                    keys.push((name, change.into_iter().collect()));
                }
                Destination::Keys(keys)
            }
        };
        destinations.insert(key.to_owned(), destination);
    }
    Ok((tensors, destinations))
}

/// Returns the key that a part of a joined tensor gets when the tensor is split again: the one with the longest end in common.
fn part_of_joined<'a>(input: &str, changes: &[Change], keys: &'a [(String, Vec<Change>)]) -> Option<&'a str> {
    if keys.len() < 2 || !changes.contains(&Change::Joined) {
        return None;
    }
    let common = |key: &str| key.bytes().rev().zip(input.bytes().rev()).take_while(|(a, b)| a == b).count();
    keys.iter().map(|(key, _)| key.as_str()).max_by_key(|key| common(key))
}

/// Returns why folders do not hold a key. `is_known` tells whether the architecture has such a tensor.
fn drop_reason(key: &str, is_known: bool) -> DropReason {
    match Component::from_key(key) {
        _ if is_mark_key(key) => DropReason::RecordedInFolder,
        Component::Ema => DropReason::EmaNotInFolders,
        Component::Schedule => DropReason::ScheduleNotInFolders,
        Component::TrainingResidue => DropReason::ResidueNotInFolders,
        Component::TextEncoder if position_ids::is_key(key) => DropReason::RedundantConstant,
        Component::TextEncoder | Component::ImageEncoder if is_known => DropReason::UnusedByTextEncoder,
        _ => DropReason::NotInFolders,
    }
}

/// Transforms a tensor as the folder needs it. Fails if its shape does not fit.
fn fit(mapped: &Mapped<'_>, tensor: &LazyTensor) -> Result<(LazyTensor, Option<Change>)> {
    let dims = tensor.shape().dims();
    let fitted = mapped
        .fit(dims)
        .ok_or_else(|| Error::mismatch(format!("shape {}, expected one like {:?}", tensor.shape(), mapped.dims)))?;
    let is_reshaped = fitted != dims;
    match mapped.transform {
        layout::Transform::None => {
            let reshaped = tensor.clone().reshape(Shape::new(fitted)?)?;
            Ok((reshaped, is_reshaped.then_some(Change::Reshaped)))
        }
        layout::Transform::Transpose => Ok((tensor.clone().transpose()?, Some(Change::Transposed))),
        layout::Transform::Split(part) => {
            let rows = *fitted.first().or_internal("a part of a fused projection has no rows")?;
            Ok((tensor.clone().rows(part.index() * rows, rows)?, Some(Change::Split)))
        }
        layout::Transform::Join(_) => Err(Error::internal("a tensor of a checkpoint is a part of a folder's tensor")),
    }
}

/// Sorts by component, and within one as the safetensors library does, so that the files are identical to its files.
pub(super) fn in_order(mut tensors: Vec<FolderTensor>) -> Result<StateDict> {
    tensors.sort_by(|(folder, key, tensor), (other_folder, other_key, other)| {
        let by_size = other.dtype().size().cmp(&tensor.dtype().size());
        folder.cmp(other_folder).then(by_size).then_with(|| key.cmp(other_key))
    });
    let mut state_dict = StateDict::new();
    for (_, key, tensor) in tensors {
        state_dict.insert(key, tensor)?;
    }
    Ok(state_dict)
}

/// Replaces the LDM keys of the outputs by those in the folder.
pub(super) fn rename_outputs(mut ledger: Ledger, destinations: &HashMap<String, Destination>) -> Ledger {
    ledger.rewrite(|line| {
        let Disposition::Written { key, changes } = &line.disposition else { return vec![line] };
        let keys = match destinations.get(key) {
            // A constant that this program added before is not an input, so it needs no line.
            Some(Destination::None(_)) if line.from == Origin::Program => return Vec::new(),
            Some(&Destination::None(reason)) => {
                return vec![LedgerLine { disposition: Disposition::Dropped { reason }, ..line }];
            }
            Some(Destination::Keys(keys)) => keys,
            None => return vec![line],
        };
        let is_of_layout = |change: &Change| {
            matches!(change, Change::Renamed | Change::Reshaped | Change::Transposed | Change::Joined | Change::Split)
        };
        let disposition = if keys.iter().any(|(name, _)| *name == line.input) {
            // A round trip from a folder to a folder: the changes of the layout cancel out.
            let changes = changes.iter().filter(|change| !is_of_layout(change)).cloned().collect();
            Disposition::Written { key: line.input.clone(), changes }
        } else if let Some(part) = part_of_joined(&line.input, changes, keys) {
            // Query, key and value were joined and are apart again, under other names.
            let kept = changes.iter().filter(|change| !is_of_layout(change)).cloned();
            Disposition::Written { key: part.to_owned(), changes: [Change::Renamed].into_iter().chain(kept).collect() }
        } else {
            let mut changes = changes.clone();
            changes.push(Change::Renamed);
            changes.extend(keys.iter().flat_map(|(_, changes)| changes).cloned());
            changes.dedup();
            match keys.as_slice() {
                [(key, _)] => Disposition::Written { key: key.clone(), changes },
                keys => Disposition::Split { keys: keys.iter().map(|(name, _)| name.clone()).collect(), changes },
            }
        };
        vec![LedgerLine { disposition, ..line }]
    });
    ledger
}
