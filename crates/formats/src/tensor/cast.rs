//! Conversion between floating-point dtypes. Rounds to nearest, ties to even, as PyTorch does.
//!
//! A finite value that would become infinite, or NaN in an 8-bit float without infinities, is an error, or saturates if
//! [`Overflow::Saturate`] is given.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Hint, OrInternal, Result};
use crate::tensor::Dtype;
use crate::tensor::small_float::{self, Encoded};

/// How to treat a finite value that is too large for the target dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// Fail with an error that names the element and its value.
    #[default]
    Refuse,
    /// Replace it by the largest finite value with its sign.
    Saturate,
}

/// Returns whether [`cast`] converts between these dtypes.
pub fn is_supported(from: Dtype, to: Dtype) -> bool {
    from.is_float() && matches!(to, Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F16 | Dtype::BF16 | Dtype::F32)
}

/// Elements converted at a time: two blocks of 4 KiB fit in the first-level cache.
const BLOCK: usize = 1024;

/// The internal error of `widen` and `narrow`. `cast` passes chunks of at most [`BLOCK`] elements.
const LARGE_CHUNK: &str = "a chunk of a cast is larger than its buffer";

/// Converts the little-endian elements in `input` from `from` to `to` and writes them to `out`.
///
/// `f64` is converted to smaller dtypes through `f32`, as PyTorch does. `first` is the index of the first element in its
/// tensor, for the error message.
///
/// Fails if the dtypes are not supported, if `input` and `out` do not hold the same whole number of elements, if their
/// indices exceed [`u64::MAX`], or on an overflow that `overflow` refuses.
pub fn cast(from: Dtype, input: &[u8], to: Dtype, out: &mut [u8], overflow: Overflow, first: u64) -> Result<()> {
    if !is_supported(from, to) {
        return Err(Error::unsupported(format!("no conversion from {from} to {to}")));
    }
    let (count, rest) = (input.len() / from.size(), input.len() % from.size());
    if rest != 0 || !out.len().is_multiple_of(to.size()) || out.len() / to.size() != count {
        let (input, out) = (input.len(), out.len());
        return Err(Error::usage(format!("cannot cast {input} bytes of {from} to {out} bytes of {to}")));
    }
    if first.checked_add(count as u64).is_none() {
        return Err(Error::usage(format!("{count} elements from index {first} on are more than any tensor has")));
    }
    let mut block = [0_f32; BLOCK];
    let inputs = input.chunks(BLOCK * from.size());
    for (index, (input, out)) in inputs.zip(out.chunks_mut(BLOCK * to.size())).enumerate() {
        let values = block.get_mut(..input.len() / from.size()).or_internal(LARGE_CHUNK)?;
        let first = first + (index * BLOCK) as u64;
        widen(from, input, values, overflow, first)?;
        narrow(values, to, out, overflow, first)?;
    }
    Ok(())
}

/// Converts any floating-point dtype to `f32`. Exact except for `f64`.
fn widen(from: Dtype, input: &[u8], values: &mut [f32], overflow: Overflow, first: u64) -> Result<()> {
    match from {
        Dtype::F32 => each(input, values, f32::from_le_bytes),
        Dtype::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = halves.get_mut(..values.len()).or_internal(LARGE_CHUNK)?;
            each(input, halves, f16::from_le_bytes);
            halves.convert_to_f32_slice(values);
        }
        Dtype::BF16 => each(input, values, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F64 => {
            each(input, values, |bytes| f64::from_le_bytes(bytes) as f32);
            if values.iter().any(|value| value.is_infinite()) {
                for (index, (bytes, value)) in input.as_chunks().0.iter().zip(values).enumerate() {
                    let wide = f64::from_le_bytes(*bytes);
                    if value.is_infinite() && wide.is_finite() {
                        match overflow {
                            Overflow::Refuse => return Err(overflowed(wide, Dtype::F32, first + index as u64)),
                            Overflow::Saturate => *value = f32::MAX.copysign(*value),
                        }
                    }
                }
            }
        }
        _ => {
            let Some(table) = small_float::values(from) else {
                return Err(Error::unsupported(format!("{from} is not a floating-point dtype")));
            };
            for (value, &byte) in values.iter_mut().zip(input) {
                *value = *table.get(usize::from(byte)).or_internal("a table of bytes has no such byte")?;
            }
        }
    }
    Ok(())
}

