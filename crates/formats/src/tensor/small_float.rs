//! The 8-bit floats: decoding to `f32`, and encoding as PyTorch's `.to()` does.

use std::sync::LazyLock;

use crate::tensor::Dtype;

/// How the bits of an 8-bit float are read.
#[derive(Clone, Copy)]
struct Format {
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

/// Which bit patterns of an 8-bit float are infinite or NaN.
#[derive(Clone, Copy)]
enum Special {
    /// As in IEEE 754: the highest exponent encodes infinities and NaN.
    Ieee,
    /// No infinities; NaN has all exponent and mantissa bits set.
    NanOnly,
    /// No infinities; the pattern of negative zero is NaN.
    OneNan,
}

const E4M3: Format = Format { mantissa_bits: 3, bias: 7, special: Special::NanOnly };
const E5M2: Format = Format { mantissa_bits: 2, bias: 15, special: Special::Ieee };
const E4M3_FNUZ: Format = Format { mantissa_bits: 3, bias: 8, special: Special::OneNan };
const E5M2_FNUZ: Format = Format { mantissa_bits: 2, bias: 16, special: Special::OneNan };

/// The values of all bit patterns of a dtype.
type Values = [f32; 256];

/// Returns the value of each bit pattern of an 8-bit float; `None` for other dtypes.
pub(super) fn values(dtype: Dtype) -> Option<&'static Values> {
    static E4M3_VALUES: LazyLock<Values> = LazyLock::new(|| table(|byte| E4M3.decode(byte)));
    static E5M2_VALUES: LazyLock<Values> = LazyLock::new(|| table(|byte| E5M2.decode(byte)));
    static E4M3_FNUZ_VALUES: LazyLock<Values> = LazyLock::new(|| table(|byte| E4M3_FNUZ.decode(byte)));
    static E5M2_FNUZ_VALUES: LazyLock<Values> = LazyLock::new(|| table(|byte| E5M2_FNUZ.decode(byte)));
    static E8M0_VALUES: LazyLock<Values> = LazyLock::new(|| {
        table(|byte| match byte {
            255 => f32::NAN,
            exponent => 2_f32.powi(i32::from(exponent) - 127),
        })
    });
    match dtype {
        Dtype::F8E4M3 => Some(&E4M3_VALUES),
        Dtype::F8E5M2 => Some(&E5M2_VALUES),
        Dtype::F8E4M3Fnuz => Some(&E4M3_FNUZ_VALUES),
        Dtype::F8E5M2Fnuz => Some(&E5M2_FNUZ_VALUES),
        Dtype::F8E8M0 => Some(&E8M0_VALUES),
        _ => None,
    }
}

fn table(decode: impl Fn(u8) -> f32) -> Values {
    let mut values = [0.0; 256];
    for (byte, value) in (0..=u8::MAX).zip(&mut values) {
        *value = decode(byte);
    }
    values
}

/// An `f32` as an 8-bit float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoded {
    /// The nearest value, ties to even; infinite or NaN only if the input is.
    Value(u8),
    /// The input is finite and too large; the largest value with its sign.
    TooLarge(u8),
}

/// Returns the encoder of a dtype that casts can write; `None` for other dtypes.
///
/// An infinite value becomes NaN in e4m3, which has no infinity, as in PyTorch.
pub(super) fn encoder(dtype: Dtype) -> Option<fn(f32) -> Encoded> {
    match dtype {
        Dtype::F8E4M3 => Some(|value| E4M3.encode(value)),
        Dtype::F8E5M2 => Some(|value| E5M2.encode(value)),
        _ => None,
    }
}

impl Format {
    fn decode(self, byte: u8) -> f32 {
        let Format { mantissa_bits, bias, special } = self;
        let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
        let exponent = i32::from((byte & 0x7f) >> mantissa_bits);
        let mantissa = byte & ((1 << mantissa_bits) - 1);
        let top = (1 << (7 - mantissa_bits)) - 1;
        match special {
            Special::Ieee if exponent == top && mantissa == 0 => return sign * f32::INFINITY,
            Special::Ieee if exponent == top => return f32::NAN,
            Special::NanOnly if byte & 0x7f == 0x7f => return f32::NAN,
            Special::OneNan if byte == 0x80 => return f32::NAN,
            _ => {}
        }
        let fraction = f32::from(mantissa) * 2_f32.powi(-(mantissa_bits as i32));
        let magnitude = match exponent {
            0 => fraction * 2_f32.powi(1 - bias),
            _ => (1.0 + fraction) * 2_f32.powi(exponent - bias),
        };
        sign * magnitude
    }

