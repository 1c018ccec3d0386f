//! Plans a merge of a VAE into a checkpoint.
//!
//! The choice of tensors follows WebUI. Unlike WebUI, a missing key on either side, a differing shape and a file without
//! a VAE are errors, before anything is written.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use crate::ledger::{Change, DropReason, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Account, Cast, Draft, Resolved};
use crate::vae::{self, Role};
use trinart_ckpt_formats::error::{Error, Hint, OrInternal, Result};
use trinart_ckpt_formats::metadata::{MERGE_RECIPE, Metadata, PyValue};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};

/// The dtype of the VAE in the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum VaeDtype {
    /// The VAE file's own dtypes: the tensors stay bit-identical.
    #[default]
    Keep,
    /// The dtypes of the checkpoint's VAE, tensor by tensor.
    Match,
    /// This dtype.
    As(Dtype),
}

/// The options of a merge. The default casts nothing and is strict about missing keys.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MergeVaeOptions {
    /// The dtype of the floating-point tensors in the output; `None` casts nothing.
    pub dtype: Option<Dtype>,
    /// The dtype of the VAE; `None` follows `dtype`.
    pub vae_dtype: Option<VaeDtype>,
    /// How to treat values that overflow a new dtype.
    pub overflow: Overflow,
    /// Keeps the checkpoint's own tensors where the VAE lacks them, and drops VAE tensors that the checkpoint lacks.
    pub partial: bool,
}

impl Default for MergeVaeOptions {
    fn default() -> Self {
        MergeVaeOptions { dtype: None, vae_dtype: None, overflow: Overflow::Refuse, partial: false }
    }
}

impl MergeVaeOptions {
    /// Casts the floating-point tensors of the output.
    #[must_use]
    pub fn dtype(self, dtype: Dtype) -> Self {
        MergeVaeOptions { dtype: Some(dtype), ..self }
    }

    /// Sets the dtype of the VAE. By default it follows [`Self::dtype`].
    #[must_use]
    pub fn vae_dtype(self, dtype: VaeDtype) -> Self {
        MergeVaeOptions { vae_dtype: Some(dtype), ..self }
    }

    /// Sets how to treat values that overflow a new dtype.
    #[must_use]
    pub fn overflow(self, overflow: Overflow) -> Self {
        MergeVaeOptions { overflow, ..self }
    }

    /// Keeps the checkpoint's own tensors where the VAE lacks them, and drops VAE tensors that the checkpoint lacks.
    #[must_use]
    pub fn partial(self, partial: bool) -> Self {
        MergeVaeOptions { partial, ..self }
    }
}

/// Plans a merge of the VAE in `vae` into `base`. The output has the keys of `base` in their order. If `base` has no VAE,
/// the new one goes before the text encoder. `vae` may be a bare VAE, a diffusers `AutoencoderKL`, or a whole checkpoint.
///
/// Fails if a key is missing on either side, if a shape differs, or if `vae` has no VAE or several.
pub fn plan(base: &Checkpoint, vae: &Checkpoint, options: &MergeVaeOptions) -> Result<Resolved> {
    let account = Account::default().input(Origin::Checkpoint, base).input(Origin::Vae, vae);
    let vae = vae.with_ldm_vae()?;
    base.refuse_unreadable()?;
    let vae_file = VaeFile::new(&vae)?;
    let mut merge = Merge {
        base,
        vae: &vae,
        options,
        vae_file,
        used: BTreeSet::new(),
        draft: Draft { metadata: base.metadata().clone(), ..Draft::default() },
    };
    if base.state_dict().keys().any(vae::is_checkpoint_key) {
        merge.replace()?;
    } else {
        merge.insert()?;
    }
    merge.record_dropped()?;
    let mut draft = merge.draft;
    base.translation().trace_back(Origin::Checkpoint, &mut draft.ledger);
    vae.translation().trace_back(Origin::Vae, &mut draft.ledger);
    draft.notices.extend(base.translation().notices.iter().cloned());
    draft.check(&account).map_err(|error| error.in_file(base.path()))
}

