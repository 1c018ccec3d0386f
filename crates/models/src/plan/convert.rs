//! Plans a conversion: cast, prune, extract a component, replace the weights by their EMA, fix position_ids.

use std::collections::BTreeSet;

use crate::checkpoint::Checkpoint;
use crate::ledger::{Change, DropReason, Ledger, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::is_mark_key;
use crate::plan::{Cast, ComponentDtypes, Resolved};
use crate::quantization::{self, Wanted};
use crate::{Component, ema, position_ids, vae};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{LazyTensor, Overflow};

/// How to treat the exponential moving average (EMA) of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ema {
    /// Keep it beside the weights.
    Keep,
    /// Drop it.
    Drop,
    /// Replace the weights by it.
    Use,
}

/// The options of a conversion. The default keeps everything.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// Casts the floating-point tensors.
    pub cast: Option<Cast>,
    /// The EMA. `None` keeps it, or drops it if `prune` is set and `component` is not the EMA.
    pub ema: Option<Ema>,
    /// Keeps only what inference needs.
    pub prune: bool,
    /// Keeps only this component.
    pub component: Option<Component>,
    /// Corrects position_ids, and adds missing ones.
    pub fix_position_ids: bool,
    /// The dtypes of components that do not follow `cast`.
    pub dtypes: ComponentDtypes,
    /// How `dtypes` treat values that overflow, as well as dequantized weights.
    pub overflow: Overflow,
    /// Dequantizes quantized weights even without a cast, as a folder needs them.
    pub dequantize: bool,
}

impl ConvertOptions {
    /// Casts the floating-point tensors.
    #[must_use]
    pub fn cast(self, cast: Cast) -> Self {
        ConvertOptions { cast: Some(cast), ..self }
    }

    /// Sets how to treat the EMA. By default it is kept, or dropped when pruning.
    #[must_use]
    pub fn ema(self, ema: Ema) -> Self {
        ConvertOptions { ema: Some(ema), ..self }
    }

    /// Keeps only what inference needs.
    #[must_use]
    pub fn prune(self, prune: bool) -> Self {
        ConvertOptions { prune, ..self }
    }

    /// Keeps only this component.
    #[must_use]
    pub fn component(self, component: Component) -> Self {
        ConvertOptions { component: Some(component), ..self }
    }

    /// Corrects position_ids, and adds missing ones.
    #[must_use]
    pub fn fix_position_ids(self, fix: bool) -> Self {
        ConvertOptions { fix_position_ids: fix, ..self }
    }

    /// Sets the dtypes of components that do not follow [`Self::cast`], and how they treat values that overflow.
    #[must_use]
    pub fn dtypes(self, dtypes: ComponentDtypes, overflow: Overflow) -> Self {
        ConvertOptions { dtypes, overflow, ..self }
    }

    /// Dequantizes quantized weights even without a cast.
    #[must_use]
    pub fn dequantize(self, dequantize: bool) -> Self {
        ConvertOptions { dequantize, ..self }
    }

    /// Returns the cast of the tensor with this key.
    fn cast_of(&self, key: &str) -> Option<Cast> {
        self.dtypes.cast(Component::from_key(key), self.cast, self.overflow)
    }

    /// Returns what the output needs of a weight, should it be quantized.
    fn wanted(&self, key: &str) -> Wanted {
        // The EMA replaces the weights but none of their scales.
        let is_replaced = self.ema_action() == Ema::Use && Component::from_key(key) == Component::Unet;
        match self.cast_of(key) {
            _ if self.drop_reason(key).is_some() => Wanted::Stored,
            Some(cast) => Wanted::In(cast.to),
            None if self.dequantize || is_replaced => Wanted::Values,
            None => Wanted::Stored,
        }
    }

    /// The action for the EMA: the requested one, or the default.
    fn ema_action(&self) -> Ema {
        let keeps_ema = !self.prune || self.component == Some(Component::Ema);
        self.ema.unwrap_or(if keeps_ema { Ema::Keep } else { Ema::Drop })
    }

    /// Returns why a key is dropped; `None` if it is kept.
    fn drop_reason(&self, key: &str) -> Option<DropReason> {
        if is_mark_key(key) {
            let is_left = self.component.is_some_and(|wanted| wanted != Component::Unet);
            return is_left.then_some(DropReason::OtherComponent);
        }
        let component = Component::from_key(key);
        if component == Component::Ema {
            return match self.ema_action() {
                Ema::Use if ema::is_counter(key) => Some(DropReason::EmaCounter),
                Ema::Use => Some(DropReason::EmaUnmatched),
                Ema::Drop => Some(DropReason::Ema),
                Ema::Keep => self.component.filter(|&wanted| wanted != component).map(|_| DropReason::OtherComponent),
            };
        }
        if self.component.is_some_and(|wanted| wanted != component) {
            return Some(DropReason::OtherComponent);
        }
        let is_needed = matches!(component, Component::Unet | Component::Vae | Component::TextEncoder);
        (self.prune && !is_needed).then_some(DropReason::Pruned(component))
    }
}

