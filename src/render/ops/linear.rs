//! Linear layers.

use candle_core::{Result, Tensor};

/// `x * weight^T + bias` over the last dimension.
pub(in crate::render) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// With a weight of `[out, in]`.
    pub(in crate::render) fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Linear { weight, bias })
    }

    /// `[.., in]` to `[.., out]`.
    pub(in crate::render) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dims = x.dims();
        let (out, width) = self.weight.dims2()?;
        let rows = x.reshape(((), width))?.matmul(&self.weight.t()?)?;
        let rows = match &self.bias {
            Some(bias) => rows.broadcast_add(bias)?,
            None => rows,
        };
        let mut dims = dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        rows.reshape(dims)
    }
}
