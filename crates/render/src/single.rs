//! Single-precision arithmetic that rounds like torch on the CPU. A Brownian path differs visibly between noise levels
//! that differ in the last bit, so the samplers that follow one need levels that are equal to the bit.
//!
//! The functions are those of the crate `libm`, because the ones of the standard library are those of the system. A seed
//! would give another picture on Windows than on Linux.

/// The natural logarithm.
pub(crate) fn ln(x: f32) -> f32 {
    libm::log(f64::from(x)) as f32
}

/// The exponential function.
pub(crate) fn exp(x: f32) -> f32 {
    libm::exp(f64::from(x)) as f32
}

/// `exp(x) - 1`.
pub(crate) fn exp_m1(x: f32) -> f32 {
    libm::expm1(f64::from(x)) as f32
}

/// `x` to the power `exponent`.
pub(crate) fn powf(x: f32, exponent: f64) -> f32 {
    libm::pow(f64::from(x), exponent) as f32
}

/// The sine of an angle in radians.
pub(crate) fn sin(x: f32) -> f32 {
    libm::sin(f64::from(x)) as f32
}

/// The cosine of an angle in radians.
pub(crate) fn cos(x: f32) -> f32 {
    libm::cos(f64::from(x)) as f32
}

/// The tangent of an angle in radians.
pub(crate) fn tan(x: f32) -> f32 {
    libm::tan(f64::from(x)) as f32
}

/// The angle whose cosine is `x`, in radians.
pub(crate) fn acos(x: f32) -> f32 {
    libm::acos(f64::from(x)) as f32
}

/// The angle whose tangent is `x`, in radians.
pub(crate) fn atan(x: f32) -> f32 {
    libm::atan(f64::from(x)) as f32
}

/// Returns `count` values from `start` to `end`, like `torch.linspace`. A single value is `start`.
pub(crate) fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count < 2 {
        return vec![start; count];
    }
    let step = (end - start) / (count - 1) as f32;
    // torch counts from the nearer end, and rounds once for each value.
    let value = |index: usize| match index < count / 2 {
        true => libm::fmaf(step, index as f32, start),
        false => libm::fmaf(-step, (count - 1 - index) as f32, end),
    };
    (0..count).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linspace_rounds_once_for_each_value() {
        // Values of torch.linspace(start, end, count) that differ if the product is rounded before the sum.
        let [logarithms, times] = [linspace(2.6876, -3.5338, 20), linspace(999.0, 0.0, 30)];
        for (index, bits) in
            [(6, 0x3f39_1315), (7, 0x3eca_7fad), (9, 0xbe84_cd4d), (10, 0xbf16_39ea), (12, 0xbf9e_f033)]
        {
            assert_eq!(logarithms[index].to_bits(), bits, "{index}: {}", logarithms[index]);
        }
        for (index, bits) in [(6, 0x4446_13dd), (13, 0x4409_cb09)] {
            assert_eq!(times[index].to_bits(), bits, "{index}: {}", times[index]);
        }
        assert_eq!(linspace(1.0, 0.0, 1), [1.0]);
    }
}
