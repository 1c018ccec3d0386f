//! Plans a conversion: cast, prune, extract a component, replace the weights by their EMA, fix position_ids.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use crate::checkpoint::Checkpoint;
use crate::completeness::completeness;
use crate::file_kind::Identity;
use crate::ledger::{Change, DropReason, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::is_mark_key;
pub use crate::plan::convert_options::{ConvertOptions, Ema};
use crate::plan::drops::Drops;
use crate::plan::{Account, Cast, Draft, Resolved, TextEncoder, extract, video};
use crate::quantization;
use crate::vae_schema::VaeSchema;
use crate::{Component, FileKind, ema, position_ids, vae, vae_schema};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{LazyTensor, Shape};

/// Plans a conversion. Kept tensors keep their order. Reads no tensor data, except position_ids and the descriptions and
/// tables of quantized weights.
///
/// Fails if the checkpoint has an unreadable tensor, if the requested component or EMA is missing, or if nothing would
/// remain.
pub fn plan(checkpoint: &Checkpoint, options: &ConvertOptions) -> Result<Resolved> {
    checkpoint.refuse_unreadable()?;
    let account = Account::default().input(Origin::Checkpoint, checkpoint).allow_loss(options.allow_loss);
    // A component has the names of the original code, and so has what becomes a folder.
    let is_translated = options.component.is_some() || options.dequantize;
    let checkpoint = if is_translated { checkpoint.in_ldm_names() } else { Cow::Borrowed(checkpoint) };
    let is_known = Checkpoint::detect(checkpoint.stored()).naming.is_some();
    let drops = Drops::new(options, checkpoint.state_dict(), is_known);
    let checkpoint = checkpoint.dequantized(&|key| drops.wanted(key), options.overflow)?;
    let source = checkpoint.state_dict();
    if let Some(component) = options.component {
        refuse_two_spellings(&checkpoint, component).map_err(|error| error.in_file(checkpoint.path()))?;
    }
    let mut conversion = Conversion {
        source,
        options,
        drops: &drops,
        vae: options.component.filter(|&wanted| wanted == Component::Vae).and_then(|_| vae_schema_of(source)),
        ema_keys: BTreeSet::new(),
        draft: Draft { metadata: checkpoint.metadata().clone(), ..Draft::default() },
    };
    conversion.run().map_err(|error| error.in_file(checkpoint.path()))?;
    let Conversion { mut draft, .. } = conversion;
    if draft.state_dict.is_empty() && !source.is_empty() {
        return Err(nothing_remains(source, options, &drops).in_file(checkpoint.path()));
    }
    for component in options.dtypes.set() {
        if !source.keys().any(|key| drops.component(key) == component && drops.reason(key).is_none()) {
            let text = format!("no {} to cast", component.text());
            draft.notices.push(Notice::new(NoticeCode::DtypeWithoutComponent, text));
        }
    }
    let is_named = |key: &str| is_mark_key(key) || quantization::is_marker(key) || video::is_of_first_frame(key);
    let is_unknown = |key: &&str| drops.component(key) == Component::Other && !is_named(key);
    // Those of a component that was asked for are of that component, whatever names they get, and those of a LoRA or an
    // upscaler are of what the file is.
    let is_of_parts = options.component.is_none() && has_components(FileKind::of(source));
    let unknown = draft.state_dict.keys().filter(|_| is_of_parts).filter(is_unknown).count();
    if options.component == Some(Component::Vae) {
        refuse_partial_vae(&draft.state_dict).map_err(|error| error.in_file(checkpoint.path()))?;
    }
    if unknown > 0 {
        let tensors = if unknown == 1 { "tensor" } else { "tensors" };
        let text = format!("kept {unknown} {tensors} of no known component");
        draft.notices.push(Notice::new(NoticeCode::UnknownKept, text));
    }
    draft.notices.extend(drops.notice());
    checkpoint.translation().trace_back(Origin::Checkpoint, &mut draft.ledger);
    draft.notices.extend(checkpoint.translation().notices.iter().cloned());
    draft.check(&account).map_err(|error| error.in_file(checkpoint.path()))
}

/// Returns whether a file of this kind consists of the components of a checkpoint, or may.
fn has_components(kind: FileKind) -> bool {
    use FileKind::{Checkpoint, OtherCheckpoint, Parts, Unet, Unknown, Vae};
    matches!(kind, Checkpoint | OtherCheckpoint | Parts | Unet | Unknown | Vae)
}

/// Fails if a component to extract has a tensor in two spellings: readers would differ in which they take.
fn refuse_two_spellings(checkpoint: &Checkpoint, component: Component) -> Result<()> {
    let architecture = Checkpoint::detect(checkpoint.stored()).architecture();
    let found = completeness(checkpoint.state_dict(), component, architecture);
    match found.as_ref().and_then(|found| found.duplicate.first()) {
        Some(key) => {
            let found = format!("the {} has this tensor in two spellings; expected one", component.text());
            Err(Error::conflict(found).in_tensor(key.as_str()))
        }
        None => Ok(()),
    }
}

/// The error of a conversion that would drop every tensor.
fn nothing_remains(source: &StateDict, options: &ConvertOptions, drops: &Drops) -> Error {
    let keys: Vec<&str> = source.keys().take(3).collect();
    let Some(component) = options.component else {
        return Error::missing(format!("nothing would remain of its tensors ({}, …)", keys.join(", ")));
    };
    if source.keys().any(|key| drops.component(key) == component && options.only.is_none_or(|only| only.has(key))) {
        let what = component.text();
        return Error::usage(format!("nothing would remain: the conversion selects the {what} and also drops it"));
    }
    let named = options.only.map_or(component.text(), TextEncoder::text);
    Error::missing(match component {
        Component::Other => "contains no tensors of unknown components".to_owned(),
        _ if FileKind::of(source) == FileKind::Unknown => {
            format!("contains no {named} under the names of Latent Diffusion; found {}", keys.join(", "))
        }
        _ => format!("contains no {named} to extract; the file is: {}", Identity::of(source).to_text()),
    })
}

/// Returns the schema of a VAE of the widths of the one in a state dict; `None` if they are unknown.
fn vae_schema_of(source: &StateDict) -> Option<VaeSchema> {
    let bare = |key: &str| vae_schema::ldm_key(vae::bare_key(key));
    let of_vae = source.iter().filter(|(key, _)| Component::from_key(key) == Component::Vae);
    let dims: HashMap<&str, Vec<u64>> =
        of_vae.filter_map(|(key, tensor)| Some((bare(key)?, tensor.shape().dims().to_vec()))).collect();
    vae_schema::measure(&|key| dims.get(key).cloned()).map(VaeSchema::new)
}

/// Fails if an extracted VAE lacks most of the keys of a VAE: other networks have an `encoder` and a `decoder` too.
fn refuse_partial_vae(output: &StateDict) -> Result<()> {
    let wanted = vae::keys();
    let found = wanted.iter().filter(|key| output.contains(key)).count();
    if found * 2 >= wanted.len() {
        return Ok(());
    }
    let keys: Vec<&str> = output.keys().take(3).collect();
    let found =
        format!("contains no VAE of Stable Diffusion: {found} of its {} keys; found {}", wanted.len(), keys.join(", "));
    Err(Error::missing(found))
}

struct Conversion<'a> {
    source: &'a StateDict,
    options: &'a ConvertOptions,
    drops: &'a Drops,
    /// The shapes of a VAE that is extracted.
    vae: Option<VaeSchema>,
    /// EMA keys that replace a weight.
    ema_keys: BTreeSet<String>,
    draft: Draft,
}

