use std::collections::{BTreeSet, HashMap};

use super::keys::{self, Companion, is_fp8};
use super::layers::{self, Layers};
use super::nibbles::{self, Parts};
use super::record::Record;
use super::survey::{Companions, Method, Survey};
use super::{int8, scaled, small};
use crate::Component;
use crate::ledger::Change;
use crate::notice::{Notice, NoticeCode};
use trinart_ckpt_formats::containers::diffusers::SEPARATOR;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};

/// What is wanted of a weight, should it be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The weight and its companions as they are.
    Stored,
    /// Its values, in the dtype that its quantizer records, or else in that of most other weights of its component.
    Values,
    /// Its values, in this dtype.
    In(Dtype),
}

/// A state dict with the values of quantized weights.
#[derive(Debug, Clone)]
pub(crate) struct Dequantized {
    /// The tensors. Dequantized weights have no companions.
    pub state_dict: StateDict,
    /// The metadata, without descriptions of dequantized layers.
    pub metadata: Metadata,
    /// What happened, for a ledger.
    pub record: Record,
    /// The dtypes that were chosen.
    pub notices: Vec<Notice>,
}

/// Dequantizes the weights whose values are wanted. Returns `None` if there are none. Reads only descriptions and tables.
///
/// Fails if the values of a wanted tensor cannot be known: it was written by an unsupported quantizer, or its companions are
/// missing or contradict each other.
pub(crate) fn dequantize(
    state_dict: &StateDict,
    metadata: &Metadata,
    wanted: &dyn Fn(&str) -> Wanted,
    overflow: Overflow,
) -> Result<Option<Dequantized>> {
    let survey = Survey::of(state_dict);
    survey.refuse_unknown(state_dict, &|key| wanted(key) != Wanted::Stored)?;
    let mut work = Work {
        state_dict,
        layers: Layers::new(metadata)?,
        overflow,
        usual: HashMap::new(),
        values: HashMap::new(),
        record: Record::default(),
        chosen: BTreeSet::new(),
    };
    for (weight, companions) in survey.weights() {
        if let Some(tensor) = state_dict.get(weight) {
            work.weight(weight, tensor, companions, wanted(weight))?;
        }
    }
    work.markers(wanted);
    work.finish(metadata)
}

struct Work<'a> {
    state_dict: &'a StateDict,
    layers: Layers,
    overflow: Overflow,
    /// The dtype of most weights of a component.
    usual: HashMap<&'a str, Dtype>,
    /// The dequantized weights by key.
    values: HashMap<&'a str, LazyTensor>,
    record: Record,
    /// How weights are quantized whose dtype was chosen, and the dtype.
    chosen: BTreeSet<(Method, Dtype)>,
}

impl<'a> Work<'a> {
    /// Dequantizes a weight, if its values are wanted.
    fn weight(&mut self, key: &'a str, tensor: &LazyTensor, companions: &Companions, wanted: Wanted) -> Result<()> {
        if wanted == Wanted::Stored {
            return Ok(());
        }
        // An error names the companion that decides how the weight is read.
        let deciding = companions.find(&[
            Companion::Nf4State,
            Companion::Fp4State,
            Companion::RowMax,
            Companion::Scale,
            Companion::TileScale,
            Companion::Description,
        ]);
        let named = deciding.or_else(|| companions.keys().next()).unwrap_or(key);
        let values = self.values_of(key, tensor, companions).map_err(|error| error.in_tensor(named))?;
        if let Some((method, values)) = values {
            let to = match (wanted, method) {
                (Wanted::In(dtype), _) => dtype,
                // bitsandbytes records the dtype.
                (_, Method::Nf4 | Method::Fp4) => values.dtype(),
                (_, Method::ScaledFp8 | Method::Int8) => self.usual_dtype(key),
            };
            if wanted == Wanted::Values {
                self.chosen.insert((method, to));
            }
            self.record.changed(key, Change::Dequantized { from: tensor.dtype(), to });
            self.values.insert(key, values.cast(to, self.overflow).map_err(|error| error.in_tensor(key))?);
        }
        companions.keys().for_each(|companion| self.record.dropped(companion, Some(key)));
        Ok(())
    }

