//! Finds weights that are NaN, infinite or all zero, while they are read.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(any(feature = "cuda", test))]
use candle_core::DType;
use candle_core::WithDType;

/// A flaw in the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFlaw {
    /// Some values are NaN or infinite.
    NotFinite,
    /// All values are zero.
    Zero,
    /// Some values of an 8-bit tensor are the largest of its dtype. In many tensors, it means that each was divided by a
    /// scale.
    FullRange,
}

/// The flawed tensors among all loaded tensors.
#[derive(Debug, Clone, Default)]
pub struct WeightFlaws(Arc<Mutex<Vec<(String, WeightFlaw)>>>);

impl WeightFlaws {
    /// Returns the keys of the tensors with this flaw, in the order in which they were loaded.
    pub fn keys(&self, flaw: WeightFlaw) -> Vec<String> {
        let mut keys = Vec::new();
        for (key, found) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if *found == flaw && !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    pub(super) fn record(&self, key: &str, flaw: WeightFlaw) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((key.to_owned(), flaw));
    }
}

/// Number of values to scan without a branch, so that the loop vectorizes.
const BLOCK: usize = 32 << 10;

/// Whether all values of a slice are finite, and whether all are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlawScan {
    pub(super) finite: bool,
    pub(super) zero: bool,
}

impl FlawScan {
    /// The scan of an empty slice.
    pub(super) const NOTHING: FlawScan = FlawScan { finite: true, zero: true };

    /// Combines the scans of two slices.
    pub(super) fn and(self, other: FlawScan) -> Self {
        FlawScan { finite: self.finite & other.finite, zero: self.zero & other.zero }
    }

    /// Returns the flaw of a tensor of `count` values.
    pub(super) fn flaw(self, count: usize) -> Option<WeightFlaw> {
        match self {
            FlawScan { finite: false, .. } => Some(WeightFlaw::NotFinite),
            FlawScan { zero: true, .. } if count > 0 => Some(WeightFlaw::Zero),
            _ => None,
        }
    }

    /// Scans the bits of little-endian F16, BF16 or F32 values, which go to the GPU undecoded.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn of_bytes(dtype: DType, bytes: &[u8]) -> Self {
        let halves = |exponent: u16| {
            let words = bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
            words.fold(Self::NOTHING, |scan, word| {
                scan.and(FlawScan { finite: word & exponent != exponent, zero: word & 0x7fff == 0 })
            })
        };
        match dtype {
            DType::F16 => halves(0x7c00),
            DType::BF16 => halves(0x7f80),
            _ => {
                let words = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                words.fold(Self::NOTHING, |scan, word| {
                    let exponent = 0x7f80_0000;
                    scan.and(FlawScan { finite: word & exponent != exponent, zero: word & 0x7fff_ffff == 0 })
                })
            }
        }
    }
}

/// Returns the flaw of a tensor with these elements.
pub(super) fn of_elements<T: WithDType>(elements: &[T]) -> Option<WeightFlaw> {
    let mut scan = FlawScan::NOTHING;
    for block in elements.chunks(BLOCK) {
        scan = block.iter().fold(scan, |scan, value| {
            let value = value.to_f64();
            scan.and(FlawScan { finite: value.is_finite(), zero: value == 0.0 })
        });
        if !scan.finite {
            break;
        }
    }
    scan.flaw(elements.len())
}

/// Returns the flaw of a tensor of F8_E4M3, which has two NaNs, two zeros and no infinity.
pub(super) fn of_f8e4m3(bytes: &[u8]) -> Option<WeightFlaw> {
    let scan = |byte: &u8| FlawScan { finite: byte & 0x7f != 0x7f, zero: byte & 0x7f == 0 };
    let flaw = bytes.iter().map(scan).fold(FlawScan::NOTHING, FlawScan::and).flaw(bytes.len());
    // 448
    let is_full = || bytes.iter().any(|byte| byte & 0x7f == 0x7e);
    flaw.or_else(|| is_full().then_some(WeightFlaw::FullRange))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn scans_bits_and_values_alike() {
        for values in [&[0.0_f32, -0.0][..], &[0.0, 1.0], &[1.0, f32::NAN], &[f32::INFINITY, 0.0], &[-1e-7, 0.0], &[]] {
            let expected = of_elements(values);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(FlawScan::of_bytes(DType::F32, &bytes).flaw(values.len()), expected, "{values:?}");
            let bytes: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
            assert_eq!(FlawScan::of_bytes(DType::F16, &bytes).flaw(values.len()), expected, "{values:?}");
            let bytes: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
            assert_eq!(FlawScan::of_bytes(DType::BF16, &bytes).flaw(values.len()), expected, "{values:?}");
        }
    }
}
