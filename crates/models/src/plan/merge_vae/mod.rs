//! Plans a merge of a VAE into a checkpoint.
//!
//! The measure is the schema of the VAE, which WebUI loads with `strict=True`: a complete VAE replaces everything that
//! the checkpoint has of one, whatever its state, and each tensor gets the key and the rank of the schema. Roles,
//! families, keys and shapes are checked before anything is written.

mod dequantize;
mod donor;
mod family;
mod old_vae;
mod options;
mod roles;
#[cfg(test)]
mod tests;
mod widths;

use std::collections::HashSet;

use indexmap::IndexMap;

use crate::checkpoint::Checkpoint;
use crate::layout::Folder;
use crate::ledger::{Change, DropReason, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Account, Cast, Draft, Resolved, unrecorded};
use crate::position_ids;
use crate::vae::{self, Role};
use crate::vae_schema::{self, VaeSchema};
use donor::Donor;
pub use family::check_published;
use old_vae::OldVae;
pub use options::{MergeVaeOptions, VaeDtype};
use trinart_ckpt_formats::error::{Error, Hint, OrInternal, Result, printable};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{LazyTensor, Shape};

/// Plans a merge of the VAE in `vae` into `base`. `vae` may be a bare VAE, a diffusers `AutoencoderKL`, or a whole
/// checkpoint. Other tensors keep their keys and their order. A VAE tensor takes the place of the one it replaces; if
/// there is none, it goes behind the old VAE, or before the text encoder.
///
/// Fails if `base` has no Stable Diffusion UNet, if `vae` has no VAE or several, if it lacks a tensor of the schema or has
/// an unknown one, if a shape does not fit, and if the families contradict each other.
pub fn plan(base: &Checkpoint, vae: &Checkpoint, options: &MergeVaeOptions) -> Result<Resolved> {
    roles::check(base, vae, options)?;
    unrecorded::refuse(vae, Folder::Vae).map_err(|error| error.in_file(vae.path()))?;
    let account = Account::default().input(Origin::Checkpoint, base).input(Origin::Vae, vae);
    let merging = |error: Error| {
        error.during(format!("merging into {}", printable(&base.path().to_string_lossy()))).in_file(vae.path())
    };
    let vae = dequantize::vae(vae, options).map_err(merging)?;
    let vae = vae.as_ref();
    let base = dequantize::base(base, options)?;
    let base = base.as_ref();
    let donor = Donor::find(vae).map_err(merging)?;
    refuse_unreadable(base)?;
    let family = family::check(base, vae, options.allow_family_mismatch).map_err(merging)?;
    let old = OldVae::find(base.state_dict());
    let schema = widths::schema(base.state_dict(), &old, &donor).map_err(merging)?;
    let sources = sources(&schema, &donor, &old, options).map_err(merging)?;
    let mut merge = Merge {
        base,
        donor: &donor,
        old: &old,
        schema: &schema,
        options,
        sources,
        written: HashSet::new(),
        draft: Draft { metadata: base.metadata().clone(), ..Draft::default() },
    };
    merge.run()?;
    let mut draft = merge.draft;
    for (key, tensor) in base.state_dict().iter().filter(|_| !options.dequantize) {
        let notice = position_ids::notice(key, tensor, position_ids::positions(base.state_dict(), key));
        draft.notices.extend(notice.map_err(|error| error.in_tensor(key).in_file(base.path()))?);
    }
    base.translation().trace_back(Origin::Checkpoint, &mut draft.ledger);
    vae.translation().trace_back(Origin::Vae, &mut draft.ledger);
    draft.notices.extend(family);
    draft.notices.extend(base.translation().notices_about_the_rest().cloned());
    draft.notices.extend(vae.translation().notices.iter().filter(|it| it.code == NoticeCode::Dequantized).cloned());
    draft.check(&account).map_err(|error| error.in_file(base.path()))
}

/// Returns whether a VAE can be merged into a file.
pub fn takes_vae(base: &Checkpoint) -> bool {
    roles::is_base(base)
}

/// Returns whether a file has a VAE that can be merged into a checkpoint without one, as it is.
pub fn has_vae(vae: &Checkpoint) -> bool {
    let complete = |vae: &Checkpoint| -> Result<bool> {
        let vae = dequantize::vae(vae, &MergeVaeOptions::default())?;
        let donor = Donor::find(vae.as_ref())?;
        let without = StateDict::new();
        let old = OldVae::find(&without);
        let schema = widths::schema(&without, &old, &donor)?;
        sources(&schema, &donor, &old, &MergeVaeOptions::default()).map(|_| true)
    };
    complete(vae).unwrap_or(false)
}

/// Returns whether a key of a checkpoint is part of the VAE that a merge replaces, under whatever prefix.
pub fn is_of_old_vae(key: &str) -> bool {
    old_vae::name_of(key).is_some()
}

