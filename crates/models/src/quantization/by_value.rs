use std::collections::{HashMap, HashSet};

use super::dequantize::{Wanted, dequantize};
use super::survey::Survey;
use trinart_ckpt_formats::error::{Kind, Result};
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};

/// The weights of a state dict that can be compared with another one only by value.
#[derive(Debug, Clone, Default)]
pub struct ByValue {
    values: HashMap<String, LazyTensor>,
    /// Companions of these weights, which the other side need not have.
    companions: HashSet<String>,
}

/// Returns a state dict with the values of all quantized weights, in F32, and without their companions. `None` if no
/// weight is quantized. Reads only descriptions and tables.
///
/// Fails if the values of a weight cannot be known.
pub fn values(state_dict: &StateDict, metadata: &Metadata) -> Result<Option<StateDict>> {
    let found = dequantize(state_dict, metadata, &|_| Wanted::In(Dtype::F32), Overflow::Saturate)?;
    Ok(found.map(|found| found.state_dict))
}

impl ByValue {
    /// Dequantizes the weights that `other` has as plain floats, to F32.
    ///
    /// Leaves out weights whose values cannot be known: they are compared as they are stored.
    pub fn new(state_dict: &StateDict, metadata: &Metadata, other: &StateDict) -> Result<Self> {
        let (own, others) = (Survey::of(state_dict), Survey::of(other));
        let is_plain = |key: &str| {
            let floats = other.get(key).is_some_and(|tensor| tensor.dtype().is_float());
            floats && own.has_companions(key) && !others.has_companions(key)
        };
        let wanted = |key: &str| if is_plain(key) { Wanted::In(Dtype::F32) } else { Wanted::Stored };
        let dequantized = match dequantize(state_dict, metadata, &wanted, Overflow::Saturate) {
            Err(error) if error.kind() == Kind::Unsupported => None,
            other => other?,
        };
        let Some(dequantized) = dequantized else { return Ok(ByValue::default()) };
        let mut found = ByValue::default();
        for key in state_dict.keys() {
            match dequantized.state_dict.get(key) {
                Some(values) if is_plain(key) => {
                    found.values.insert(key.to_owned(), values.clone());
                }
                Some(_) => {}
                None => {
                    found.companions.insert(key.to_owned());
                }
            }
        }
        Ok(found)
    }

    /// Returns the values of a weight to compare by value; `None` for a tensor to compare as it is stored.
    pub fn get(&self, key: &str) -> Option<&LazyTensor> {
        self.values.get(key)
    }

    /// Returns whether the tensor with this key is accounted for by the values of a weight.
    pub fn is_included(&self, key: &str) -> bool {
        self.companions.contains(key)
    }
}
