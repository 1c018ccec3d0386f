//! Functions that the compiler vectorizes for the widest SIMD instructions of the processor, and elementary functions for them.

/// Defines a function that runs the version of its body for the widest SIMD instructions that this processor supports.
///
/// A macro, because the compiler does not inline a closure of more than a few lines into a function with other target
/// features. What the body calls must be `#[inline(always)]` for the same reason. In the body, `FMA` is whether
/// `f32::mul_add` is one instruction.
macro_rules! simd {
    (
        $(#[$meta:meta])*
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[inline]
        fn $name($($argument: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn wide($($argument: $type),*) $(-> $out)? {
                    #[allow(dead_code, reason = "not every body uses it")]
                    const FMA: bool = true;
                    $body
                }
                #[target_feature(enable = "avx2,fma")]
                fn narrow($($argument: $type),*) $(-> $out)? {
                    #[allow(dead_code, reason = "not every body uses it")]
                    const FMA: bool = true;
                    $body
                }
                if std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512vl")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512bw")
                {
                    // SAFETY: the processor supports AVX-512F, VL, DQ and BW, as detected above; AVX-512F implies AVX2 and
                    // FMA.
                    return unsafe { wide($($argument),*) };
                }
                if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor supports AVX2 and FMA, as detected above.
                    return unsafe { narrow($($argument),*) };
                }
            }
            #[allow(dead_code, reason = "not every body uses it")]
            const FMA: bool = cfg!(target_arch = "aarch64");
            $body
        }
    };
}
pub(super) use simd;

/// Returns `e^x` with a relative error below 2e-7, in a form that the compiler vectorizes. Saturates near the limits of
/// f32 and propagates NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Uses comparisons, because `max` would replace NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which ends up in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    // ln 2 is the sum of two parts. The first has so few bits that its product is exact.
    let rest = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = sum * rest + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (sum * rest * rest + rest + 1.0) * power
}

/// Returns `2^x` for `x` of at most 0, with a relative error below 2e-7, in a form that the compiler vectorizes.
///
/// Results below 2^-126 are at most 2^-125. Propagates NaN. `FMA` is whether `f32::mul_add` is one instruction; otherwise, it is a call.
#[inline(always)]
#[expect(clippy::disallowed_methods, reason = "with `FMA`, an instruction of the processor")]
pub(super) fn exp2<const FMA: bool>(x: f32) -> f32 {
    // A comparison, because `max` would replace NaN.
    let x = if x < -126.0 { -126.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which ends up in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    // The polynomial of Cephes for `exp2f`.
    let mut sum = 1.535_336_2e-4;
    for coefficient in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
        sum = if FMA { f32::mul_add(sum, rest, coefficient) } else { sum * rest + coefficient };
    }
    sum * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_propagates_nan() {
        for index in -8600..8700 {
            let x = index as f32 / 100.0;
            let expected = libm::exp(f64::from(x));
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn exp2_is_accurate_and_propagates_nan() {
        for index in 0..12_600 {
            let x = -index as f32 / 100.0;
            let expected = libm::exp2(f64::from(x));
            for found in [exp2::<true>(x), exp2::<false>(x)] {
                assert!((f64::from(found) / expected - 1.0).abs() < 2e-7, "{x}");
            }
        }
        assert_eq!(exp2::<true>(0.0), 1.0);
        // A NaN with bits set where the integer is.
        for nan in [f32::NAN, f32::from_bits(0xffff_ffff), f32::from_bits(0x7fc0_00ff)] {
            assert!(exp2::<true>(nan).is_nan() && exp2::<false>(nan).is_nan());
        }
        assert!(exp2::<true>(f32::NEG_INFINITY) < 1e-37);
    }
}
