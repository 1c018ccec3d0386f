//! Plans the repair of a file: names that programs do not look for, wrong ranks, position_ids, F64, duplicates, bytes behind
//! the tensors.
//!
//! Only what is decidable without guessing is repaired. Nothing else changes: other tensors keep their bytes, their keys and
//! their order.

mod kind;
mod names;
mod shapes;

use std::collections::HashSet;

use indexmap::IndexMap;

use crate::checkpoint::{Checkpoint, MappedTensor, assemble};
use crate::compare::{TensorComparison, compare};
use crate::completeness::completeness;
use crate::layout::{Folder, Mapped, Transform, is_needed};
use crate::ledger::{Change, DropReason, Origin};
use crate::plan::convert::{self, ConvertOptions};
use crate::plan::{Account, Cast, Draft, Resolved};
use crate::{Component, NoticeCode, position_ids};
use kind::Repairs;
pub use kind::{Repair, RepairKind};
use names::{Names, Place};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::containers::{Container, OpaqueValue};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow, Shape};

/// A file after its repair.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Repaired {
    /// The repairs; empty for a file without defects.
    pub repairs: Vec<Repair>,
    /// The plan. Another plan for [`Self::checkpoint`] can follow it; see [`Resolved::then`].
    pub resolved: Resolved,
    /// The output as a checkpoint.
    pub checkpoint: Checkpoint,
}

/// A tensor on its way to a place.
struct Source<'a> {
    key: &'a str,
    tensor: &'a LazyTensor,
    mapped: Option<Mapped<'static>>,
    /// The kind of the repair that moves it; `None` if it is in its place.
    kind: Option<RepairKind>,
}

/// Plans the repair of a checkpoint, a UNet, a ControlNet, a VAE or a text encoder. Other files have only defects of the file
/// itself, and a prefix that training put before all their keys.
///
/// Reads position_ids, and tensors that occur twice. Fails if a defect cannot be repaired: two tensors claim the same name
/// and differ, a component lacks tensors, or a shape is not that of the architecture.
pub fn plan(checkpoint: &Checkpoint) -> Result<Repaired> {
    repair(checkpoint).map_err(|error| error.in_file(checkpoint.path()))
}

fn repair(checkpoint: &Checkpoint) -> Result<Repaired> {
    checkpoint.refuse_unreadable()?;
    let names = Names::of(checkpoint);
    let mut work = Work { checkpoint, names: &names, repairs: Repairs::default(), draft: Draft::default() };
    work.draft.metadata = checkpoint.metadata().clone();
    work.run()?;
    let Work { repairs, mut draft, .. } = work;
    let mut repairs = translated(checkpoint, repairs);
    checkpoint.translation().trace_back(Origin::Checkpoint, &mut draft.ledger);
    draft.notices.extend(checkpoint.translation().notices.iter().cloned());
    let account = Account::default().input(Origin::Checkpoint, checkpoint);
    let mut resolved = draft.check(&account)?;
    let mut repaired = checkpoint.with_tensors(resolved.state_dict.clone(), resolved.metadata.clone());
    if find_position_ids(&repaired, &names, &mut repairs)? {
        let fixed = convert::plan(&repaired, &ConvertOptions::default().fix_position_ids(true))?;
        resolved = resolved.then(fixed)?;
        // The repairs say it.
        let is_said = [NoticeCode::PositionIdsFixed, NoticeCode::PositionIdsAdded, NoticeCode::UnknownKept];
        resolved.notices.retain(|notice| !is_said.contains(&notice.code));
        repaired = checkpoint.with_tensors(resolved.state_dict.clone(), resolved.metadata.clone());
    }
    refuse_incomplete(&repaired, &names)?;
    let mut repairs = repairs.0;
    repairs.extend(of_file(checkpoint.stored()));
    Ok(Repaired { repairs, resolved, checkpoint: repaired })
}

