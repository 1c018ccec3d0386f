//! Two tensors, element by element.

use indexmap::IndexMap;
use serde::Serialize;

use crate::error::Result;
use crate::io::Progress;
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
    } else {
        match rounded(a, b)? {
            Some((wide, narrow)) if values(&wide, &narrow, progress)? == Comparison::Equal => Comparison::SameValues,
            _ => match (as_f32(a)?, as_f32(b)?) {
                (Some(a), Some(b)) => values(&a, &b, progress)?,
                // An integer against a float: no distance is worth a name.
                _ => Comparison::Values { elements: a.shape().elements(), max_abs: f64::NAN },
            },
        }
    };
    drop(held);
    Ok(outcome)
}

/// The wider of two floating tensors rounded to the type of the narrower, and the narrower.
fn rounded(a: &LazyTensor, b: &LazyTensor) -> Result<Option<(LazyTensor, LazyTensor)>> {
    let (wide, narrow) = if a.dtype().size() >= b.dtype().size() { (a, b) } else { (b, a) };
    if !cast::is_supported(wide.dtype(), narrow.dtype()) {
        return Ok(None);
    }
    Ok(Some((wide.clone().cast(narrow.dtype(), Overflow::Saturate)?, narrow.clone())))
}

fn as_f32(tensor: &LazyTensor) -> Result<Option<LazyTensor>> {
    match tensor.dtype().is_float() {
        true => tensor.clone().cast(Dtype::F32, Overflow::Saturate).map(Some),
        false => Ok(None),
    }
}

/// Compares tensors of one dtype and shape.
fn values(a: &LazyTensor, b: &LazyTensor, progress: &dyn Progress) -> Result<Comparison> {
    let size = a.dtype().size();
    let piece = ELEMENTS.min(a.shape().elements()) as usize * size;
    let (mut left, mut right) = (vec![0; piece], vec![0; piece]);
    let (mut elements, mut max_abs) = (0, 0.0_f64);
    let mut first = 0;
    while first < a.shape().elements() {
        progress.check()?;
        let count = (a.shape().elements() - first).min(ELEMENTS);
        let bytes = count as usize * size;
        let left = left.get_mut(..bytes).unwrap_or_default();
        let right = right.get_mut(..bytes).unwrap_or_default();
        a.read(first, left, None)?;
        b.read(first, right, None)?;
        if left != right {
            let pairs = left.chunks_exact(size).zip(right.chunks_exact(size)).filter(|(left, right)| left != right);
            for (left, right) in pairs {
                elements += 1;
                let distance = (number(a.dtype(), left) - number(a.dtype(), right)).abs();
                if distance.is_finite() {
                    max_abs = max_abs.max(distance);
                }
            }
        }
        first += count;
        progress.advance(bytes as u64);
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

/// Puts the tensors of two state dicts side by side: the keys of `a` in its order, then those only `b` has.
pub fn pair_up<'a>(
    a: impl Iterator<Item = (String, &'a LazyTensor)>,
    b: impl Iterator<Item = (String, &'a LazyTensor)>,
) -> Vec<Pair<'a>> {
    let mut pairs: IndexMap<String, (Option<&LazyTensor>, Option<&LazyTensor>)> = IndexMap::new();
    for (key, tensor) in a {
        pairs.entry(key).or_default().0 = Some(tensor);
    }
    for (key, tensor) in b {
        pairs.entry(key).or_default().1 = Some(tensor);
    }
    pairs.into_iter().map(|(key, (a, b))| (key, a, b)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::Silent;
    use crate::tensor::Shape;

    fn owned(dtype: Dtype, count: u64, bytes: Vec<u8>) -> LazyTensor {
        LazyTensor::Owned { dtype, shape: Shape::new([count]).unwrap(), bytes: Arc::from(bytes) }
    }

    fn singles(values: &[f32]) -> LazyTensor {
        owned(Dtype::F32, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    #[test]
    fn counts_and_measures_what_differs() {
        let result = compare(&singles(&[1.0, 2.0, f32::NAN]), &singles(&[1.0, 2.5, 0.0]), &Silent).unwrap();
        assert_eq!(result, Comparison::Values { elements: 2, max_abs: 0.5 });
        let same = singles(&[1.0, f32::NAN]);
        assert_eq!(compare(&same, &same, &Silent).unwrap(), Comparison::Equal);
        assert_eq!(compare(&same, &singles(&[1.0]), &Silent).unwrap(), Comparison::Shape);
    }

    #[test]
    fn a_rounded_tensor_has_the_same_values() {
        let values = [0.1_f32, -7.3, 65504.0];
        let halves = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
        let halves = owned(Dtype::F16, 3, halves);
        assert_eq!(compare(&singles(&values), &halves, &Silent).unwrap(), Comparison::SameValues);
        assert_eq!(compare(&halves, &singles(&values), &Silent).unwrap(), Comparison::SameValues);
        let other = compare(&singles(&[0.2, -7.3, 65504.0]), &halves, &Silent).unwrap();
        assert!(matches!(other, Comparison::Values { .. }), "{other:?}");
    }

    #[test]
    fn integers_are_compared_as_integers() {
        let ids = |values: &[i64]| {
            owned(Dtype::I64, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        let result = compare(&ids(&[0, 1, 2]), &ids(&[0, 1, 5]), &Silent).unwrap();
        assert_eq!(result, Comparison::Values { elements: 1, max_abs: 3.0 });
    }
}
