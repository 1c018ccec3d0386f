//! A checkpoint as it is, or less of it: cast, pruned, one component, the average in place of the weights.

use std::collections::BTreeSet;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Component, autoencoder, ema, position_ids};
use crate::plan::{Cast, Change, Ledger, Origin, Resolved};
use crate::state_dict::StateDict;
use crate::tensor::LazyTensor;

/// What becomes of the exponential moving average of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ema {
    /// It stays beside the weights.
    Keep,
    /// It is left out.
    Drop,
    /// It takes the place of the weights.
    Use,
}

/// What to convert.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The type of the floating tensors.
    pub cast: Option<Cast>,
    /// The average; unless said, it is kept, and dropped when pruning.
    pub ema: Option<Ema>,
    /// Keep what inference needs, nothing else.
    pub prune: bool,
    /// Keep this component, nothing else.
    pub component: Option<Component>,
    /// Make position_ids what they have to be.
    pub fix_position_ids: bool,
}

impl Options {
    fn ema(&self) -> Ema {
        self.ema.unwrap_or(if self.prune { Ema::Drop } else { Ema::Keep })
    }

    /// Why a key is left out; `None` if it is kept.
    fn reason_to_leave_out(&self, key: &str) -> Option<String> {
        let component = Component::of_key(key);
        if component == Component::Ema {
            return match self.ema() {
                Ema::Use if ema::is_counter(key) => Some("counter of the average".into()),
                Ema::Use => Some("average of no tensor in the file".into()),
                Ema::Drop => Some("average of the weights".into()),
                Ema::Keep if self.component.is_some() => Some("another component".into()),
                Ema::Keep => None,
            };
        }
        if self.component.is_some_and(|wanted| wanted != component) {
            return Some("another component".into());
        }
        let is_needed = matches!(component, Component::Unet | Component::Autoencoder | Component::TextEncoder);
        (self.prune && !is_needed).then(|| format!("pruned: {}", component.name()))
    }
}

/// Plans a conversion; what is kept stays in order. Reads no tensor but position_ids, where they are to be fixed. A
/// tensor that cannot be read into an output, a component or an average that is not there is an error.
pub fn plan(checkpoint: &Checkpoint, options: &Options) -> Result<Resolved> {
    checkpoint.refuse_unreadable()?;
    let mut conversion = Conversion {
        source: &checkpoint.contents().state_dict,
        options,
        averages: BTreeSet::new(),
        state_dict: StateDict::new(),
        ledger: Ledger::default(),
        notices: Vec::new(),
    };
    conversion.run().map_err(|error| error.in_file(checkpoint.path()))?;
    let Conversion { state_dict, ledger, mut notices, .. } = conversion;
    if state_dict.is_empty() && !checkpoint.contents().state_dict.is_empty() {
        let found = match options.component {
            Some(component) => format!("no {} in it", component.name()),
            None => "nothing of it would be left; it has no component that this program knows".to_owned(),
        };
        return Err(Error::missing(found).in_file(checkpoint.path()));
    }
    let unknown = state_dict.keys().filter(|key| Component::of_key(key) == Component::Other).count();
    if unknown > 0 {
        notices.push(format!("{unknown} tensors of no known component were kept; inspect --keys lists them"));
    }
    Ok(Resolved { state_dict, metadata: checkpoint.contents().metadata.clone(), ledger, notices })
}

struct Conversion<'a> {
    source: &'a StateDict,
    options: &'a Options,
    /// Keys of the average that took a weight's place.
    averages: BTreeSet<String>,
    state_dict: StateDict,
    ledger: Ledger,
    notices: Vec<String>,
}

impl<'a> Conversion<'a> {
    fn run(&mut self) -> Result<()> {
        self.find_averages()?;
        for (key, tensor) in self.source.iter() {
            self.insert_missing_position_ids(key)?;
            if self.averages.contains(key) {
                // Its line is written where it goes.
                continue;
            }
            if let Some(reason) = self.options.reason_to_leave_out(key) {
                self.ledger.dropped(Origin::Checkpoint, key, reason);
                continue;
            }
            match ema::key_of(key).filter(|average| self.averages.contains(average)) {
                Some(average) => self.use_average(key, &average)?,
                None if self.options.fix_position_ids && position_ids::is_key(key) => self.fix(key, tensor)?,
                None => self.write(key, key, tensor, Vec::new())?,
            }
        }
        Ok(())
    }

