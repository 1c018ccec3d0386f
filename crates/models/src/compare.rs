//! Compares two tensors, element by element.

use indexmap::IndexMap;
use serde::Serialize;

use crate::measures::{Sums, Tolerance};
use crate::numbers::numbers;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::Progress;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{LazyTensor, NonFinite, Overflow, cast};

/// Elements per read.
const ELEMENTS: u64 = 128 << 10;

/// The result of comparing two tensors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum TensorComparison {
    /// The dtype, the shape and the bytes are the same.
    Equal,
    /// The dtypes differ, but one tensor has the other's values rounded to its dtype.
    SameValues,
    /// The shapes differ. No element was compared.
    Shape,
    /// The values differ.
    Values {
        /// The number of elements that differ.
        elements: u64,
        /// The largest difference between two finite elements; 0 if only NaN or infinite values differ.
        max_abs: f64,
    },
}

/// What reading two tensors tells.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BothRead {
    /// The result of comparing them.
    pub comparison: TensorComparison,
    /// The NaN and infinite values of each. Tensors of different shapes are not read and count as finite.
    pub non_finite: [NonFinite; 2],
    /// The sums for measures, if they were requested; `None` for tensors of different shapes, and for complex numbers.
    pub sums: Option<Sums>,
}

/// Compares two tensors. Reads both in pieces, unless their shapes differ.
pub fn compare(a: &LazyTensor, b: &LazyTensor, progress: &dyn Progress) -> Result<TensorComparison> {
    Ok(read_both(a, b, None, progress)?.comparison)
}

/// Compares two tensors as [`compare`] does, counts the NaN and infinite values of both, and with a tolerance measures how
/// far their values are apart.
pub fn read_both(
    a: &LazyTensor,
    b: &LazyTensor,
    measured: Option<Tolerance>,
    progress: &dyn Progress,
) -> Result<BothRead> {
    if a.shape() != b.shape() {
        return Ok(BothRead { comparison: TensorComparison::Shape, non_finite: Default::default(), sums: None });
    }
    let held = (a.hold()?, b.hold()?);
    let measured = measured.filter(|_| !a.dtype().is_complex() && !b.dtype().is_complex());
    let mut sums = measured.map(|tolerance| (Sums::default(), tolerance));
    let (comparison, non_finite) = if a.dtype() == b.dtype() {
        values(a, b, sums.as_mut(), progress)?
    } else if let Some(non_finite) = same_when_rounded(a, b, progress)? {
        if sums.is_some() {
            values(a, b, sums.as_mut(), progress)?;
        }
        (TensorComparison::SameValues, non_finite)
    } else {
        match values(a, b, sums.as_mut(), progress)? {
            (TensorComparison::Equal, counts) => (TensorComparison::SameValues, counts),
            other => other,
        }
    };
    drop(held);
    Ok(BothRead { comparison, non_finite, sums: sums.map(|(sums, _)| sums) })
}

/// Returns the NaN and infinite values of both, if one has the values of the other, rounded to its dtype.
fn same_when_rounded(a: &LazyTensor, b: &LazyTensor, progress: &dyn Progress) -> Result<Option<[NonFinite; 2]>> {
    if let (TensorComparison::Equal, counts) = rounded(a, b, progress)? {
        return Ok(Some(counts));
    }
    match rounded(b, a, progress)? {
        (TensorComparison::Equal, [of_b, of_a]) => Ok(Some([of_a, of_b])),
        _ => Ok(None),
    }
}

/// Compares `narrow` with the values of `wide`, rounded to its dtype.
fn rounded(
    wide: &LazyTensor,
    narrow: &LazyTensor,
    progress: &dyn Progress,
) -> Result<(TensorComparison, [NonFinite; 2])> {
    if !cast::is_supported(wide.dtype(), narrow.dtype()) {
        return Ok((TensorComparison::Shape, Default::default()));
    }
    let rounded = wide.clone().cast(narrow.dtype(), Overflow::Saturate)?;
    values(&rounded, narrow, None, progress)
}

