//! What the tests of the layers share.

use candle_core::{Device, Tensor};

pub(in crate::render) fn random(dims: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., dims, &Device::Cpu).unwrap()
}

/// Asserts that a tensor is another one, by the norm of the difference.
#[track_caller]
pub(in crate::render) fn close(found: &Tensor, expected: &Tensor, tolerance: f32, case: &str) {
    assert_eq!(found.dims(), expected.dims(), "{case}");
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let relative = norm(&(found - expected).unwrap()) / norm(expected);
    assert!(relative < tolerance, "{case}: {relative}");
}