/// Fails if the checkpoint has a tensor that cannot be read, unless the merge replaces it.
fn refuse_unreadable(base: &Checkpoint) -> Result<()> {
    base.stored().refuse_unreadable_among(|key| !is_of_old_vae(key))
}

/// The input of a tensor of the new VAE.
type Source<'a> = (Origin, &'a str, &'a LazyTensor);

/// Returns the input of each tensor of the schema, by its key without prefix, in the order of the donor. Fails if the
/// donor lacks a tensor or has an unknown one, unless the merge is partial and the checkpoint's own tensor fits.
fn sources<'a>(
    schema: &VaeSchema,
    donor: &Donor<'a>,
    old: &OldVae<'a>,
    options: &MergeVaeOptions,
) -> Result<IndexMap<&'static str, Source<'a>>> {
    let in_schema = |name: &&'static str| schema.get(name).is_some();
    let unknown = donor.names().filter(|name| !in_schema(name)).map(|name| donor.stored_key(name));
    let unknown = donor.unknown().first().map(|&key| key.to_owned()).or_else(|| unknown.into_iter().next());
    if let Some(unknown) = unknown.filter(|_| !options.partial) {
        return Err(Error::mismatch("unknown key: a Stable Diffusion VAE has no such tensor")
            .with_hint(Hint::Partial)
            .in_tensor(unknown));
    }
    let mut sources = IndexMap::new();
    for name in donor.names().filter(in_schema) {
        let (key, tensor) = donor.get(name).or_internal("a key of the VAE vanished during planning")?;
        sources.insert(name, (Origin::Vae, key, tensor));
    }
    let missing: Vec<&str> = schema.keys().filter(|name| !sources.contains_key(name)).collect();
    let Some(&first) = missing.first() else { return Ok(sources) };
    let fitting = |name: &str| {
        let fits = |(_, tensor): &(&str, &LazyTensor)| {
            let expected = schema.get(name).is_some_and(|expected| vae_schema::fits(tensor.shape().dims(), expected));
            expected && tensor.dtype().is_float()
        };
        old.get(name).filter(fits)
    };
    let more = match missing.len() {
        1 => String::new(),
        count => format!(", and {} others", count - 1),
    };
    let error = |found: String, name: &str| Error::missing(found).in_tensor(donor.stored_key(name));
    if let Some(lacking) = missing.iter().find(|name| fitting(name).is_none()) {
        let found = format!("missing from this VAE{more}, and the checkpoint has no usable one of its own");
        return Err(error(found, lacking));
    }
    if !options.partial {
        let found = format!("missing from this VAE{more}, but the checkpoint has it");
        return Err(error(found, first).with_hint(Hint::Partial));
    }
    for name in missing {
        let (key, tensor) = fitting(name).or_internal("a tensor of the old VAE vanished during planning")?;
        let name = vae_schema::ldm_key(name).or_internal("the schema has a key that no VAE has")?;
        sources.insert(name, (Origin::Checkpoint, key, tensor));
    }
    Ok(sources)
}

struct Merge<'a> {
    base: &'a Checkpoint,
    donor: &'a Donor<'a>,
    old: &'a OldVae<'a>,
    schema: &'a VaeSchema,
    options: &'a MergeVaeOptions,
    /// The input of each tensor of the new VAE.
    sources: IndexMap<&'static str, Source<'a>>,
    /// The tensors of the new VAE that are in the output.
    written: HashSet<&'static str>,
    draft: Draft,
}

