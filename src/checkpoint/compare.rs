//! Two tensors, element by element.

use indexmap::IndexMap;
use serde::Serialize;

use crate::error::Result;
use crate::io::Progress;
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor, Overflow, cast};

/// Elements compared at a time.
const ELEMENTS: u64 = 128 << 10;

/// How two tensors of one key compare.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Comparison {
    /// Same dtype, same shape, same bytes.
    Equal,
    /// Another dtype, but one is the other's values rounded to it.
    SameValues,
    /// Another shape; nothing was read.
    Shape,
    /// Other values.
    Values {
        /// Elements that differ.
        elements: u64,
        /// The largest distance between two finite elements; 0 where only NaN or infinities differ.
        max_abs: f64,
    },
}

/// Compares two tensors. Reads both, unless their shapes differ; memory is a few pieces.
pub fn compare(a: &LazyTensor, b: &LazyTensor, progress: &dyn Progress) -> Result<Comparison> {
    if a.shape() != b.shape() {
        return Ok(Comparison::Shape);
    }
    let held = (a.hold()?, b.hold()?);
    let outcome = if a.dtype() == b.dtype() {
        values(a, b, progress)?
    } else if is_rounded(a, b, progress)? || is_rounded(b, a, progress)? {
        Comparison::SameValues
    } else {
        match values(a, b, progress)? {
            Comparison::Equal => Comparison::SameValues,
            other => other,
        }
    };
    drop(held);
    Ok(outcome)
}

/// Whether `narrow` is `wide` rounded to its type.
fn is_rounded(wide: &LazyTensor, narrow: &LazyTensor, progress: &dyn Progress) -> Result<bool> {
    if !cast::is_supported(wide.dtype(), narrow.dtype()) {
        return Ok(false);
    }
    let rounded = wide.clone().cast(narrow.dtype(), Overflow::Saturate)?;
    Ok(values(&rounded, narrow, progress)? == Comparison::Equal)
}

/// Compares tensors of one shape: by their bytes where they have one dtype, else as numbers.
fn values(a: &LazyTensor, b: &LazyTensor, progress: &dyn Progress) -> Result<Comparison> {
    let (sizes, dtypes) = ((a.dtype().size(), b.dtype().size()), (a.dtype(), b.dtype()));
    let is_one_dtype = dtypes.0 == dtypes.1;
    let piece = ELEMENTS.min(a.shape().elements()) as usize;
    let (mut left, mut right) = (vec![0; piece * sizes.0], vec![0; piece * sizes.1]);
    let (mut elements, mut max_abs) = (0, 0.0_f64);
    let mut first = 0;
    while first < a.shape().elements() {
        progress.check()?;
        let count = (a.shape().elements() - first).min(ELEMENTS);
        let left = left.get_mut(..count as usize * sizes.0).unwrap_or_default();
        let right = right.get_mut(..count as usize * sizes.1).unwrap_or_default();
        a.read(first, left, None)?;
        b.read(first, right, None)?;
        if !is_one_dtype || left != right {
            for (left, right) in left.chunks_exact(sizes.0).zip(right.chunks_exact(sizes.1)) {
                let (x, y) = (number(dtypes.0, left), number(dtypes.1, right));
                let is_same = if is_one_dtype { left == right } else { x == y || x.is_nan() && y.is_nan() };
                elements += u64::from(!is_same);
                let distance = (x - y).abs();
                if !is_same && distance.is_finite() {
                    max_abs = max_abs.max(distance);
                }
            }
        }
        first += count;
        progress.advance(left.len() as u64);
    }
    Ok(if elements == 0 { Comparison::Equal } else { Comparison::Values { elements, max_abs } })
}