impl<'a> Conversion<'a> {
    fn run(&mut self) -> Result<()> {
        self.find_ema()?;
        for (key, tensor) in self.source.iter() {
            self.insert_missing_position_ids(key)?;
            if self.ema_keys.contains(key) {
                // The ledger gets its line where the weight is replaced.
                continue;
            }
            if let Some(reason) = self.drop_reason(key) {
                self.draft.ledger.dropped(Origin::Checkpoint, key, reason);
                continue;
            }
            match ema::key_of(key).filter(|ema_key| self.ema_keys.contains(ema_key)) {
                Some(ema_key) => self.use_ema(key, &ema_key)?,
                None if self.options.fix_position_ids && position_ids::is_key(key) => self.fix(key, tensor)?,
                None => self.write(key, key, tensor, Vec::new())?,
            }
        }
        Ok(())
    }

    /// Returns why a key is dropped; `None` if it is kept. A marker of scaled fp8 stays with the weights that it marks.
    fn drop_reason(&self, key: &str) -> Option<DropReason> {
        let reason = self.drops.reason(key)?;
        let is_kept = |key: &str| self.drops.reason(key).is_none();
        (!quantization::marks(self.source, key, &is_kept)).then_some(reason)
    }

    /// Finds the EMA of each UNet weight, if the EMA is to be used. Fails if one is missing.
    fn find_ema(&mut self) -> Result<()> {
        if self.options.ema_action() != Ema::Use {
            return Ok(());
        }
        if !self.source.keys().any(|key| key.starts_with(ema::PREFIX) && !ema::is_counter(key)) {
            return Err(Error::missing("contains no EMA weights (model_ema.*)"));
        }
        let wanted = self.options.component.is_none_or(|component| component == Component::Unet);
        for key in self.source.keys().filter(|_| wanted) {
            let Some(ema_key) = ema::key_of(key) else { continue };
            if !self.source.contains(&ema_key) {
                return Err(Error::missing("the file has no EMA of this weight").in_tensor(key));
            }
            self.ema_keys.insert(ema_key);
        }
        Ok(())
    }

