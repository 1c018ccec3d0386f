//! An autoencoder into a checkpoint.
//!
//! WebUI's rules for what is an autoencoder's, without its silences: a key that is missing on either side, a shape
//! that differs, a file without an autoencoder are errors before anything is written.

use std::collections::BTreeSet;

use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::metadata::{MERGE_RECIPE, Metadata, PyValue};
use crate::model::autoencoder;
use crate::plan::{Cast, Change, Ledger, Origin, Resolved};
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor, Overflow};

/// The types of the autoencoder in the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VaeDtype {
    /// Its own: bit for bit.
    #[default]
    Keep,
    /// Those of the checkpoint's autoencoder, tensor by tensor.
    Match,
    /// This one.
    As(Dtype),
}

/// How to merge.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The type of the whole output.
    pub dtype: Option<Dtype>,
    /// The type of the autoencoder; `None` follows `dtype`.
    pub vae_dtype: Option<VaeDtype>,
    /// What becomes of values that do not fit their new type.
    pub overflow: Overflow,
    /// Keep the checkpoint's own tensors where the autoencoder has none.
    pub partial: bool,
}

/// Plans a merge. The output has the checkpoint's keys in the checkpoint's order; where it had no autoencoder, the
/// new one stands before the text encoder.
pub fn plan(base: &Checkpoint, vae: &Checkpoint, options: &Options) -> Result<Resolved> {
    base.refuse_unreadable()?;
    let donor = Donor::new(vae)?;
    let mut merge = Merge {
        base,
        vae,
        options,
        donor,
        used: BTreeSet::new(),
        resolved: Resolved {
            state_dict: StateDict::new(),
            metadata: base.contents().metadata.clone(),
            ledger: Ledger::default(),
            notices: Vec::new(),
        },
    };
    if base.contents().state_dict.keys().any(autoencoder::is_checkpoint_key) {
        merge.replace()?;
    } else {
        merge.insert()?;
    }
    merge.account_for_the_rest()?;
    Ok(merge.resolved)
}

/// The file the autoencoder comes from.
struct Donor<'a> {
    prefix: &'static str,
    tensors: &'a StateDict,
}

impl<'a> Donor<'a> {
    fn new(vae: &'a Checkpoint) -> Result<Self> {
        let contents = vae.contents();
        let prefix = autoencoder::find_prefix(&contents.state_dict).map_err(|error| error.in_file(vae.path()))?;
        for unreadable in &contents.unreadable {
            if autoencoder::reason_to_leave_out(&unreadable.key, prefix).is_none() {
                return Err(vae.unreadable_error(&unreadable.key, &unreadable.reason));
            }
        }
        Ok(Donor { prefix, tensors: &contents.state_dict })
    }

    /// Its tensor for a bare key, with the key it has in its file.
    fn get(&self, bare: &str) -> Option<(String, &'a LazyTensor)> {
        let key = format!("{}{bare}", self.prefix);
        self.tensors.get(&key).map(|tensor| (key, tensor))
    }

    /// Its bare keys.
    fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let prefix = self.prefix;
        self.tensors.keys().filter_map(move |key| key.strip_prefix(prefix)).filter(|key| autoencoder::is_key(key))
    }
}

struct Merge<'a> {
    base: &'a Checkpoint,
    vae: &'a Checkpoint,
    options: &'a Options,
    donor: Donor<'a>,
    /// Bare keys that found their place.
    used: BTreeSet<String>,
    resolved: Resolved,
}

