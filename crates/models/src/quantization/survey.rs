//! Finds the quantized weights of a state dict by the keys of their companions.

use indexmap::IndexMap;

use super::keys::{self, Companion};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};

/// How a weight is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Method {
    /// fp8 values times scales, as in ComfyUI.
    ScaledFp8,
    /// NF4 of bitsandbytes.
    Nf4,
    /// FP4 of bitsandbytes.
    Fp4,
    /// LLM.int8 of bitsandbytes.
    Int8,
}

impl Method {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Method::ScaledFp8 => "scaled-fp8",
            Method::Nf4 => "bitsandbytes-nf4",
            Method::Fp4 => "bitsandbytes-fp4",
            Method::Int8 => "bitsandbytes-int8",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Method::ScaledFp8 => "scaled fp8",
            Method::Nf4 => "bitsandbytes NF4",
            Method::Fp4 => "bitsandbytes FP4",
            Method::Int8 => "bitsandbytes int8",
        }
    }
}

/// The companions of a weight, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Companions {
    keys: Vec<(Companion, String)>,
}

impl Companions {
    /// The keys of all companions.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(_, key)| key.as_str())
    }

    /// The key of the first of these companions.
    pub(super) fn find(&self, wanted: &[Companion]) -> Option<&str> {
        self.keys.iter().find(|(found, _)| wanted.contains(found)).map(|(_, key)| key.as_str())
    }

    /// Fails if the weight has two companions for the same purpose.
    pub(super) fn refuse_contradictions(&self) -> Result<()> {
        let purpose = |companion: Companion| match companion {
            Companion::TileScale => Companion::Scale,
            Companion::Fp4State => Companion::Nf4State,
            other => other,
        };
        for (index, (companion, key)) in self.keys.iter().enumerate() {
            let earlier = self.keys.iter().take(index).find(|(found, _)| purpose(*found) == purpose(*companion));
            if let Some((_, earlier)) = earlier {
                return Err(
                    Error::conflict(format!("belongs to a weight that has {earlier} too")).in_tensor(key.as_str())
                );
            }
        }
        Ok(())
    }

    /// How the weight is quantized; `None` if the companions do not show it.
    pub(super) fn method(&self) -> Option<Method> {
        let has = |wanted: Companion| self.find(&[wanted]).is_some();
        if has(Companion::Nf4State) {
            Some(Method::Nf4)
        } else if has(Companion::Fp4State) {
            Some(Method::Fp4)
        } else if has(Companion::RowMax) {
            Some(Method::Int8)
        } else if has(Companion::Scale) || has(Companion::TileScale) {
            Some(Method::ScaledFp8)
        } else {
            None
        }
    }
}

/// The quantized weights of a state dict.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The companions of each weight. The weight may be missing.
    weights: IndexMap<String, Companions>,
    /// Keys that only unsupported quantizers write, with the quantizer.
    foreign: Vec<(String, &'static str)>,
}

impl Survey {
    /// Looks at the keys of all tensors.
    pub fn of(state_dict: &StateDict) -> Self {
        let mut survey = Survey::default();
        for key in state_dict.keys() {
            if let Some((weight, companion)) = keys::companion(key) {
                survey.weights.entry(weight).or_default().keys.push((companion, key.to_owned()));
            }
            if let Some(quantizer) = keys::foreign(key) {
                survey.foreign.push((key.to_owned(), quantizer));
            }
        }
        survey
    }

    /// Returns whether the weight with this key has companions.
    pub fn has_companions(&self, weight: &str) -> bool {
        self.weights.contains_key(weight)
    }

    /// Counts the weights by how they are quantized.
    pub fn counts(&self) -> IndexMap<Method, usize> {
        let mut counts = IndexMap::new();
        for method in self.weights.values().filter_map(Companions::method) {
            *counts.entry(method).or_default() += 1;
        }
        counts.sort_keys();
        counts
    }

    /// The companions of each weight.
    pub(super) fn weights(&self) -> impl Iterator<Item = (&str, &Companions)> {
        self.weights.iter().map(|(weight, companions)| (weight.as_str(), companions))
    }

    /// Fails at the first tensor whose values cannot be known, among the tensors whose values are `needed`: one of an
    /// unsupported quantizer, a companion without its weight, or a weight of integers.
    pub(super) fn refuse_unknown(&self, state_dict: &StateDict, needed: &dyn Fn(&str) -> bool) -> Result<()> {
        if let Some((key, quantizer)) = self.foreign.iter().find(|(key, _)| needed(key)) {
            let found = format!("written by {quantizer}: weights quantized so can only be copied, not converted");
            return Err(Error::unsupported(found).in_tensor(key.as_str()));
        }
        for (weight, companions) in self.weights() {
            if !state_dict.contains(weight) && needed(weight) {
                let key = companions.keys().next().unwrap_or(weight);
                return Err(Error::missing(format!("belongs to {weight}, which is missing")).in_tensor(key));
            }
        }
        let is_integer = |(key, tensor): &(&str, &LazyTensor)| {
            let is_weight = key.ends_with(".weight") && !self.has_companions(key);
            is_weight && is_packed(tensor.dtype()) && needed(key)
        };
        match state_dict.iter().find(is_integer) {
            Some((key, tensor)) => {
                let found = format!("{}, expected a float weight: quantized in an unknown way", tensor.dtype());
                Err(Error::unsupported(found).in_tensor(key))
            }
            None => Ok(()),
        }
    }
}

/// Returns whether quantizers pack codes into elements of this dtype.
fn is_packed(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::U8 | Dtype::I8 | Dtype::U16 | Dtype::I16 | Dtype::U32 | Dtype::I32)
}