/// An element as a number; NaN for types that are none.
fn number(dtype: Dtype, bytes: &[u8]) -> f64 {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().unwrap_or([0; N])
    }
    match dtype {
        Dtype::F64 => f64::from_le_bytes(array(bytes)),
        Dtype::F32 => f32::from_le_bytes(array(bytes)).into(),
        Dtype::F16 => half::f16::from_le_bytes(array(bytes)).into(),
        Dtype::BF16 => half::bf16::from_le_bytes(array(bytes)).into(),
        Dtype::Bool | Dtype::U8 => u8::from_le_bytes(array(bytes)).into(),
        Dtype::I8 => i8::from_le_bytes(array(bytes)).into(),
        Dtype::U16 => u16::from_le_bytes(array(bytes)).into(),
        Dtype::I16 => i16::from_le_bytes(array(bytes)).into(),
        Dtype::U32 => u32::from_le_bytes(array(bytes)).into(),
        Dtype::I32 => i32::from_le_bytes(array(bytes)).into(),
        Dtype::U64 => u64::from_le_bytes(array(bytes)) as f64,
        Dtype::I64 => i64::from_le_bytes(array(bytes)) as f64,
        small if small.is_float() => {
            let mut wide = [0; 4];
            match cast::cast(small, bytes, Dtype::F32, &mut wide, Overflow::Saturate, 0) {
                Ok(()) => f32::from_le_bytes(wide).into(),
                Err(_) => f64::NAN,
            }
        }
        _ => f64::NAN,
    }
}

/// The tensors of two state dicts under one key, either of which may be absent.
pub type Pair<'a> = (String, Option<&'a LazyTensor>, Option<&'a LazyTensor>);

/// Puts the tensors of two state dicts side by side: the keys of `a` in its order, then those only `b` has. A key counts
/// as what `canonical` makes of it, unless its own side has that key already.
pub fn pair_up<'a>(a: &'a StateDict, b: &'a StateDict, canonical: impl Fn(&str) -> String) -> Vec<Pair<'a>> {
    let mut pairs: IndexMap<String, (Option<&LazyTensor>, Option<&LazyTensor>)> = IndexMap::new();
    for (side, state_dict) in [(0, a), (1, b)] {
        for (key, tensor) in state_dict.iter() {
            let wanted = canonical(key);
            let is_free = wanted == key || !state_dict.contains(&wanted);
            let pair = pairs.entry(if is_free { wanted } else { key.to_owned() }).or_default();
            *(if side == 0 { &mut pair.0 } else { &mut pair.1 }) = Some(tensor);
        }
    }
    pairs.into_iter().map(|(key, (a, b))| (key, a, b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::NoProgress;
    use crate::tensor::Shape;

    fn owned(dtype: Dtype, count: u64, bytes: Vec<u8>) -> LazyTensor {
        LazyTensor::owned(dtype, Shape::new([count]).unwrap(), bytes).unwrap()
    }

    fn singles(values: &[f32]) -> LazyTensor {
        owned(Dtype::F32, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    #[test]
    fn counts_and_measures_what_differs() {
        let result = compare(&singles(&[1.0, 2.0, f32::NAN]), &singles(&[1.0, 2.5, 0.0]), &NoProgress).unwrap();
        assert_eq!(result, Comparison::Values { elements: 2, max_abs: 0.5 });
        let same = singles(&[1.0, f32::NAN]);
        assert_eq!(compare(&same, &same, &NoProgress).unwrap(), Comparison::Equal);
        assert_eq!(compare(&same, &singles(&[1.0]), &NoProgress).unwrap(), Comparison::Shape);
    }

    #[test]
    fn a_rounded_tensor_has_the_same_values() {
        let values = [0.1_f32, -7.3, 65504.0];
        let halves = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
        let halves = owned(Dtype::F16, 3, halves);
        assert_eq!(compare(&singles(&values), &halves, &NoProgress).unwrap(), Comparison::SameValues);
        assert_eq!(compare(&halves, &singles(&values), &NoProgress).unwrap(), Comparison::SameValues);
        let other = compare(&singles(&[0.2, -7.3, 65504.0]), &halves, &NoProgress).unwrap();
        assert!(matches!(other, Comparison::Values { .. }), "{other:?}");
    }

    #[test]
    fn integers_are_compared_as_integers() {
        let ids = |values: &[i64]| {
            owned(Dtype::I64, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        let result = compare(&ids(&[0, 1, 2]), &ids(&[0, 1, 5]), &NoProgress).unwrap();
        assert_eq!(result, Comparison::Values { elements: 1, max_abs: 3.0 });
    }
}
