//! Normalisations.

use candle_core::{Result, Tensor};

/// Normalises the channels of an image by groups.
pub(in crate::render) struct GroupNorm {
    pub(in crate::render) weight: Tensor,
    pub(in crate::render) bias: Tensor,
    pub(in crate::render) groups: usize,
    pub(in crate::render) epsilon: f64,
}

impl GroupNorm {
    /// The image normalised.
    pub(in crate::render) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.plain(x, false)
    }

    /// The image normalised, and then `x * sigmoid(x)` of it.
    pub(in crate::render) fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.plain(x, true)
    }

    fn plain(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let channels = self.weight.dim(0)?;
        let norm =
            candle_nn::GroupNorm::new(self.weight.clone(), self.bias.clone(), channels, self.groups, self.epsilon)?;
        let x = candle_nn::Module::forward(&norm, x)?;
        if silu { x.silu() } else { Ok(x) }
    }
}

/// Normalises the last dimension.
pub(in crate::render) struct LayerNorm {
    pub(in crate::render) weight: Tensor,
    pub(in crate::render) bias: Tensor,
}

impl LayerNorm {
    /// Each token normalised.
    pub(in crate::render) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, 1e-5)
    }
}