    /// With the average in use, every weight of the UNet must have one.
    fn find_averages(&mut self) -> Result<()> {
        if self.options.ema() != Ema::Use {
            return Ok(());
        }
        if !self.source.keys().any(|key| key.starts_with(ema::PREFIX) && !ema::is_counter(key)) {
            return Err(Error::missing("no average of the weights (model_ema.*) in it that could be used"));
        }
        let wanted = self.options.component.is_none_or(|component| component == Component::Unet);
        for key in self.source.keys().filter(|_| wanted) {
            let Some(average) = ema::key_of(key) else { continue };
            if !self.source.contains(&average) {
                return Err(Error::missing("the average of this weight is not in the file").in_tensor(key));
            }
            self.averages.insert(average);
        }
        Ok(())
    }

    fn use_average(&mut self, key: &str, average: &str) -> Result<()> {
        let Some(tensor) = self.source.get(average) else { return Ok(()) };
        if self.source.get(key).is_some_and(|weight| weight.shape() != tensor.shape()) {
            return Err(
                Error::mismatch("its shape differs from that of the weight it is the average of").in_tensor(average)
            );
        }
        self.ledger.replaced(Origin::Checkpoint, key);
        self.write(average, key, tensor, vec![Change::Replaces, Change::Renamed])
    }

    fn fix(&mut self, key: &str, tensor: &LazyTensor) -> Result<()> {
        let positions = position_ids::positions(self.source, key);
        let state = position_ids::judge(tensor, positions).map_err(|error| error.in_tensor(key))?;
        if state == position_ids::State::Right {
            return self.write(key, key, tensor, Vec::new());
        }
        let positions = positions.unwrap_or_else(|| tensor.shape().elements());
        self.state_dict.insert(key, position_ids::right(positions)?)?;
        self.ledger.written(Origin::Checkpoint, key, key, vec![Change::Fixed]);
        let was = match state {
            position_ids::State::WrongDtype => format!("the right numbers, but {}", tensor.dtype()),
            _ => format!("wrong numbers, {}", tensor.dtype()),
        };
        self.notices.push(format!("position_ids were {was}; they are I64, 0 to {} now", positions.saturating_sub(1)));
        Ok(())
    }

    /// Puts position_ids before the position embedding they are missing from, as training writes them.
    fn insert_missing_position_ids(&mut self, key: &str) -> Result<()> {
        if !self.options.fix_position_ids || self.options.reason_to_leave_out(key).is_some() {
            return Ok(());
        }
        let ids = position_ids::key_beside(key).filter(|ids| !self.source.contains(ids));
        let Some((ids, positions)) =
            ids.and_then(|ids| Some((ids.clone(), position_ids::positions(self.source, &ids)?)))
        else {
            return Ok(());
        };
        self.state_dict.insert(ids.as_str(), position_ids::right(positions)?)?;
        self.ledger.written(Origin::Program, &ids, &ids, vec![Change::Inserted]);
        self.notices.push(format!("position_ids were missing; {ids} is I64, 0 to {} now", positions.saturating_sub(1)));
        Ok(())
    }

    fn write(&mut self, input: &str, key: &str, tensor: &LazyTensor, mut changes: Vec<Change>) -> Result<()> {
        let (tensor, cast) = Cast::apply(self.options.cast, tensor).map_err(|error| error.in_tensor(input))?;
        // An autoencoder by itself has bare keys: so WebUI loads it.
        let is_alone = self.options.component == Some(Component::Autoencoder);
        let output = if is_alone { autoencoder::bare_key(key) } else { key };
        if output != key {
            changes.push(Change::Renamed);
        }
        changes.extend(cast);
        self.state_dict.insert(output, tensor)?;
        self.ledger.written(Origin::Checkpoint, input, output, changes);
        Ok(())
    }
}
