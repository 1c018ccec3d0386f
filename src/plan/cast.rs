use crate::error::Result;
use crate::plan::Change;
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
