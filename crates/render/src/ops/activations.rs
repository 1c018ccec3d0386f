//! The activations between layers.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu::{is_f32_on_cpu, with_elements, zeros};
use super::engine::Engine;
use super::simd::{exp, simd};
use crate::kernels;

/// Returns `value * gelu(gate)`, where the first half of the last dimension holds the values and the second half the
/// gates (GEGLU).
///
/// Uses the exact GELU. The approximation by tanh changes the output of a UNet by 2e-4.
///
/// Fails if the last dimension is odd or empty.
pub(crate) fn gated_gelu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if width == 0 || !width.is_multiple_of(2) {
        candle_core::bail!("{x:?} cannot be split into values and gates")
    }
    match engine {
        Engine::Kernels(kernels) => kernels::gated_gelu(kernels, x),
        Engine::Candle if is_f32_on_cpu(&[x]) => fast(x),
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
    let mut out = zeros(x.elem_count() / 2);
    with_elements(x, |x| {
        out.par_chunks_exact_mut(half).zip(x.par_chunks_exact(2 * half)).for_each(|(out, x)| {
            let (values, gates) = x.split_at(half);
            gate(values, gates, out);
        });
        Ok(())
    })?;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(half);
    Tensor::from_vec(out, dims, x.device())
}

simd! {
    /// Writes `value * gelu(gate)`.
    fn gate(values: &[f32], gates: &[f32], out: &mut [f32]) {
        for ((out, value), gate) in out.iter_mut().zip(values).zip(gates) {
            *out = value * (0.5 * gate * (1.0 + erf(gate * std::f32::consts::FRAC_1_SQRT_2)));
        }
    }
}

/// The error function with an absolute error below 3e-7, as the quotient of polynomials that Eigen uses, which the
/// compiler vectorizes. Propagates NaN.
#[inline(always)]
fn erf(x: f32) -> f32 {
    // Beyond these limits, the result rounds to -1 or 1. Uses comparisons, because `max` and `min` would replace NaN.
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let square = x * x;
    let above = polynomial(
        square,
        [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_6e-5,
            -7.349_906_4e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let below = polynomial(square, [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2]);
    x * above / below
}

/// Evaluates a polynomial. The coefficient of the highest power comes first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = 0.0;
    for coefficient in coefficients {
        sum = sum * x + coefficient;
    }
    sum
}

/// Returns the exact GELU, the activation of OpenCLIP.
pub(crate) fn gelu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    match engine {
        Engine::Kernels(kernels) => kernels::gelu(kernels, x),
        Engine::Candle => x.gelu_erf(),
    }
}

/// Returns SiLU, `x * sigmoid(x)`.
pub(crate) fn silu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    sigmoid_gate(engine, x, 1.0)
}

/// Returns `x * sigmoid(1.702 * x)`, the GELU approximation that OpenAI's CLIP was trained with.
pub(crate) fn quick_gelu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    sigmoid_gate(engine, x, 1.702)
}

/// Returns `x * sigmoid(scale * x)`.
fn sigmoid_gate(engine: &Engine, x: &Tensor, scale: f32) -> Result<Tensor> {
    match engine {
        Engine::Kernels(kernels) => kernels::sigmoid_gate(kernels, x, scale),
        Engine::Candle if is_f32_on_cpu(&[x]) => fast_sigmoid_gate(x, scale),
        Engine::Candle => plain_sigmoid_gate(x, scale),
    }
}

fn plain_sigmoid_gate(x: &Tensor, scale: f32) -> Result<Tensor> {
    x * candle_nn::ops::sigmoid(&(x * f64::from(scale))?)?
}

/// Does not use candle's operations, because their exponential function is that of the system.
fn fast_sigmoid_gate(x: &Tensor, scale: f32) -> Result<Tensor> {
    // Enough work for a thread.
    const VALUES: usize = 16 << 10;
    let mut out = zeros(x.elem_count());
    with_elements(x, |x| {
        let chunks = out.par_chunks_mut(VALUES).zip(x.par_chunks(VALUES));
        chunks.for_each(|(out, x)| write_sigmoid_gate(x, scale, out));
        Ok(())
    })?;
    Tensor::from_vec(out, x.dims(), x.device())
}

simd! {
    /// Writes `x * sigmoid(scale * x)`.
    fn write_sigmoid_gate(x: &[f32], scale: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x / (1.0 + exp(-(x * scale)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    #[test]
    fn gated_gelu_matches_candle() {
        // Each case has many values: if all gates were negative, the result would be mostly rounding error.
        for dims in [[1, 1, 512], [2, 9, 34], [1, 300, 256]] {
            let x = (random(&dims) * 3.0).unwrap();
            assert_close(&fast(&x).unwrap(), &plain(&x).unwrap(), 1e-6, &format!("{dims:?}"));
        }
    }

    #[test]
    fn sigmoid_gates_match_candle() {
        for dims in [[1, 1, 1280], [2, 77, 300], [1, 3, 5]] {
            let x = (random(&dims) * 3.0).unwrap();
            for scale in [1.0, 1.702] {
                let (found, expected) = (fast_sigmoid_gate(&x, scale), plain_sigmoid_gate(&x, scale));
                assert_close(&found.unwrap(), &expected.unwrap(), 1e-6, &format!("{dims:?}, {scale}"));
            }
        }
        let x = Tensor::new(&[f32::NAN, -1e30, 1e30, 0.0], &candle_core::Device::Cpu).unwrap();
        let found = fast_sigmoid_gate(&x, 1.0).unwrap().to_vec1::<f32>().unwrap();
        assert!(found[0].is_nan());
        assert!(found[1] <= 0.0 && found[1] > -1e-7, "{}", found[1]);
        assert_eq!(found[2..], [1e30, 0.0]);
    }

    #[test]
    fn erf_is_odd_and_saturates_at_one() {
        assert_eq!(erf(0.0), 0.0);
        for (x, expected) in [(0.5, 0.520_499_9_f32), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (9.0, 1.0)] {
            assert!((erf(x) - expected).abs() < 3e-7, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f32::NAN).is_nan());
    }
}
