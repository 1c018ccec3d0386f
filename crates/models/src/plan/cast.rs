use crate::ledger::Change;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};

/// A cast of floating-point tensors. Integer tensors, such as position_ids, never change.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// The new dtype.
    pub to: Dtype,
    /// How to treat values that overflow the new dtype.
    pub overflow: Overflow,
}

impl Cast {
    /// Returns the tensor in the new dtype, and the change if there is one.
    pub(crate) fn apply(cast: Option<Self>, tensor: &LazyTensor) -> Result<(LazyTensor, Option<Change>)> {
        let from = tensor.dtype();
        match cast {
            Some(cast) if from.is_float() && from != cast.to => {
                Ok((tensor.clone().cast(cast.to, cast.overflow)?, Some(Change::cast(from, cast.to))))
            }
            _ => Ok((tensor.clone(), None)),
        }
    }
}
