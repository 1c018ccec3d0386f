//! A weight or a bias with changes, computed when it is read.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::file::LoraFile;
use crate::errors::from_candle;
use crate::weights;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::tensor::{Derive, LazyTensor, Shape};

/// A change of a weight or a bias.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) file: Arc<LoraFile>,
    /// The name of the change in the file.
    pub(super) module: String,
    pub(super) multiplier: f64,
    pub(super) rank: Option<usize>,
    /// The rows of the weight that change: `in_proj_weight` joins three weights. All rows if `None`.
    pub(super) rows: Option<Range<usize>>,
    pub(super) is_bias: bool,
}

/// A tensor with changes, applied in order.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) base: LazyTensor,
    pub(super) terms: Vec<Term>,
}

impl Derive for Changed {
    fn shape(&self) -> &Shape {
        self.base.shape()
    }

    fn inputs(&self) -> Vec<&LazyTensor> {
        let changes = self.terms.iter().filter_map(|term| term.file.changes.get(&term.module));
        [&self.base].into_iter().chain(changes.flat_map(|change| change.tensors())).collect()
    }

    fn derive(&self) -> Result<Vec<f32>> {
        let mut values = weights::tensor(&self.base, DType::F32, &Device::Cpu)?;
        for term in &self.terms {
            values = term.apply(values).map_err(|error| error.in_tensor(&term.module).in_file(term.file.path()))?;
        }
        weights::values(&values)
    }
}

impl Term {
    fn apply(&self, values: Tensor) -> Result<Tensor> {
        let change = self.file.changes.get(&self.module).or_internal("a LoRA without the change that it had")?;
        if self.is_bias {
            let bias = change.of_bias()?.or_internal("a change without the bias that it had")?;
            if bias.elem_count() != values.elem_count() {
                let (found, expected) = (bias.elem_count(), values.elem_count());
                return Err(Error::mismatch(format!("the bias changes {found} values, the model has {expected}")));
            }
            let added = bias.reshape(values.dims()).and_then(|bias| &values + bias.affine(self.multiplier, 0.0)?);
            return added.map_err(from_candle);
        }
        let Some(rows) = &self.rows else {
            let change = change.of_weight(&values, self.rank)?.affine(self.multiplier, 0.0);
            return change.and_then(|change| values + change).map_err(from_candle);
        };
        let part = values.narrow(0, rows.start, rows.len()).map_err(from_candle)?;
        let change = change.of_weight(&part, self.rank)?.affine(self.multiplier, 0.0);
        let joined = || {
            let changed = (part + change?)?;
            let (before, behind) = (values.narrow(0, 0, rows.start)?, values.dim(0)? - rows.end);
            Tensor::cat(&[&before, &changed, &values.narrow(0, rows.end, behind)?], 0)
        };
        joined().map_err(from_candle)
    }
}
