//! The sum of sigmoid(x) - 0.5 of values in half precision, which model-toolkit knows models by.

use std::sync::LazyLock;

use half::f16;

/// Terms are rounded to multiples of this, so that sums do not depend on the order of the values.
const UNIT: f64 = 1.0 / (1_u32 << UNIT_BITS) as f64;
const UNIT_BITS: u32 = 25;

/// The bits of the f16 from which on the series is too far from the sigmoid: 0.25.
const SERIES_END: u16 = 0x3400;

/// The sign bit of an f16.
const SIGN: u16 = 0x8000;

/// Values that are added with 32 bits, as vectors. A term of the series is below 2^21 units, and each of the lanes gets every
/// [`LANES`]-th value.
const GROUP: usize = 256;
const LANES: usize = 8;

/// sigmoid(x) - 0.5 of each f16, by its bits, in units. NaN counts as nothing, so that it does not spread.
static TERMS: LazyLock<Vec<i32>> = LazyLock::new(|| (0..=u16::MAX).map(term).collect());

/// A sum of sigmoid(x) - 0.5. It is the same for the same values in any order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sigmoids {
    units: i64,
}

impl Sigmoids {
    /// Adds little-endian values in half precision.
    pub(super) fn add(&mut self, halves: &[u8]) {
        let (halves, _) = halves.as_chunks::<2>();
        let (groups, rest) = halves.as_chunks::<GROUP>();
        for group in groups {
            self.units += match is_small(group) {
                true => sum_of_series(group),
                false => sum_of_terms(group),
            };
        }
        self.units += sum_of_terms(rest);
    }

    /// Returns the sum.
    pub(super) fn finish(self) -> f64 {
        self.units as f64 * UNIT
    }
}

/// Whether the series holds for all values.
fn is_small(halves: &[[u8; 2]; GROUP]) -> bool {
    let largest = halves.iter().map(|&half| u16::from_le_bytes(half) & !SIGN).fold(0, u16::max);
    largest < SERIES_END
}

fn sum_of_terms(halves: &[[u8; 2]]) -> i64 {
    let term = |half: &[u8; 2]| TERMS.get(usize::from(u16::from_le_bytes(*half))).copied().map_or(0, i64::from);
    halves.iter().map(term).sum()
}

fn sum_of_series(halves: &[[u8; 2]; GROUP]) -> i64 {
    let mut sums = [0_i32; LANES];
    for halves in halves.as_chunks::<LANES>().0 {
        for (sum, &half) in sums.iter_mut().zip(halves) {
            *sum += series(u16::from_le_bytes(half));
        }
    }
    sums.iter().map(|&sum| i64::from(sum)).sum()
}

/// The term of a value.
fn term(bits: u16) -> i32 {
    if bits & !SIGN < SERIES_END {
        return series(bits);
    }
    let value = f64::from(f16::from_bits(bits));
    if value.is_nan() { 0 } else { ((1.0 / (1.0 + libm::exp(-value)) - 0.5) / UNIT).round() as i32 }
}

/// The term of a value below 0.25, by the Taylor series of sigmoid(x) - 0.5. Uses only operations that a processor has for
/// vectors.
fn series(bits: u16) -> i32 {
    const POWERS: [f32; 4] = [1.0 / 4.0, -1.0 / 48.0, 1.0 / 480.0, -17.0 / 80_640.0];
    /// Between 0.25 and 0.5, neighbors among the f32 are one unit apart: adding a number to this one rounds it to units.
    const ROUNDING: f32 = 0.375;
    /// An f32 has 13 more bits of mantissa than an f16, and another bias of the exponent. Shifted by 13 bits, the bits of a
    /// positive f16 are the f32 of its value divided by this.
    const SCALE: f32 = (1_u128 << 112) as f32;
    let magnitude = f32::from_bits(u32::from(bits & !SIGN) << 13) * SCALE;
    let value = f32::from_bits(magnitude.to_bits() | u32::from(bits & SIGN) << 16);
    let square = value * value;
    let [p1, p3, p5, p7] = POWERS;
    let sigmoid = value * (p1 + square * (p3 + square * (p5 + square * p7)));
    (sigmoid + ROUNDING).to_bits().cast_signed() - ROUNDING.to_bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(value: f16) -> f64 {
        let value = f64::from(value);
        if value.is_nan() { 0.0 } else { 1.0 / (1.0 + libm::exp(-value)) - 0.5 }
    }

    fn sum(halves: &[u16]) -> f64 {
        let bytes: Vec<u8> = halves.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let mut sigmoids = Sigmoids::default();
        sigmoids.add(&bytes);
        sigmoids.finish()
    }

    #[test]
    fn each_term_is_within_a_unit() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (sum(&[bits]), exact(f16::from_bits(bits)));
            assert!((found - expected).abs() <= UNIT, "{bits:#06x}: {found} instead of {expected}");
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_order_or_the_pieces() {
        let small = (0..SERIES_END).step_by(7).flat_map(|bits| [bits, bits | SIGN, bits / 2]);
        let mixed = (0..=u16::MAX).step_by(13);
        for halves in [small.collect::<Vec<_>>(), mixed.collect()] {
            let whole = sum(&halves);
            assert_eq!(halves.iter().map(|&bits| sum(&[bits])).sum::<f64>(), whole);
            assert_eq!(halves.chunks(1000).map(sum).sum::<f64>(), whole);
            let mut reversed = halves.clone();
            reversed.reverse();
            assert_eq!(sum(&reversed), whole);
        }
    }
}
