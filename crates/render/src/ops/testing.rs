//! Helpers for the tests of the layers.

use candle_core::{Device, Tensor};

/// Returns a tensor of normally distributed F32 values.
pub(crate) fn random(dims: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., dims, &Device::Cpu).unwrap()
}

/// Asserts that the norm of the difference, relative to the norm of `expected`, is below `tolerance`.
#[track_caller]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32, case: &str) {
    assert_eq!(found.dims(), expected.dims(), "{case}");
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let relative = norm(&(found - expected).unwrap()) / norm(expected);
    assert!(relative < tolerance, "{case}: {relative}");
}