/// Returns the repairs of the file itself: of a state dict inside the state dict, and of bytes behind the tensors.
pub fn of_file(stored: &StoredCheckpoint) -> Vec<Repair> {
    let root = stored.root();
    let inner = if root.is_empty() { "state_dict".to_owned() } else { format!("{root}.state_dict") };
    let is_inner = |value: &&OpaqueValue| value.path == inner;
    let mut repairs: Vec<Repair> = Vec::new();
    repairs.extend(stored.opaque().iter().filter(is_inner).map(|value| Repair {
        kind: RepairKind::InnerStateDict,
        keys: Vec::new(),
        before: format!("{} ({}) beside the tensors", value.path, value.what),
        after: "left out".to_owned(),
    }));
    repairs.extend(stored.trailing_bytes().iter().map(|trailing| Repair {
        kind: RepairKind::TrailingBytes,
        keys: Vec::new(),
        before: format!("{} bytes at offset {}", trailing.bytes, trailing.offset),
        after: "none".to_owned(),
    }));
    repairs
}

/// Adds the names that opening a single file in diffusers names has changed already.
fn translated(checkpoint: &Checkpoint, mut repairs: Repairs) -> Repairs {
    if checkpoint.container() == Container::Diffusers {
        return repairs;
    }
    let (translation, state_dict) = (checkpoint.translation(), checkpoint.state_dict());
    for key in state_dict.keys().filter(|key| translation.is_added(key)) {
        let positions = position_ids::positions(state_dict, key).unwrap_or(0);
        repairs.add(RepairKind::PositionIds, key, "missing", &position_ids::describe(positions));
    }
    for (key, stored) in translation.renamed_keys(state_dict) {
        let kind = match Component::from_key(key) {
            Component::Unet => RepairKind::UnetNames,
            Component::Vae => RepairKind::VaeNames,
            Component::TextEncoder => RepairKind::TextEncoderNames,
            _ => RepairKind::Prefix,
        };
        for input in stored {
            repairs.rename(kind, input, key);
        }
    }
    repairs
}

struct Work<'a> {
    checkpoint: &'a Checkpoint,
    names: &'a Names<'a>,
    repairs: Repairs,
    draft: Draft,
}

impl<'a> Work<'a> {
    fn run(&mut self) -> Result<()> {
        let mut places: IndexMap<String, Vec<Source<'a>>> = IndexMap::new();
        for (key, tensor) in self.checkpoint.state_dict().iter() {
            match self.names.place(key) {
                Place::Right => {
                    places.entry(key.to_owned()).or_default().push(Source { key, tensor, mapped: None, kind: None })
                }
                Place::Moved { key: place, kind, mapped } => {
                    places.entry(place).or_default().push(Source { key, tensor, mapped, kind: Some(kind) });
                }
                Place::Stray => {
                    self.repairs.add(RepairKind::StrayPositionIds, key, "where no text encoder has any", "left out");
                    self.draft.ledger.dropped(Origin::Checkpoint, key, DropReason::RedundantConstant);
                }
            }
        }
        let mut tensors = IndexMap::new();
        for (place, sources) in places {
            tensors.insert(place.clone(), self.tensor(&place, sources)?);
        }
        let shapes = shapes::expected(self.names, &|key| {
            tensors.get(key).map(|(_, tensor, _): &(Vec<&str>, LazyTensor, Vec<Change>)| tensor.shape().dims().to_vec())
        });
        for (place, (keys, tensor, changes)) in tensors {
            self.put(&place, &keys, tensor, changes, shapes.get(&place).map(Vec::as_slice))?;
        }
        Ok(())
    }

    fn note_rename(&mut self, kind: RepairKind, key: &str, place: &str) {
        if kind != RepairKind::Prefix {
            self.repairs.rename(kind, key, place);
            return;
        }
        // What remains when the common end is taken off, up to a dot.
        let common = key.bytes().rev().zip(place.bytes().rev()).take_while(|(a, b)| a == b).count();
        let end = key.get(key.len() - common..).unwrap_or_default();
        let begin = if common == place.len() { 0 } else { end.find('.').map_or(end.len(), |dot| dot + 1) };
        let rest = end.len() - begin;
        let before = key.get(..key.len() - rest).unwrap_or(key);
        let after = place.get(..place.len() - rest).unwrap_or(place);
        let after = if after.is_empty() { "none" } else { after };
        self.repairs.add(RepairKind::Prefix, key, before, after);
    }