impl Merge<'_> {
    /// The checkpoint has an autoencoder: its tensors give way, each to the one of the same name and shape.
    fn replace(&mut self) -> Result<()> {
        self.refuse_keys_unknown_to_the_checkpoint()?;
        let mut missing = Vec::new();
        for (key, tensor) in self.base.contents().state_dict.iter() {
            let Some(bare) = key.strip_prefix(autoencoder::PREFIX).filter(|bare| autoencoder::is_key(bare)) else {
                self.keep(key, tensor)?;
                continue;
            };
            match self.donor.get(bare) {
                Some((vae_key, vae_tensor)) => {
                    if vae_tensor.shape() != tensor.shape() {
                        let found = format!("shape {}, the checkpoint has {}", vae_tensor.shape(), tensor.shape());
                        return Err(Error::mismatch(found).in_tensor(vae_key).in_file(self.vae.path()));
                    }
                    self.resolved.ledger.replaced(Origin::Checkpoint, key);
                    self.place(&vae_key, key, vae_tensor, Some(tensor), Change::Replaces)?;
                    self.used.insert(bare.to_owned());
                }
                None => {
                    missing.push(bare);
                    self.keep(key, tensor)?;
                }
            }
        }
        self.judge_missing(&missing)
    }

    /// The checkpoint has no autoencoder: a complete one goes in.
    fn insert(&mut self) -> Result<()> {
        if let Some(missing) = autoencoder::keys().iter().find(|bare| self.donor.get(bare).is_none()) {
            return Err(Error::missing("missing, and the checkpoint has no autoencoder that could keep its own")
                .in_tensor(format!("{}{missing}", self.donor.prefix))
                .in_file(self.vae.path()));
        }
        let mut is_pending = true;
        for (key, tensor) in self.base.contents().state_dict.iter() {
            if is_pending && (key.starts_with("cond_stage_model.") || key.starts_with("conditioner.")) {
                self.insert_all()?;
                is_pending = false;
            }
            self.keep(key, tensor)?;
        }
        if is_pending { self.insert_all() } else { Ok(()) }
    }

    fn insert_all(&mut self) -> Result<()> {
        let keys: Vec<String> = self.donor.keys().map(str::to_owned).collect();
        for bare in keys {
            let key = format!("{}{bare}", autoencoder::PREFIX);
            if let Some((vae_key, tensor)) = self.donor.get(&bare) {
                self.place(&vae_key, &key, tensor, None, Change::Inserted)?;
            }
            self.used.insert(bare);
        }
        self.resolved
            .notices
            .push(format!("the checkpoint carried no autoencoder; {} tensors were inserted", self.used.len()));
        Ok(())
    }

    /// An autoencoder of another architecture has keys that the checkpoint's does not know.
    fn refuse_keys_unknown_to_the_checkpoint(&self) -> Result<()> {
        let base = &self.base.contents().state_dict;
        let unknown = self.donor.keys().find(|bare| !base.contains(&format!("{}{bare}", autoencoder::PREFIX)));
        match unknown.and_then(|bare| self.donor.get(bare)) {
            Some((key, _)) if !self.options.partial => {
                Err(Error::missing("the checkpoint's autoencoder has no such tensor; --partial leaves it out")
                    .in_tensor(key)
                    .in_file(self.vae.path()))
            }
            _ => Ok(()),
        }
    }

    fn judge_missing(&mut self, missing: &[&str]) -> Result<()> {
        let Some(first) = missing.first() else { return Ok(()) };
        if !self.options.partial {
            let more = match missing.len() {
                1 => String::new(),
                count => format!(", nor {} others", count - 1),
            };
            return Err(Error::missing(format!(
                "not in this autoencoder{more}, but the checkpoint has it; --partial keeps the checkpoint's own"
            ))
            .in_tensor(format!("{}{first}", self.donor.prefix))
            .in_file(self.vae.path()));
        }
        let keys = missing.join(", ");
        self.resolved
            .notices
            .push(format!("kept {} tensors of the checkpoint's own autoencoder: {keys}", missing.len()));
        Ok(())
    }

    /// A tensor of the checkpoint into the output.
    fn keep(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        let cast = self.options.dtype.map(|to| Cast { to, overflow: self.options.overflow });
        let (tensor, change) =
            Cast::apply(cast, tensor).map_err(|error| error.in_tensor(key).in_file(self.base.path()))?;
        self.resolved.state_dict.insert(key, tensor)?;
        self.resolved.ledger.written(Origin::Checkpoint, key, key, change.into_iter().collect());
        Ok(())
    }

    /// A tensor of the autoencoder into the output, in the type that was asked for.
    fn place(
        &mut self,
        vae_key: &str,
        key: &str,
        tensor: &LazyTensor,
        replaced: Option<&LazyTensor>,
        change: Change,
    ) -> Result<()> {
        let to = match (self.options.vae_dtype, replaced) {
            (None, _) => self.options.dtype,
            (Some(VaeDtype::Keep), _) | (Some(VaeDtype::Match), None) => None,
            (Some(VaeDtype::Match), Some(replaced)) => Some(replaced.dtype()),
            (Some(VaeDtype::As(dtype)), _) => Some(dtype),
        };
        let cast = to.map(|to| Cast { to, overflow: self.options.overflow });
        let (tensor, cast) =
            Cast::apply(cast, tensor).map_err(|error| error.in_tensor(vae_key).in_file(self.vae.path()))?;
        let renamed = (vae_key != key).then_some(Change::Renamed);
        let changes = [change].into_iter().chain(renamed).chain(cast).collect();
        self.resolved.state_dict.insert(key, tensor)?;
        self.resolved.ledger.written(Origin::Autoencoder, vae_key, key, changes);
        Ok(())
    }

    /// Every other key of the autoencoder's file is accounted for too.
    fn account_for_the_rest(&mut self) -> Result<()> {
        let readable = self.donor.tensors.keys();
        let unreadable = self.vae.contents().unreadable.iter().map(|unreadable| unreadable.key.as_str());
        for key in readable.chain(unreadable) {
            let bare = key.strip_prefix(self.donor.prefix).unwrap_or(key);
            match autoencoder::reason_to_leave_out(key, self.donor.prefix) {
                Some(reason) => self.resolved.ledger.dropped(Origin::Autoencoder, key, reason),
                None if self.used.contains(bare) => {}
                None => {
                    self.resolved.ledger.dropped(Origin::Autoencoder, key, "unknown to the checkpoint's autoencoder");
                }
            }
        }
        Ok(())
    }
}

/// Notes the merge where WebUI looks for it, with the sha256 of the autoencoder's file; an earlier recipe is kept inside
/// the new one.
pub fn record(metadata: &mut Metadata, vae: &Checkpoint, sha256: &str) {
    let mut recipe = json!({
        "type": "trinart-ckpt merge-vae",
        "bake_in_vae": vae.file_name(),
        "bake_in_vae_sha256": sha256,
    });
    if let (Some(earlier), Some(recipe)) = (metadata.get(MERGE_RECIPE), recipe.as_object_mut()) {
        recipe.insert("earlier_recipe".into(), earlier.to_text().into());
    }
    metadata.insert(MERGE_RECIPE.into(), PyValue::Str(recipe.to_string()));
}