    /// Encodes a value in a format with a NaN of all ones.
    fn encode(self, value: f32) -> Encoded {
        const NAN: u32 = 0x7f;
        let Format { mantissa_bits, bias, special } = self;
        let sign = ((value.to_bits() >> 24) & 0x80) as u8;
        let signed = |magnitude: u32| magnitude as u8 | sign;
        // The lowest pattern that is not a finite value, and the pattern of an infinite input.
        let (past, infinite) = match special {
            Special::Ieee => (((1 << (7 - mantissa_bits)) - 1) << mantissa_bits, None),
            Special::NanOnly | Special::OneNan => (NAN, Some(NAN)),
        };
        if value.is_nan() {
            return Encoded::Value(signed(NAN));
        }
        if value.is_infinite() {
            return Encoded::Value(signed(infinite.unwrap_or(past)));
        }
        let bits = value.to_bits() & 0x7fff_ffff;
        let rebias = (127 - bias) as u32;
        let magnitude = if bits >> 23 > rebias {
            // The exponent moves to the new bias. Half a unit, less one if the last kept bit is even, then rounds to even;
            // a carry runs into the exponent, as it should.
            let shift = 23 - mantissa_bits;
            let moved = bits - (rebias << 23);
            (moved + (1 << (shift - 1)) - 1 + ((moved >> shift) & 1)) >> shift
        } else {
            // Subnormal: a count of the smallest value. The product is exact.
            let units = value.abs() * 2_f32.powi(bias - 1 + mantissa_bits as i32);
            units.round_ties_even() as u32
        };
        if magnitude >= past { Encoded::TooLarge(signed(past - 1)) } else { Encoded::Value(signed(magnitude)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_each_value_as_itself() {
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
            let encode = encoder(dtype).unwrap();
            for (byte, &value) in (0..=u8::MAX).zip(values(dtype).unwrap()) {
                match encode(value) {
                    // All NaN patterns become the one with all ones.
                    Encoded::Value(found) if value.is_nan() => assert_eq!(found & 0x7f, 0x7f, "{dtype} {byte}"),
                    found => assert_eq!(found, Encoded::Value(byte), "{dtype} {value}"),
                }
            }
        }
    }

    #[test]
    fn rounds_to_the_nearest_value_ties_to_even() {
        for (dtype, past) in [(Dtype::F8E4M3, 0x7f), (Dtype::F8E5M2, 0x7c)] {
            let (encode, values) = (encoder(dtype).unwrap(), values(dtype).unwrap());
            for (low, pair) in values[..past].windows(2).enumerate() {
                let middle = f32::midpoint(pair[0], pair[1]);
                let even = low + low % 2;
                for (value, expected) in
                    [(middle.next_down(), low), (middle, even), (middle.next_up(), low + 1), (-middle, even | 0x80)]
                {
                    assert_eq!(encode(value), Encoded::Value(expected as u8), "{dtype} {value:e}");
                }
            }
        }
    }

    #[test]
    fn reports_finite_values_beyond_the_largest() {
        let e4m3 = encoder(Dtype::F8E4M3).unwrap();
        assert_eq!(e4m3(464.0), Encoded::Value(0x7e));
        assert_eq!(e4m3(464.0_f32.next_up()), Encoded::TooLarge(0x7e));
        assert_eq!(e4m3(-1e30), Encoded::TooLarge(0xfe));
        assert_eq!(e4m3(f32::NEG_INFINITY), Encoded::Value(0xff));
        let e5m2 = encoder(Dtype::F8E5M2).unwrap();
        assert_eq!(e5m2(61440.0_f32.next_down()), Encoded::Value(0x7b));
        assert_eq!(e5m2(61440.0), Encoded::TooLarge(0x7b));
        assert_eq!(e5m2(f32::INFINITY), Encoded::Value(0x7c));
    }
}
