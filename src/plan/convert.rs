//! A checkpoint as it is, its floating tensors perhaps in another type.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::plan::{Change, Ledger, Origin, Resolved};
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor, Overflow};

/// A cast of all floating tensors; integers (position_ids!) never change.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// The type they get.
    pub to: Dtype,
    /// What becomes of values that do not fit.
    pub overflow: Overflow,
}

impl Cast {
    /// The tensor in the wanted type, with the change if it is one.
    pub fn apply(cast: Option<Self>, tensor: &LazyTensor) -> Result<(LazyTensor, Option<Change>)> {
        let from = tensor.dtype();
        match cast {
            Some(cast) if from.is_float() && from != cast.to => {
                Ok((tensor.clone().cast(cast.to, cast.overflow)?, Some(Change::cast(from, cast.to))))
            }
            _ => Ok((tensor.clone(), None)),
        }
    }
}

/// Plans a conversion: every tensor is kept, in order. A tensor that cannot be read into an output is an error.
pub fn plan(checkpoint: &Checkpoint, cast: Option<Cast>) -> Result<Resolved> {
    let contents = checkpoint.contents();
    checkpoint.refuse_unreadable()?;
    let mut ledger = Ledger::default();
    let mut state_dict = StateDict::new();
    for (key, tensor) in contents.state_dict.iter() {
        let (tensor, change) =
            Cast::apply(cast, tensor).map_err(|error| error.in_tensor(key).in_file(checkpoint.path()))?;
        state_dict.insert(key, tensor)?;
        ledger.written(Origin::Checkpoint, key, key, change.into_iter().collect());
    }
    Ok(Resolved { state_dict, metadata: contents.metadata.clone(), ledger, notices: Vec::new() })
}