/// Compares tensors of the same shape: bytes if the dtypes are the same, else numbers.
fn values(
    a: &LazyTensor,
    b: &LazyTensor,
    mut sums: Option<&mut (Sums, Tolerance)>,
    progress: &dyn Progress,
) -> Result<(TensorComparison, [NonFinite; 2])> {
    let mut counts = [NonFinite::default(); 2];
    let (sizes, dtypes) = ((a.dtype().size(), b.dtype().size()), (a.dtype(), b.dtype()));
    let is_one_dtype = dtypes.0 == dtypes.1;
    let piece = ELEMENTS.min(a.shape().elements()) as usize;
    let (mut left, mut right) = (vec![0; piece * sizes.0], vec![0; piece * sizes.1]);
    let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
    let (mut elements, mut max_abs) = (0, 0.0_f64);
    let mut first = 0;
    while first < a.shape().elements() {
        progress.check()?;
        let count = (a.shape().elements() - first).min(ELEMENTS);
        // Only the last piece is shorter.
        left.truncate(count as usize * sizes.0);
        right.truncate(count as usize * sizes.1);
        a.read(first, &mut left, None)?;
        b.read(first, &mut right, None)?;
        let [of_a, of_b] = &mut counts;
        *of_a += NonFinite::count(dtypes.0, &left);
        *of_b += NonFinite::count(dtypes.1, &right);
        if !is_one_dtype || left != right {
            numbers(dtypes.0, &left, &mut of_left)?;
            numbers(dtypes.1, &right, &mut of_right)?;
            let bytes = left.chunks_exact(sizes.0).zip(right.chunks_exact(sizes.1));
            for ((left, right), (x, y)) in bytes.zip(of_left.iter().zip(&of_right)) {
                let is_same = if is_one_dtype { left == right } else { x == y || x.is_nan() && y.is_nan() };
                elements += u64::from(!is_same);
                let distance = (x - y).abs();
                if !is_same && distance.is_finite() {
                    max_abs = max_abs.max(distance);
                }
            }
            if let Some((sums, tolerance)) = &mut sums {
                sums.add(&of_left, &of_right, *tolerance);
            }
        } else if let Some((sums, _)) = &mut sums {
            numbers(dtypes.0, &left, &mut of_left)?;
            sums.add_equal(&of_left);
        }
        first += count;
        progress.advance(left.len() as u64);
    }
    let is_equal = elements == 0;
    let found = if is_equal { TensorComparison::Equal } else { TensorComparison::Values { elements, max_abs } };
    Ok((found, counts))
}

/// A key, and its tensors in two state dicts. At least one side has it.
pub type KeyPair<'a> = (String, Option<&'a LazyTensor>, Option<&'a LazyTensor>);

/// Pairs the tensors of two state dicts by key: the keys of `a` in their order, then those that only `b` has. `canonical`
/// unifies the spellings of a key, unless its own side has that spelling too.
pub fn pair_up<'a>(a: &'a StateDict, b: &'a StateDict, canonical: impl Fn(&str) -> String) -> Vec<KeyPair<'a>> {
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
    use trinart_ckpt_formats::io::NoProgress;
    use trinart_ckpt_formats::tensor::{Dtype, Shape};

    fn owned(dtype: Dtype, count: u64, bytes: Vec<u8>) -> LazyTensor {
        LazyTensor::owned(dtype, Shape::new([count]).unwrap(), bytes).unwrap()
    }

    fn singles(values: &[f32]) -> LazyTensor {
        owned(Dtype::F32, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    #[test]
    fn counts_different_elements_and_measures_the_difference() {
        let result = compare(&singles(&[1.0, 2.0, f32::NAN]), &singles(&[1.0, 2.5, 0.0]), &NoProgress).unwrap();
        assert_eq!(result, TensorComparison::Values { elements: 2, max_abs: 0.5 });
        let same = singles(&[1.0, f32::NAN]);
        assert_eq!(compare(&same, &same, &NoProgress).unwrap(), TensorComparison::Equal);
        assert_eq!(compare(&same, &singles(&[1.0]), &NoProgress).unwrap(), TensorComparison::Shape);
    }

    #[test]
    fn a_rounded_tensor_has_the_same_values() {
        let values = [0.1_f32, -7.3, 65504.0];
        let halves = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
        let halves = owned(Dtype::F16, 3, halves);
        assert_eq!(compare(&singles(&values), &halves, &NoProgress).unwrap(), TensorComparison::SameValues);
        assert_eq!(compare(&halves, &singles(&values), &NoProgress).unwrap(), TensorComparison::SameValues);
        let other = compare(&singles(&[0.2, -7.3, 65504.0]), &halves, &NoProgress).unwrap();
        assert!(matches!(other, TensorComparison::Values { .. }), "{other:?}");
    }

    #[test]
    fn compares_integers_exactly() {
        let ids = |values: &[i64]| {
            owned(Dtype::I64, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        let result = compare(&ids(&[0, 1, 2]), &ids(&[0, 1, 5]), &NoProgress).unwrap();
        assert_eq!(result, TensorComparison::Values { elements: 1, max_abs: 3.0 });
    }
}
