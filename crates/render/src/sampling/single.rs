//! Single-precision arithmetic that rounds like torch on the CPU. A Brownian path differs visibly between noise levels
//! that differ in the last bit, so the samplers that follow one need levels that are equal to the bit.

/// The natural logarithm.
pub(super) fn ln(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

/// The exponential function.
pub(super) fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

/// `exp(x) - 1`.
pub(super) fn exp_m1(x: f32) -> f32 {
    f64::from(x).exp_m1() as f32
}

/// `x` to the power `exponent`.
pub(super) fn powf(x: f32, exponent: f64) -> f32 {
    f64::from(x).powf(exponent) as f32
}

/// Returns `count` values from `start` to `end`, like `torch.linspace`. A single value is `start`.
pub(super) fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count < 2 {
        return vec![start; count];
    }
    let step = (end - start) / (count - 1) as f32;
    // torch counts from the nearer end, and rounds once for each value.
    let value = |index: usize| match index < count / 2 {
        true => step.mul_add(index as f32, start),
        false => (-step).mul_add((count - 1 - index) as f32, end),
    };
    (0..count).map(value).collect()
}
