//! The activations of the perceptrons.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::Engine;
use super::cpu::{is_fast, with_elements, zeros};
use super::kernel::vectorized;
use crate::render::kernels;

/// `value * gelu(gate)`, with the error function itself: the first half of the last dimension are values, the second
/// half gates. The tanh that stands for the error function elsewhere costs 2e-4 of a UNet's output.
pub(in crate::render) fn gated_gelu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    match engine {
        Engine::Kernels(kernels) => kernels::gated_gelu(kernels, x),
        Engine::Candle if is_fast(&[x]) => fast(x),
        Engine::Candle => plain(x),
    }
}

fn plain(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (value, gate) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    value * gate.contiguous()?.gelu_erf()?
}

fn fast(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = half;
    }
    let mut out = zeros(dims.iter().product());
    with_elements(x, |x| {
        out.par_chunks_mut(half.max(1)).zip(x.par_chunks(2 * half.max(1))).for_each(|(out, x)| {
            let (values, gates) = x.split_at(half.min(x.len()));
            vectorized(|| {
                for ((out, value), gate) in out.iter_mut().zip(values).zip(gates) {
                    *out = value * (0.5 * gate * (1.0 + erf(gate * std::f32::consts::FRAC_1_SQRT_2)));
                }
            });
        });
        Ok(())
    })?;
    Tensor::from_vec(out, dims, x.device())
}

/// The error function, to 3e-7, in a form that becomes vectors: a quotient of polynomials, as in Eigen. Keeps NaN.
#[inline(always)]
fn erf(x: f32) -> f32 {
    // Beyond, the last bit of 1 does not change any more.
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let square = x * x;
    let polynomial =
        |coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, coefficient| sum * square + coefficient);
    let above = polynomial(&[
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_6e-5,
        -7.349_906_4e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ]);
    let below = polynomial(&[-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2]);
    x * above / below
}

/// `x * sigmoid(1.702 * x)`, which OpenAI's CLIP was trained with.
pub(in crate::render) fn quick_gelu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    match engine {
        Engine::Kernels(kernels) => kernels::sigmoid_gate(kernels, x, 1.702),
        Engine::Candle => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::ops::testing::{close, random};

    #[test]
    fn gates_are_candles() {
        // Of many values: where all gates are negative, what is left is the rounding of the error function.
        for dims in [[1, 1, 512], [2, 9, 34], [1, 300, 256]] {
            let x = (random(&dims) * 3.0).unwrap();
            close(&fast(&x).unwrap(), &plain(&x).unwrap(), 1e-6, &format!("{dims:?}"));
        }
    }

    #[test]
    fn erf_is_odd_and_ends_at_one() {
        assert_eq!(erf(0.0), 0.0);
        for (x, expected) in [(0.5, 0.520_499_9_f32), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (9.0, 1.0)] {
            assert!((erf(x) - expected).abs() < 3e-7, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f32::NAN).is_nan());
    }
}
