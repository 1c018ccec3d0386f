//! The activations of the perceptrons.

use candle_core::{D, Result, Tensor};

/// `value * gelu(gate)`, with the error function itself: the first half of the last dimension are values, the second
/// half gates. The tanh that stands for the error function elsewhere costs 2e-4 of a UNet's output.
pub(in crate::render) fn gated_gelu(x: &Tensor) -> Result<Tensor> {
    let [value, gate] = halves(x)?;
    value * gate.contiguous()?.gelu_erf()?
}

fn halves(x: &Tensor) -> Result<[Tensor; 2]> {
    let half = x.dim(D::Minus1)? / 2;
    Ok([x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?])
}

/// `x * sigmoid(1.702 * x)`, which OpenAI's CLIP was trained with.
pub(in crate::render) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}