    fn use_ema(&mut self, key: &str, ema_key: &str) -> Result<()> {
        let tensor = self.source.get(ema_key).or_internal("a key of the EMA vanished during planning")?;
        if self.source.get(key).is_some_and(|weight| weight.shape() != tensor.shape()) {
            return Err(Error::mismatch("the shape differs from that of the weight").in_tensor(ema_key));
        }
        self.draft.ledger.replaced(Origin::Checkpoint, key);
        self.write(ema_key, key, tensor, vec![Change::Replaces, Change::Renamed])
    }

    fn fix(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        let positions = position_ids::positions(self.source, key);
        let state = position_ids::check(tensor, positions).map_err(|error| error.in_tensor(key))?;
        if state == position_ids::State::Correct {
            return self.write(key, key, tensor, Vec::new());
        }
        let positions = positions.unwrap_or_else(|| tensor.shape().elements());
        self.draft.state_dict.insert(key, position_ids::correct(positions)?)?;
        self.draft.ledger.written(Origin::Checkpoint, key, key, vec![Change::Fixed]);
        let before = match state {
            position_ids::State::WrongDtype => format!("correct values in {}", tensor.dtype()),
            _ => format!("wrong values in {}", tensor.dtype()),
        };
        let text = format!("fixed position_ids: were {before}, now {}", position_ids::describe(positions));
        self.draft.notices.push(Notice::new(NoticeCode::PositionIdsFixed, text));
        Ok(())
    }

    /// Adds missing position_ids before their position embedding, which is where training writes them.
    fn insert_missing_position_ids(&mut self, key: &str) -> Result<()> {
        if !self.options.fix_position_ids || self.drops.reason(key).is_some() {
            return Ok(());
        }
        let ids = position_ids::key_beside(key).filter(|ids| !self.source.contains(ids));
        let Some((ids, positions)) =
            ids.and_then(|ids| Some((ids.clone(), position_ids::positions(self.source, &ids)?)))
        else {
            return Ok(());
        };
        self.draft.state_dict.insert(ids.as_str(), position_ids::correct(positions)?)?;
        self.draft.ledger.written(Origin::Program, &ids, &ids, vec![Change::Inserted]);
        let text = format!("added missing position_ids: {ids}, {}", position_ids::describe(positions));
        self.draft.notices.push(Notice::new(NoticeCode::PositionIdsAdded, text));
        Ok(())
    }

    /// Adds a notice about position_ids that are wrong and stay so. Folders do not hold them.
    fn note_wrong_position_ids(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        if !self.options.dequantize {
            let positions = position_ids::positions(self.source, key);
            self.draft
                .notices
                .extend(position_ids::notice(key, tensor, positions).map_err(|error| error.in_tensor(key))?);
        }
        Ok(())
    }

    /// Returns the key that WebUI loads in a file with a VAE alone: without prefix, in LDM names.
    fn vae_key<'k>(&self, key: &'k str) -> Result<&'k str> {
        let bare = vae::bare_key(key);
        if let Some(name) = vae_schema::ldm_key(bare) {
            return Ok(name);
        }
        match quantization::weight_of(bare) {
            Some(weight) if vae_schema::ldm_key(&weight).is_some_and(|name| name != weight) => {
                let found = "belongs to a quantized weight in diffusers names; cast the VAE to rename it";
                Err(Error::unsupported(found).in_tensor(key))
            }
            _ => Ok(bare),
        }
    }

    /// Returns the shape that WebUI loads, if that of the tensor differs from it in dimensions of size 1.
    fn vae_shape(&self, name: &str, tensor: &LazyTensor) -> Result<Option<Shape>> {
        let dims = tensor.shape().dims();
        let expected = self.vae.as_ref().and_then(|schema| schema.get(name));
        let differs = expected.filter(|expected| *expected != dims && vae_schema::fits(dims, expected));
        differs.map(Shape::new).transpose()
    }

    fn write(&mut self, input: &str, key: &str, tensor: &LazyTensor, mut changes: Vec<Change>) -> Result<()> {
        self.note_wrong_position_ids(input, tensor)?;
        let cast = self.options.cast_of(self.drops.component(key));
        let (mut tensor, cast) = Cast::apply(cast, key, tensor).map_err(|error| error.in_tensor(input))?;
        let component = self.options.component;
        // The names of a folder follow from those with a prefix.
        let alone = component.filter(|_| !self.options.dequantize);
        let mut output = alone.map_or(key, |component| extract::bare_key(component, self.options.only, key));
        if component == Some(Component::Vae) {
            output = self.vae_key(key)?;
            if let Some(shape) = self.vae_shape(output, &tensor)? {
                tensor = tensor.reshape(shape).map_err(|error| error.in_tensor(input))?;
                changes.push(Change::Reshaped);
            }
        }
        if output != key && !changes.contains(&Change::Renamed) {
            changes.push(Change::Renamed);
        }
        changes.extend(cast);
        self.draft.state_dict.insert(output, tensor)?;
        self.draft.ledger.written(Origin::Checkpoint, input, output, changes);
        Ok(())
    }
}