/// The file of the VAE to merge: its tensors, and the prefix of its VAE keys.
struct VaeFile<'a> {
    prefix: &'static str,
    tensors: &'a StateDict,
}

impl<'a> VaeFile<'a> {
    fn new(vae: &'a Checkpoint) -> Result<Self> {
        let prefix = vae::find_prefix(vae.state_dict()).map_err(|error| error.in_file(vae.path()))?;
        for unreadable in vae.stored().unreadable() {
            if Role::from_key(&unreadable.key, prefix) == Role::Vae {
                return Err(vae.stored().unreadable_error(unreadable));
            }
        }
        Ok(VaeFile { prefix, tensors: vae.state_dict() })
    }

    /// Returns the tensor with this key, which has no prefix, and its key in the file.
    fn get(&self, bare: &str) -> Option<(String, &'a LazyTensor)> {
        let key = format!("{}{bare}", self.prefix);
        self.tensors.get(&key).map(|tensor| (key, tensor))
    }

    /// The VAE keys, without prefix.
    fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let prefix = self.prefix;
        self.tensors.keys().filter_map(move |key| key.strip_prefix(prefix)).filter(|key| vae::is_key(key))
    }
}

struct Merge<'a> {
    base: &'a Checkpoint,
    vae: &'a Checkpoint,
    options: &'a MergeVaeOptions,
    vae_file: VaeFile<'a>,
    /// Keys without prefix that are in the output.
    used: BTreeSet<String>,
    draft: Draft,
}