    /// Returns the values of a weight; `None` if those that are stored need no scale.
    fn values_of(
        &self,
        key: &str,
        tensor: &LazyTensor,
        companions: &Companions,
    ) -> Result<Option<(Method, LazyTensor)>> {
        let get = |wanted: &[Companion]| companions.find(wanted).and_then(|key| self.state_dict.get(key));
        let needed = |wanted: Companion, name: &str| {
            get(&[wanted]).ok_or_else(|| Error::missing(format!("{name} of the quantized weight is missing")))
        };
        companions.refuse_contradictions()?;
        if let Some(description) = get(&[Companion::Description]) {
            layers::check(&small::json(description)?)?;
        }
        if let Some(description) = self.layers.get(key)? {
            layers::check(description)?;
        }
        let Some(method) = companions.method() else {
            let only_inputs = companions.find(&[Companion::InputScale]).is_some() && companions.keys().count() == 1;
            // Without a scale, ComfyUI takes the values as they are.
            if only_inputs && tensor.dtype().is_float() {
                return Ok(None);
            }
            return Err(Error::missing("belongs to a quantized weight whose scale is missing"));
        };
        let values = match method {
            Method::ScaledFp8 => {
                let tiled = get(&[Companion::TileScale]).is_some();
                let scales = match get(&[Companion::TileScale]) {
                    Some(scales) => scales,
                    None => needed(Companion::Scale, "the scale")?,
                };
                if !is_fp8(tensor.dtype()) {
                    return if tensor.dtype().is_float() && is_one(scales)? {
                        Ok(None)
                    } else {
                        let found = tensor.dtype();
                        Err(Error::unsupported(format!(
                            "scales a weight of {found}; expected one of fp8, or a scale of 1"
                        )))
                    };
                }
                scaled::values(tensor, scales, tiled, self.overflow)?
            }
            Method::Nf4 | Method::Fp4 => {
                let nested = match (get(&[Companion::NestedAbsMax]), get(&[Companion::NestedQuantMap])) {
                    (Some(abs_max), Some(map)) => Some((abs_max, map)),
                    (None, None) => None,
                    (Some(_), None) => {
                        return Err(Error::missing("nested_quant_map of the quantized weight is missing"));
                    }
                    (None, Some(_)) => return Err(Error::missing("nested_absmax of the quantized weight is missing")),
                };
                let is_nf4 = method == Method::Nf4;
                let state = if is_nf4 { Companion::Nf4State } else { Companion::Fp4State };
                let parts = Parts {
                    weight: tensor,
                    abs_max: needed(Companion::AbsMax, "absmax")?,
                    quant_map: get(&[Companion::QuantMap]),
                    nested,
                    state: needed(state, "the state")?,
                    is_nf4,
                };
                nibbles::values(&parts, self.overflow)?
            }
            Method::Int8 => int8::values(tensor, needed(Companion::RowMax, "SCB")?, get(&[Companion::Layout8]))?,
        };
        Ok(Some((method, values)))
    }

    /// The dtype of most other weights of a weight's component; F16 if there are none.
    fn usual_dtype(&mut self, key: &'a str) -> Dtype {
        let group = group(key);
        if let Some(&found) = self.usual.get(group) {
            return found;
        }
        let mut counts: HashMap<Dtype, usize> = HashMap::new();
        for (other, tensor) in self.state_dict.iter() {
            let is_usual = matches!(tensor.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32);
            if is_usual && !keys::is_companion(other) && !keys::is_marker(other) && self::group(other) == group {
                *counts.entry(tensor.dtype()).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|&(dtype, count)| (count, dtype));
        let dtype = most.map_or(Dtype::F16, |(dtype, _)| dtype);
        self.usual.insert(group, dtype);
        dtype
    }

    /// Drops the markers of scaled fp8 that no stored weight needs.
    fn markers(&mut self, wanted: &dyn Fn(&str) -> Wanted) {
        for marker in self.state_dict.keys() {
            let marks = |is_counted: &dyn Fn(&str) -> bool| keys::marks(self.state_dict, marker, is_counted);
            if marks(&|_| true) && !marks(&|key| wanted(key) == Wanted::Stored) {
                self.record.dropped(marker, None);
            }
        }
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Option<Dequantized>> {
        if self.record.is_empty() {
            return Ok(None);
        }
        let mut state_dict = StateDict::new();
        for (key, tensor) in self.state_dict.iter() {
            if let Some(values) = self.values.remove(key) {
                state_dict.insert(key, values)?;
            } else if !self.record.drops(key) {
                state_dict.insert(key, tensor.clone())?;
            }
        }
        let mut metadata = metadata.clone();
        let Work { layers, record, chosen, .. } = self;
        layers.remove(&mut metadata, |weight| record.has(weight));
        let notice = |(method, dtype): (Method, Dtype)| {
            let text = format!("dequantized {} weights to {dtype}", method.text());
            Notice::new(NoticeCode::Dequantized, text)
        };
        let notices = chosen.into_iter().map(notice).collect();
        Ok(Some(Dequantized { state_dict, metadata, record, notices }))
    }
}

/// The weights that usually have one dtype: a component, or a folder of a pipeline.
fn group(key: &str) -> &str {
    key.split_once(SEPARATOR).map_or_else(|| Component::from_key(key).name(), |(folder, _)| folder)
}

/// Returns whether all scales are 1.
fn is_one(scales: &LazyTensor) -> Result<bool> {
    Ok(scales.dtype().is_float() && small::numbers(scales)?.iter().all(|&scale| scale == 1.0))
}
