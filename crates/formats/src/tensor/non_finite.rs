//! Finds NaN and infinite values in the bytes of tensors.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// Tensors that a message names; the others are counted.
const NAMED: usize = 8;

/// How many NaN and infinite values some elements have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NonFinite {
    /// NaN.
    pub nan: u64,
    /// Infinite values of either sign.
    pub infinite: u64,
}

impl std::ops::AddAssign for NonFinite {
    fn add_assign(&mut self, other: Self) {
        self.nan += other.nan;
        self.infinite += other.infinite;
    }
}

impl NonFinite {
    /// Returns whether there are none.
    pub fn is_empty(self) -> bool {
        self == NonFinite::default()
    }

    /// Counts the NaN and infinite values of little-endian elements. A complex element counts as two. Bytes behind the last
    /// whole element do not count. Integers have none.
    pub fn count(dtype: Dtype, bytes: &[u8]) -> Self {
        match dtype {
            Dtype::F16 => half(bytes, 0x7c00, 0x0400),
            Dtype::BF16 => half(bytes, 0x7f80, 0x0080),
            Dtype::F32 | Dtype::C64 => single(bytes),
            Dtype::F64 | Dtype::C128 => double(bytes),
            Dtype::F8E5M2 => eighth(bytes, |byte| match byte & 0x7f {
                0x7c => Some(Special::Infinite),
                0x7d..=0x7f => Some(Special::Nan),
                _ => None,
            }),
            Dtype::F8E4M3 => eighth(bytes, |byte| (byte & 0x7f == 0x7f).then_some(Special::Nan)),
            Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz => eighth(bytes, |byte| (byte == 0x80).then_some(Special::Nan)),
            Dtype::F8E8M0 => eighth(bytes, |byte| (byte == 0xff).then_some(Special::Nan)),
            Dtype::Bool
            | Dtype::U8
            | Dtype::I8
            | Dtype::U16
            | Dtype::I16
            | Dtype::U32
            | Dtype::I32
            | Dtype::U64
            | Dtype::I64 => NonFinite::default(),
        }
    }

    /// `3 NaN, 1 infinite`.
    fn to_text(self) -> String {
        let counts = [(self.nan, "NaN"), (self.infinite, "infinite")];
        let words = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        words.collect::<Vec<_>>().join(", ")
    }
}

enum Special {
    Nan,
    Infinite,
}

/// Counts in pieces of this many elements. A piece without such values, which is the rule, is passed over by a loop that
/// the compiler turns into vector instructions.
const PIECE: usize = 4096;

/// Adding the lowest bit of the exponent to an exponent of ones carries into the sign bit; to any other it does not.
macro_rules! ieee {
    ($name:ident, $int:ty, $size:literal, ($($parameter:ident),*), $exponent:expr, $lowest:expr) => {
        fn $name(bytes: &[u8], $($parameter: $int),*) -> NonFinite {
            const SIGN: $int = 1 << (<$int>::BITS - 1);
            let mut found = NonFinite::default();
            for piece in bytes.as_chunks::<$size>().0.chunks(PIECE) {
                let carries = piece.iter().fold(0, |carries: $int, &element| {
                    carries | ((<$int>::from_le_bytes(element) & $exponent) + $lowest)
                });
                if carries & SIGN == 0 {
                    continue;
                }
                for &element in piece {
                    let magnitude = <$int>::from_le_bytes(element) & !SIGN;
                    found.infinite += u64::from(magnitude == $exponent);
                    found.nan += u64::from(magnitude > $exponent);
                }
            }
            found
        }
    };
}

ieee!(half, u16, 2, (exponent, lowest), exponent, lowest);
ieee!(single, u32, 4, (), 0x7f80_0000, 0x0080_0000);
ieee!(double, u64, 8, (), 0x7ff0_0000_0000_0000, 0x0010_0000_0000_0000);

/// Counts in bytes whose special values `special` tells.
fn eighth(bytes: &[u8], special: impl Fn(u8) -> Option<Special>) -> NonFinite {
    let mut found = NonFinite::default();
    for piece in bytes.chunks(PIECE) {
        if piece.iter().fold(false, |any, &byte| any | special(byte).is_some()) {
            for &byte in piece {
                match special(byte) {
                    Some(Special::Nan) => found.nan += 1,
                    Some(Special::Infinite) => found.infinite += 1,
                    None => {}
                }
            }
        }
    }
    found
}

/// A tensor with NaN or infinite values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NonFiniteTensor {
    /// The key of the tensor.
    pub tensor: String,
    /// How many it has.
    #[serde(flatten)]
    pub values: NonFinite,
}