impl Merge<'_> {
    fn run(&mut self) -> Result<()> {
        let base = self.base.state_dict();
        let behind = base.keys().filter(|key| is_of_old_vae(key)).last();
        let before = base.keys().find(|key| key.starts_with("cond_stage_model.") || key.starts_with("conditioner."));
        for (key, tensor) in base.iter() {
            if behind.is_none() && before == Some(key) {
                self.put_rest()?;
            }
            match old_vae::name_of(key) {
                Some(name) => self.replace(key, name)?,
                None => self.keep(key, tensor)?,
            }
            if behind == Some(key) {
                self.put_rest()?;
            }
        }
        self.put_rest()?;
        let unreadable = self.base.stored().unreadable().iter();
        for unreadable in unreadable {
            self.draft.ledger.dropped(Origin::Checkpoint, &unreadable.key, DropReason::OldVae);
        }
        self.record_dropped();
        self.notice();
        Ok(())
    }

    /// Handles a tensor of the old VAE: puts the new one in its place.
    fn replace(&mut self, key: &str, name: Option<&'static str>) -> Result<()> {
        let own = name.and_then(|name| self.old.get(name)).filter(|(own, _)| *own == key);
        let source = name.and_then(|name| Some((name, *self.sources.get(name)?)));
        match source {
            // The ledger gets its line where the tensor is put.
            Some((_, (Origin::Checkpoint, from, _))) if from == key => {}
            Some((_, (Origin::Vae, ..))) if own.is_some() => self.draft.ledger.replaced(Origin::Checkpoint, key),
            _ => self.draft.ledger.dropped(Origin::Checkpoint, key, DropReason::OldVae),
        }
        match source {
            Some((name, _)) if !self.written.contains(name) => self.put(name),
            _ => Ok(()),
        }
    }

    /// Puts the tensors of the new VAE that are not in the output yet.
    fn put_rest(&mut self) -> Result<()> {
        let rest: Vec<_> = self.sources.keys().copied().filter(|name| !self.written.contains(name)).collect();
        rest.into_iter().try_for_each(|name| self.put(name))
    }

    /// Adds a tensor of the new VAE to the output, with the shape of the schema and in the requested dtype.
    fn put(&mut self, name: &'static str) -> Result<()> {
        let &(origin, from, tensor) = self.sources.get(name).or_internal("a tensor of the VAE has no source")?;
        let dims = self.schema.get(name).or_internal("a tensor of the VAE is not in the schema")?;
        let old = self.old.get(name);
        let to = match (self.options.vae_dtype, old) {
            (None, _) => self.options.dtype,
            _ if origin == Origin::Checkpoint => self.options.dtype,
            (Some(VaeDtype::Keep), _) => None,
            (Some(VaeDtype::Match), Some((_, old))) if old.dtype().is_float() => Some(old.dtype()),
            // A tensor that the old VAE lacks gets the dtype of the others.
            (Some(VaeDtype::Match), _) => self.old.dtype(),
            (Some(VaeDtype::As(dtype)), _) => Some(dtype),
        };
        let key = format!("{}{name}", vae::PREFIX);
        let mut changes = Vec::new();
        if origin == Origin::Vae {
            changes.push(if old.is_some() { Change::Replaces } else { Change::Inserted });
        }
        if from != key {
            changes.push(Change::Renamed);
        }
        let path = if origin == Origin::Vae { self.donor.checkpoint.path() } else { self.base.path() };
        let mut make = || {
            let mut tensor = tensor.clone();
            if tensor.shape().dims() != dims {
                tensor = tensor.reshape(Shape::new(dims.to_vec())?)?;
                changes.push(Change::Reshaped);
            }
            let cast = to.map(|to| Cast { to, overflow: self.options.overflow });
            let (tensor, cast) = Cast::apply(cast, &key, &tensor)?;
            changes.extend(cast);
            Ok(tensor)
        };
        let tensor = make().map_err(|error: Error| error.in_tensor(from).in_file(path))?;
        self.draft.state_dict.insert(key.as_str(), tensor)?;
        self.draft.ledger.written(origin, from, &key, changes);
        self.written.insert(name);
        Ok(())
    }

    /// Adds a tensor of the checkpoint to the output.
    fn keep(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        let cast = self.options.dtype.map(|to| Cast { to, overflow: self.options.overflow });
        let (tensor, change) =
            Cast::apply(cast, key, tensor).map_err(|error| error.in_tensor(key).in_file(self.base.path()))?;
        self.draft.state_dict.insert(key, tensor)?;
        self.draft.ledger.written(Origin::Checkpoint, key, key, change.into_iter().collect());
        Ok(())
    }

    /// Records every key of the VAE file that is not in the output.
    fn record_dropped(&mut self) {
        let used: HashSet<&str> =
            self.sources.values().filter(|(origin, ..)| *origin == Origin::Vae).map(|(_, key, _)| *key).collect();
        let vae = self.donor.checkpoint;
        let unreadable = vae.stored().unreadable().iter().map(|unreadable| unreadable.key.as_str());
        for key in vae.state_dict().keys().filter(|key| !used.contains(key)).chain(unreadable) {
            let reason = match Role::from_key(key, self.donor.prefix) {
                Role::Vae => DropReason::NotInSchema,
                Role::TrainingLoss => DropReason::TrainingLoss,
                Role::TrainingAverage => DropReason::TrainingAverage,
                Role::Other => DropReason::NotVae,
            };
            self.draft.ledger.dropped(Origin::Vae, key, reason);
        }
    }

    fn notice(&mut self) {
        let notices = &mut self.draft.notices;
        if self.old.is_none() {
            let text = format!("the checkpoint had no VAE; inserted {} tensors", self.sources.len());
            notices.push(Notice::new(NoticeCode::VaeInserted, text));
        } else if let Some(flaws) = self.old.flaws(self.schema) {
            notices.push(Notice::new(NoticeCode::OldVaeBroken, flaws));
        }
        let own = self.sources.iter().filter(|(_, (origin, ..))| *origin == Origin::Checkpoint);
        let own: Vec<&str> = own.map(|(name, _)| *name).collect();
        if !own.is_empty() {
            let text = format!("kept {} tensors of the checkpoint's own VAE: {}", own.len(), own.join(", "));
            notices.push(Notice::new(NoticeCode::OwnVaeKept, text));
        }
    }
}
