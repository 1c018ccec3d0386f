//! Who computes the layers.

use candle_core::{Result, Tensor};

use crate::render::kernels::{self, Kernels};

/// Who computes the layers of a model.
#[derive(Clone)]
pub enum Engine {
    /// This crate's own layers where the weights are F32 in the CPU's memory, candle's operations otherwise.
    Candle,
    /// Kernels, on a machine that runs them.
    Kernels(Kernels),
}

impl Engine {
    /// Tokens of F32 in the CPU's memory, for the layers of this engine.
    pub(in crate::render) fn take(&self, tokens: &Tensor) -> Result<Tensor> {
        match self {
            Engine::Candle => Ok(tokens.clone()),
            Engine::Kernels(kernels) => kernels::cast(kernels, tokens, kernels.dtype()),
        }
    }

    /// The way back of [`Engine::take`].
    pub(in crate::render) fn give(&self, tokens: &Tensor) -> Result<Tensor> {
        match self {
            Engine::Candle => Ok(tokens.clone()),
            Engine::Kernels(kernels) => kernels::widened(kernels, tokens),
        }
    }

    /// `x * sigmoid(x)`.
    pub(in crate::render) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Engine::Candle => x.silu(),
            Engine::Kernels(kernels) => kernels::sigmoid_gate(kernels, x, 1.0),
        }
    }
}
