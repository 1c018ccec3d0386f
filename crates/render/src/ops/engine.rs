//! Execution backends for the layers.

use candle_core::{Result, Tensor};

use crate::kernels::{self, Kernels};

/// The implementation that computes the layers of a model.
#[derive(Clone)]
pub enum Engine {
    /// This crate's CPU layers for F32 weights in CPU memory, candle's operations for all others.
    Candle,
    /// CUDA kernels on an accelerator.
    Kernels(Kernels),
}

impl Engine {
    /// Moves F32 tokens from CPU memory to the device and dtype of this engine.
    #[expect(clippy::wrong_self_convention, reason = "the engine is the destination, not the result")]
    pub(crate) fn from_host(&self, tokens: &Tensor) -> Result<Tensor> {
        match self {
            Engine::Candle => Ok(tokens.clone()),
            Engine::Kernels(kernels) => kernels::cast(kernels, tokens, kernels.dtype()),
        }
    }

    /// Moves tokens of this engine to CPU memory, as F32. The inverse of [`Engine::from_host`].
    pub(crate) fn to_host(&self, tokens: &Tensor) -> Result<Tensor> {
        match self {
            Engine::Candle => Ok(tokens.clone()),
            Engine::Kernels(kernels) => kernels::to_host(kernels, tokens),
        }
    }
}