    /// Makes the tensor of a place from its sources. Duplicates must be equal.
    fn tensor(&mut self, place: &str, mut sources: Vec<Source<'a>>) -> Result<(Vec<&'a str>, LazyTensor, Vec<Change>)> {
        let is_join =
            |source: &Source<'_>| source.mapped.is_some_and(|mapped| matches!(mapped.transform, Transform::Join(_)));
        let is_joined = sources.iter().any(is_join);
        if is_joined && !sources.iter().all(is_join) {
            let other = sources.iter().find(|source| is_join(source)).or_internal("a place has no source")?;
            let found = format!("the file has {place} whole and in parts; a repair cannot tell which is right");
            return Err(Error::conflict(found).in_tensor(other.key));
        }
        if !is_joined && sources.len() > 1 {
            // The tensor that is in its place already stays.
            let first = sources.iter().position(|source| source.key == place).unwrap_or(0);
            let kept = sources.remove(first);
            for other in sources.drain(..) {
                let is_equal = kept.tensor.shape().elements() == other.tensor.shape().elements()
                    && compare(&kept.tensor.clone().reshape(other.tensor.shape().clone())?, other.tensor, &NoProgress)?
                        == TensorComparison::Equal;
                if !is_equal {
                    let found = format!(
                        "differs from {}, and both belong under {place}; a repair cannot tell which is right",
                        kept.key
                    );
                    return Err(Error::conflict(found).in_tensor(other.key));
                }
                self.repairs.add(RepairKind::Duplicate, other.key, "twice", "once");
                self.draft.ledger.dropped(Origin::Checkpoint, other.key, DropReason::Duplicate);
            }
            sources.push(kept);
        }
        for source in &sources {
            if let Some(kind) = source.kind {
                self.note_rename(kind, source.key, place);
            }
        }
        let keys: Vec<&str> = sources.iter().map(|source| source.key).collect();
        let needs_transform =
            |source: &Source<'_>| source.mapped.is_some_and(|mapped| mapped.transform != Transform::None);
        let mut changes = Vec::new();
        let tensor = if sources.iter().any(needs_transform) {
            let parts = sources.iter().filter_map(|source| {
                Some(MappedTensor { mapped: source.mapped?, key: source.key, tensor: source.tensor })
            });
            let (tensor, transformed) =
                assemble(parts.collect()).map_err(|error| error.in_tensor(keys.first().copied().unwrap_or(place)))?;
            changes.extend(transformed);
            tensor
        } else {
            sources.first().or_internal("a place has no source")?.tensor.clone()
        };
        if keys != [place] {
            changes.insert(0, Change::Renamed);
        }
        Ok((keys, tensor, changes))
    }

    /// Adds a tensor to the output, in the expected shape and not in F64.
    fn put(
        &mut self,
        place: &str,
        keys: &[&str],
        mut tensor: LazyTensor,
        mut changes: Vec<Change>,
        expected: Option<&[u64]>,
    ) -> Result<()> {
        let first = *keys.first().or_internal("a place has no source")?;
        let is_known = !matches!(self.names, Names::Wrapped { .. } | Names::Other);
        // position_ids of another dtype are replaced, whatever their shape.
        let is_replaced = position_ids::is_key(place) && tensor.dtype() != Dtype::I64;
        if let Some(expected) = expected.filter(|expected| !is_replaced && *expected != tensor.shape().dims()) {
            if !crate::vae_schema::fits(tensor.shape().dims(), expected) {
                let found = format!("shape {}, expected {expected:?}; a repair cannot change it", tensor.shape());
                return Err(Error::mismatch(found).in_tensor(first));
            }
            let rank = |dims: usize| format!("{dims} dimensions");
            let (before, after) = (rank(tensor.shape().dims().len()), rank(expected.len()));
            let (before, after) = match before == after {
                true => (tensor.shape().to_string(), format!("{expected:?}")),
                false => (before.replace("1 dimensions", "1 dimension"), after.replace("1 dimensions", "1 dimension")),
            };
            keys.iter().for_each(|key| self.repairs.add(RepairKind::Ranks, key, &before, &after));
            tensor = tensor.reshape(Shape::new(expected.to_vec())?).map_err(|error| error.in_tensor(first))?;
            changes.push(Change::Reshaped);
        }
        if is_known && tensor.dtype() == Dtype::F64 && !position_ids::is_key(place) {
            keys.iter().for_each(|key| self.repairs.add(RepairKind::Dtype, key, "F64", "F32"));
            let cast = Cast { to: Dtype::F32, overflow: Overflow::Refuse };
            let (cast, change) = Cast::apply(Some(cast), place, &tensor).map_err(|error| error.in_tensor(first))?;
            tensor = cast;
            changes.extend(change);
        }
        self.draft.state_dict.insert(place, tensor)?;
        for key in keys {
            self.draft.ledger.written(Origin::Checkpoint, key, place, changes.clone());
        }
        Ok(())
    }
}