impl NonFiniteTensor {
    /// Returns the entry of a tensor. `None` if all its values are finite.
    pub fn new(key: &str, values: NonFinite) -> Option<Self> {
        (!values.is_empty()).then(|| NonFiniteTensor { tensor: key.to_owned(), values })
    }

    /// Prepends the component of a folder to the key.
    #[must_use]
    pub(crate) fn within(mut self, component: &str) -> Self {
        if !component.is_empty() {
            self.tensor = format!("{component}/{}", self.tensor);
        }
        self
    }
}

/// Describes a list of tensors with NaN or infinite values; `None` if it is empty. Names the first ones.
pub fn to_text(tensors: &[NonFiniteTensor]) -> Option<String> {
    let named = tensors.iter().take(NAMED).map(|found| format!("{} ({})", found.tensor, found.values.to_text()));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match tensors.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    match tensors.len() {
        0 => None,
        1 => Some(format!("1 tensor has NaN or infinite values: {named}")),
        count => Some(format!("{count} tensors have NaN or infinite values: {named}{more}")),
    }
}

/// Fails if there is a tensor with NaN or infinite values.
pub fn refuse(tensors: &[NonFiniteTensor]) -> Result<()> {
    match to_text(tensors) {
        Some(text) => Err(Error::malformed(text)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::tensor::{Overflow, cast};

    /// Every value of a dtype of one or two bytes, as `cast` reads it.
    #[test]
    fn agrees_with_the_values_of_small_floats() {
        for dtype in Dtype::ALL.iter().copied().filter(|dtype| dtype.is_float() && dtype.size() <= 2) {
            let size = dtype.size();
            let count = 1_usize << (8 * size);
            let bytes: Vec<u8> = (0..count).flat_map(|bits| bits.to_le_bytes().into_iter().take(size)).collect();
            let mut wide = vec![0; count * 4];
            cast::cast(dtype, &bytes, Dtype::F32, &mut wide, Overflow::Refuse, 0).unwrap();
            let mut expected = NonFinite::default();
            for (element, value) in bytes.chunks(size).zip(wide.as_chunks().0) {
                let value = f32::from_le_bytes(*value);
                let found = NonFinite { nan: value.is_nan().into(), infinite: value.is_infinite().into() };
                assert_eq!(NonFinite::count(dtype, element), found, "{dtype} {element:?}");
                expected += found;
            }
            assert_eq!(NonFinite::count(dtype, &bytes), expected, "{dtype}");
            assert!(expected.nan > 0, "{dtype}");
        }
    }

    #[test]
    fn counts_wide_floats_anywhere_and_ignores_integers() {
        let values =
            [1.0, f64::MAX, -0.0, f64::MIN_POSITIVE / 2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -f64::NAN];
        let expected = NonFinite { nan: 2, infinite: 2 };
        for at in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 5] {
            let doubles: Vec<f64> = vec![0.5; at].into_iter().chain(values).chain(vec![2.0; 100]).collect();
            let singles: Vec<u8> = doubles
                .iter()
                .filter(|value| **value != f64::MAX)
                .flat_map(|value| (*value as f32).to_le_bytes())
                .collect();
            let doubles: Vec<u8> = doubles.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(NonFinite::count(Dtype::F64, &doubles), expected, "{at}");
            assert_eq!(NonFinite::count(Dtype::C128, &doubles), expected, "{at}");
            assert_eq!(NonFinite::count(Dtype::F32, &singles), expected, "{at}");
            assert_eq!(NonFinite::count(Dtype::C64, &singles), expected, "{at}");
        }
        for dtype in Dtype::ALL.iter().copied().filter(|dtype| !dtype.is_float()) {
            if !dtype.is_complex() {
                assert!(NonFinite::count(dtype, &[0xff; 64]).is_empty(), "{dtype}");
            }
        }
    }

    #[test]
    fn names_the_first_tensors_and_counts_the_others() {
        let tensors = |count: usize| -> Vec<_> {
            let values = NonFinite { nan: 3, infinite: 1 };
            (0..count).filter_map(|index| NonFiniteTensor::new(&format!("t{index}"), values)).collect()
        };
        assert_eq!(to_text(&tensors(0)), None);
        assert_eq!(to_text(&tensors(1)).unwrap(), "1 tensor has NaN or infinite values: t0 (3 NaN, 1 infinite)");
        assert!(to_text(&tensors(8)).unwrap().ends_with("t7 (3 NaN, 1 infinite)"));
        assert!(to_text(&tensors(10)).unwrap().ends_with("t7 (3 NaN, 1 infinite), and 2 more"));
        assert!(refuse(&tensors(0)).is_ok() && refuse(&tensors(2)).is_err());
    }
}