impl Merge<'_> {
    /// Replaces the tensors of the checkpoint's VAE, each by the tensor with the same key and shape.
    fn replace(&mut self) -> Result<()> {
        self.refuse_unknown_keys()?;
        let mut missing = Vec::new();
        for (key, tensor) in self.base.state_dict().iter() {
            let Some(bare) = key.strip_prefix(vae::PREFIX).filter(|bare| vae::is_key(bare)) else {
                self.keep(key, tensor)?;
                continue;
            };
            match self.vae_file.get(bare) {
                Some((vae_key, vae_tensor)) => {
                    if vae_tensor.shape() != tensor.shape() {
                        let found = format!("shape {}, the checkpoint has {}", vae_tensor.shape(), tensor.shape());
                        return Err(Error::mismatch(found).in_tensor(vae_key).in_file(self.vae.path()));
                    }
                    self.draft.ledger.replaced(Origin::Checkpoint, key);
                    self.put(&vae_key, key, vae_tensor, Some(tensor), Change::Replaces)?;
                    self.used.insert(bare.to_owned());
                }
                None => {
                    missing.push(bare);
                    self.keep(key, tensor)?;
                }
            }
        }
        self.report_missing(&missing)
    }

    /// Inserts a complete VAE into a checkpoint that has none.
    fn insert(&mut self) -> Result<()> {
        if let Some(missing) = vae::keys().iter().find(|bare| self.vae_file.get(bare).is_none()) {
            return Err(Error::missing("missing, and the checkpoint has no VAE of its own")
                .in_tensor(format!("{}{missing}", self.vae_file.prefix))
                .in_file(self.vae.path()));
        }
        let mut is_pending = true;
        for (key, tensor) in self.base.state_dict().iter() {
            if is_pending && (key.starts_with("cond_stage_model.") || key.starts_with("conditioner.")) {
                self.insert_all()?;
                is_pending = false;
            }
            self.keep(key, tensor)?;
        }
        if is_pending { self.insert_all() } else { Ok(()) }
    }

    fn insert_all(&mut self) -> Result<()> {
        let keys: Vec<String> = self.vae_file.keys().map(str::to_owned).collect();
        for bare in keys {
            let key = format!("{}{bare}", vae::PREFIX);
            let (vae_key, tensor) =
                self.vae_file.get(&bare).or_internal("a key of the VAE vanished during planning")?;
            self.put(&vae_key, &key, tensor, None, Change::Inserted)?;
            self.used.insert(bare);
        }
        let text = format!("the checkpoint had no VAE; inserted {} tensors", self.used.len());
        self.draft.notices.push(Notice::new(NoticeCode::VaeInserted, text));
        Ok(())
    }

    /// Fails if the VAE has a key that the checkpoint's VAE lacks, as VAEs of other architectures do.
    fn refuse_unknown_keys(&self) -> Result<()> {
        let base = &self.base.state_dict();
        let unknown = self.vae_file.keys().find(|bare| !base.contains(&format!("{}{bare}", vae::PREFIX)));
        match unknown {
            Some(bare) if !self.options.partial => Err(Error::missing("the checkpoint's VAE has no such tensor")
                .with_hint(Hint::Partial)
                .in_tensor(format!("{}{bare}", self.vae_file.prefix))
                .in_file(self.vae.path())),
            _ => Ok(()),
        }
    }

    fn report_missing(&mut self, missing: &[&str]) -> Result<()> {
        let Some(first) = missing.first() else { return Ok(()) };
        if !self.options.partial {
            let more = match missing.len() {
                1 => String::new(),
                count => format!(", nor are {} others", count - 1),
            };
            return Err(Error::missing(format!("not in this VAE{more}, but the checkpoint has it"))
                .with_hint(Hint::Partial)
                .in_tensor(format!("{}{first}", self.vae_file.prefix))
                .in_file(self.vae.path()));
        }
        let text = format!("kept {} tensors of the checkpoint's own VAE: {}", missing.len(), missing.join(", "));
        self.draft.notices.push(Notice::new(NoticeCode::OwnVaeKept, text));
        Ok(())
    }

    /// Adds a tensor of the checkpoint to the output.
    fn keep(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        let cast = self.options.dtype.map(|to| Cast { to, overflow: self.options.overflow });
        let (tensor, change) =
            Cast::apply(cast, tensor).map_err(|error| error.in_tensor(key).in_file(self.base.path()))?;
        self.draft.state_dict.insert(key, tensor)?;
        self.draft.ledger.written(Origin::Checkpoint, key, key, change.into_iter().collect());
        Ok(())
    }

    /// Adds a tensor of the VAE to the output, in the requested dtype.
    fn put(
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
        self.draft.state_dict.insert(key, tensor)?;
        self.draft.ledger.written(Origin::Vae, vae_key, key, changes);
        Ok(())
    }

    /// Records every key of the VAE file that is not in the output.
    fn record_dropped(&mut self) -> Result<()> {
        let readable = self.vae_file.tensors.keys();
        let unreadable = self.vae.stored().unreadable().iter().map(|unreadable| unreadable.key.as_str());
        for key in readable.chain(unreadable) {
            let reason = match Role::from_key(key, self.vae_file.prefix) {
                Role::Vae => {
                    let bare = key.strip_prefix(self.vae_file.prefix).or_internal("a VAE key lacks its prefix")?;
                    if self.used.contains(bare) {
                        continue;
                    }
                    DropReason::UnknownToCheckpoint
                }
                Role::TrainingLoss => DropReason::TrainingLoss,
                Role::TrainingAverage => DropReason::TrainingAverage,
                Role::Other => DropReason::NotVae,
            };
            self.draft.ledger.dropped(Origin::Vae, key, reason);
        }
        Ok(())
    }
}

/// Records the merge in the metadata field that WebUI's merger uses, with the sha256 of the VAE file. Keeps an earlier
/// recipe inside the new one.
pub fn record(metadata: &mut Metadata, vae: &Checkpoint, sha256: &str) {
    let mut recipe = Map::<String, Value>::new();
    recipe.insert("type".into(), "trinart-ckpt merge-vae".into());
    recipe.insert("bake_in_vae".into(), vae.file_name().into());
    recipe.insert("bake_in_vae_sha256".into(), sha256.into());
    if let Some(earlier) = metadata.get(MERGE_RECIPE) {
        recipe.insert("earlier_recipe".into(), earlier.to_text().into());
    }
    metadata.insert(MERGE_RECIPE.into(), PyValue::Str(Value::Object(recipe).to_string()));
}