/// Plans a conversion. Kept tensors keep their order. Reads no tensor data, except position_ids and the descriptions and
/// tables of quantized weights.
///
/// Fails if the checkpoint has an unreadable tensor, if the requested component or EMA is missing, or if nothing would
/// remain.
pub fn plan(checkpoint: &Checkpoint, options: &ConvertOptions) -> Result<Resolved> {
    checkpoint.refuse_unreadable()?;
    let checkpoint = &*checkpoint.dequantized(&|key| options.wanted(key), options.overflow)?;
    let mut conversion = Conversion {
        source: checkpoint.state_dict(),
        options,
        ema_keys: BTreeSet::new(),
        state_dict: StateDict::new(),
        ledger: Ledger::default(),
        notices: Vec::new(),
    };
    conversion.run().map_err(|error| error.in_file(checkpoint.path()))?;
    let Conversion { state_dict, mut ledger, mut notices, .. } = conversion;
    if state_dict.is_empty() && !checkpoint.state_dict().is_empty() {
        return Err(nothing_remains(checkpoint.state_dict(), options).in_file(checkpoint.path()));
    }
    for component in options.dtypes.set() {
        if !state_dict.keys().any(|key| Component::from_key(key) == component) {
            let text = format!("no {} to cast", component.text());
            notices.push(Notice::new(NoticeCode::DtypeWithoutComponent, text));
        }
    }
    let is_unknown =
        |key: &&str| Component::from_key(key) == Component::Other && !is_mark_key(key) && !quantization::is_marker(key);
    let unknown = state_dict.keys().filter(is_unknown).count();
    if unknown > 0 {
        let text = format!("kept {unknown} tensors of no known component");
        notices.push(Notice::new(NoticeCode::UnknownKept, text));
    }
    checkpoint.translation().trace_back(Origin::Checkpoint, &mut ledger);
    notices.extend(checkpoint.translation().notices.iter().cloned());
    Ok(Resolved { state_dict, metadata: checkpoint.metadata().clone(), ledger, notices })
}

/// The error of a conversion that would drop every tensor.
fn nothing_remains(source: &StateDict, options: &ConvertOptions) -> Error {
    let Some(component) = options.component else {
        return Error::missing("nothing would remain: no known component in it");
    };
    if source.keys().any(|key| Component::from_key(key) == component) {
        let what = component.text();
        return Error::usage(format!("nothing would remain: the conversion selects the {what} and also drops it"));
    }
    Error::missing(match component {
        Component::Other => "contains no tensors of unknown components".to_owned(),
        known => format!("contains no {}", known.text()),
    })
}

struct Conversion<'a> {
    source: &'a StateDict,
    options: &'a ConvertOptions,
    /// EMA keys that replace a weight.
    ema_keys: BTreeSet<String>,
    state_dict: StateDict,
    ledger: Ledger,
    notices: Vec<Notice>,
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
                self.ledger.dropped(Origin::Checkpoint, key, reason);
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
        let reason = self.options.drop_reason(key)?;
        let is_kept = |key: &str| self.options.drop_reason(key).is_none();
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
        self.ledger.replaced(Origin::Checkpoint, key);
        self.write(ema_key, key, tensor, vec![Change::Replaces, Change::Renamed])
    }

    fn fix(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        let positions = position_ids::positions(self.source, key);
        let state = position_ids::check(tensor, positions).map_err(|error| error.in_tensor(key))?;
        if state == position_ids::State::Correct {
            return self.write(key, key, tensor, Vec::new());
        }
        let positions = positions.unwrap_or_else(|| tensor.shape().elements());
        self.state_dict.insert(key, position_ids::correct(positions)?)?;
        self.ledger.written(Origin::Checkpoint, key, key, vec![Change::Fixed]);
        let before = match state {
            position_ids::State::WrongDtype => format!("correct values in {}", tensor.dtype()),
            _ => format!("wrong values in {}", tensor.dtype()),
        };
        let text = format!("fixed position_ids: were {before}, now {}", position_ids::describe(positions));
        self.notices.push(Notice::new(NoticeCode::PositionIdsFixed, text));
        Ok(())
    }

    /// Adds missing position_ids before their position embedding, which is where training writes them.
    fn insert_missing_position_ids(&mut self, key: &str) -> Result<()> {
        if !self.options.fix_position_ids || self.options.drop_reason(key).is_some() {
            return Ok(());
        }
        let ids = position_ids::key_beside(key).filter(|ids| !self.source.contains(ids));
        let Some((ids, positions)) =
            ids.and_then(|ids| Some((ids.clone(), position_ids::positions(self.source, &ids)?)))
        else {
            return Ok(());
        };
        self.state_dict.insert(ids.as_str(), position_ids::correct(positions)?)?;
        self.ledger.written(Origin::Program, &ids, &ids, vec![Change::Inserted]);
        let text = format!("added missing position_ids: {ids}, {}", position_ids::describe(positions));
        self.notices.push(Notice::new(NoticeCode::PositionIdsAdded, text));
        Ok(())
    }

    /// Adds a notice about position_ids that are wrong and stay so. Folders do not hold them.
    fn note_wrong_position_ids(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        if !self.options.dequantize {
            let positions = position_ids::positions(self.source, key);
            self.notices.extend(position_ids::notice(key, tensor, positions).map_err(|error| error.in_tensor(key))?);
        }
        Ok(())
    }

    fn write(&mut self, input: &str, key: &str, tensor: &LazyTensor, mut changes: Vec<Change>) -> Result<()> {
        self.note_wrong_position_ids(input, tensor)?;
        let cast = self.options.cast_of(key);
        let (tensor, cast) = Cast::apply(cast, key, tensor).map_err(|error| error.in_tensor(input))?;
        // WebUI loads VAE files without prefix.
        let is_alone = self.options.component == Some(Component::Vae);
        let output = if is_alone { vae::bare_key(key) } else { key };
        if output != key {
            changes.push(Change::Renamed);
        }
        changes.extend(cast);
        self.state_dict.insert(output, tensor)?;
        self.ledger.written(Origin::Checkpoint, input, output, changes);
        Ok(())
    }
}