/// Records position_ids that are wrong, and those that a checkpoint lacks. Returns whether there are any.
fn find_position_ids(checkpoint: &Checkpoint, names: &Names<'_>, repairs: &mut Repairs) -> Result<bool> {
    let state_dict = checkpoint.state_dict();
    let mut found = false;
    if !matches!(names, Names::Whole { .. } | Names::TextEncoder(_)) {
        return Ok(false);
    }
    for (key, tensor) in state_dict.iter() {
        if position_ids::is_key(key) {
            let positions = position_ids::positions(state_dict, key);
            let state = position_ids::check(tensor, positions).map_err(|error| error.in_tensor(key))?;
            let before = match state {
                position_ids::State::Correct => continue,
                position_ids::State::WrongDtype => format!("{} instead of I64", tensor.dtype()),
                position_ids::State::WrongValues => format!("wrong values, {}", tensor.dtype()),
            };
            let positions = positions.unwrap_or_else(|| tensor.shape().elements());
            repairs.add(RepairKind::PositionIds, key, &before, &position_ids::describe(positions));
            found = true;
        } else if matches!(names, Names::Whole { .. })
            && let Some(ids) = position_ids::key_beside(key).filter(|ids| !state_dict.contains(ids))
        {
            let positions = position_ids::positions(state_dict, &ids).unwrap_or(0);
            repairs.add(RepairKind::PositionIds, &ids, "missing", &position_ids::describe(positions));
            found = true;
        }
    }
    Ok(found)
}

/// Fails if a component of a checkpoint, or a VAE alone, lacks tensors.
fn refuse_incomplete(checkpoint: &Checkpoint, names: &Names<'_>) -> Result<()> {
    let state_dict = checkpoint.state_dict();
    let refuse = |component: Component, lacking: &[&str]| {
        let Some(first) = lacking.first() else { return Ok(()) };
        let more = if lacking.len() > 1 { format!(", and {} others", lacking.len() - 1) } else { String::new() };
        let found =
            format!("missing{more}; a repair cannot restore it: take the {} from another file", component.text());
        Err(Error::missing(found).in_tensor(*first))
    };
    match names {
        Names::Whole { .. } => {
            let architecture = names.architecture();
            for component in [Component::Unet, Component::Vae, Component::TextEncoder] {
                let is_there = state_dict.keys().any(|key| Component::from_key(key) == component);
                if let Some(found) = completeness(state_dict, component, architecture).filter(|_| is_there) {
                    refuse(component, &missing_of_present(&found.missing, state_dict, architecture))?;
                }
            }
            Ok(())
        }
        Names::Vae { .. } => {
            let expected = shapes::expected(names, &|key| state_dict.get(key).map(|it| it.shape().dims().to_vec()));
            let dims = |key: &str| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec());
            let is_missing = |key: &&str| !state_dict.contains(key) && is_needed(key, &dims);
            let mut missing: Vec<&str> = expected.keys().map(String::as_str).filter(is_missing).collect();
            missing.sort_unstable();
            refuse(Component::Vae, &missing)
        }
        Names::Network { .. } | Names::TextEncoder(_) | Names::Wrapped { .. } | Names::Other => Ok(()),
    }
}

/// Returns the missing keys of networks that the file has at all: SDXL has two text encoders, of which one may be left out.
fn missing_of_present<'k>(
    missing: &'k [String],
    state_dict: &trinart_ckpt_formats::state_dict::StateDict,
    architecture: Option<crate::family::Architecture>,
) -> Vec<&'k str> {
    let prefix = |key: &str| {
        let prefixes =
            architecture.into_iter().flat_map(|it| Folder::ALL.iter().filter_map(move |folder| folder.ldm_prefix(it)));
        prefixes.into_iter().find(|prefix| key.starts_with(prefix))
    };
    let present: HashSet<&str> = state_dict.keys().filter_map(prefix).collect();
    missing.iter().map(String::as_str).filter(|key| prefix(key).is_none_or(|prefix| present.contains(prefix))).collect()
}