/// Converts `f32` to a supported target dtype.
fn narrow(values: &[f32], to: Dtype, out: &mut [u8], overflow: Overflow, first: u64) -> Result<()> {
    match to {
        Dtype::F32 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = value.to_le_bytes();
            }
            Ok(())
        }
        Dtype::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = halves.get_mut(..values.len()).or_internal(LARGE_CHUNK)?;
            halves.convert_from_f32_slice(values);
            handle_overflow(values, halves, f16::is_infinite, f16::MAX, f16::MIN, to, overflow, first)?;
            for (out, half) in out.as_chunks_mut().0.iter_mut().zip(halves) {
                *out = half.to_le_bytes();
            }
            Ok(())
        }
        Dtype::BF16 => {
            let mut halves = [bf16::ZERO; BLOCK];
            let halves = halves.get_mut(..values.len()).or_internal(LARGE_CHUNK)?;
            halves.convert_from_f32_slice(values);
            handle_overflow(values, halves, bf16::is_infinite, bf16::MAX, bf16::MIN, to, overflow, first)?;
            for (out, half) in out.as_chunks_mut().0.iter_mut().zip(halves) {
                *out = half.to_le_bytes();
            }
            Ok(())
        }
        _ => {
            let Some(encode) = small_float::encoder(to) else {
                return Err(Error::unsupported(format!("cannot cast to {to}")));
            };
            for (index, (out, &value)) in out.iter_mut().zip(values).enumerate() {
                *out = match (encode(value), overflow) {
                    (Encoded::Value(byte), _) | (Encoded::TooLarge(byte), Overflow::Saturate) => byte,
                    (Encoded::TooLarge(_), Overflow::Refuse) => {
                        return Err(overflowed(f64::from(value), to, first + index as u64));
                    }
                };
            }
            Ok(())
        }
    }
}

/// Refuses or saturates the finite values that became infinite.
#[allow(clippy::too_many_arguments)]
fn handle_overflow<H: Copy>(
    values: &[f32],
    halves: &mut [H],
    is_infinite: fn(H) -> bool,
    max: H,
    min: H,
    to: Dtype,
    overflow: Overflow,
    first: u64,
) -> Result<()> {
    // Overflow is rare: a branchless pass decides whether the detailed one is needed.
    if !halves.iter().fold(false, |any, &half| any | is_infinite(half)) {
        return Ok(());
    }
    for (index, (half, &value)) in halves.iter_mut().zip(values).enumerate() {
        if is_infinite(*half) && value.is_finite() {
            match overflow {
                Overflow::Refuse => return Err(overflowed(f64::from(value), to, first + index as u64)),
                Overflow::Saturate => *half = if value > 0.0 { max } else { min },
            }
        }
    }
    Ok(())
}

fn overflowed(value: f64, to: Dtype, index: u64) -> Error {
    Error::mismatch(format!("element {index} is {value:e}, too large for {to}")).with_hint(Hint::Saturate)
}

fn each<const N: usize, T>(input: &[u8], values: &mut [T], convert: impl Fn([u8; N]) -> T) {
    for (value, bytes) in values.iter_mut().zip(input.as_chunks().0) {
        *value = convert(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_f16(values: &[f32], overflow: Overflow) -> Result<Vec<f16>> {
        let input: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut out = vec![0; values.len() * 2];
        cast(Dtype::F32, &input, Dtype::F16, &mut out, overflow, 0)?;
        Ok(out.chunks(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]])).collect())
    }

    #[test]
    fn rounds_to_nearest_even_and_keeps_infinities_and_nan() {
        let halves = to_f16(&[1.0, 2049.0, 2051.0, -0.0, 6e-8, f32::INFINITY, 65519.0], Overflow::Refuse).unwrap();
        let expected = [1.0, 2048.0, 2052.0, -0.0, 5.960_464_5e-8, f32::INFINITY, 65504.0];
        assert_eq!(halves.iter().map(|half| half.to_f32()).collect::<Vec<_>>(), expected);
        assert!(to_f16(&[f32::NAN], Overflow::Refuse).unwrap()[0].is_nan());
    }

    #[test]
    fn names_the_element_that_overflows_or_saturates_it() {
        let mut values = vec![0.0; 3000];
        values[2500] = -65520.0;
        let error = to_f16(&values, Overflow::Refuse).unwrap_err().to_string();
        assert!(error.contains("element 2500 is -6.552e4"), "{error}");
        assert_eq!(to_f16(&values, Overflow::Saturate).unwrap()[2500], f16::MIN);
    }

    #[test]
    fn detects_doubles_too_large_for_a_single() {
        let input = 1e300_f64.to_le_bytes();
        let mut out = [0; 4];
        assert!(cast(Dtype::F64, &input, Dtype::F32, &mut out, Overflow::Refuse, 7).is_err());
        cast(Dtype::F64, &input, Dtype::F32, &mut out, Overflow::Saturate, 7).unwrap();
        assert_eq!(f32::from_le_bytes(out), f32::MAX);
    }

    #[test]
    fn rejects_integers() {
        assert!(cast(Dtype::I64, &[0; 8], Dtype::F32, &mut [0; 4], Overflow::Refuse, 0).is_err());
    }

    #[test]
    fn rejects_indices_that_overflow() {
        let input = [1e300_f64.to_le_bytes(); 2].concat();
        let cast = |first| cast(Dtype::F64, &input, Dtype::F32, &mut [0; 8], Overflow::Refuse, first).unwrap_err();
        assert!(cast(u64::MAX - 1).to_string().contains("more than any tensor"));
        assert!(cast(u64::MAX - 2).to_string().contains(&format!("element {}", u64::MAX - 2)));
    }
}
