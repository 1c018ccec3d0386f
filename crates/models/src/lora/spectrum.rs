//! How strong the change of a LoRA is, and how many of its ranks that takes.

use serde::Serialize;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::Progress;
use trinart_ckpt_formats::limits;
use trinart_ckpt_formats::tensor::LazyTensor;

use super::singular_values::{Triangle, of_product};
use crate::numbers::numbers;

/// Elements that are read at a time.
const ELEMENTS: usize = 1 << 18;

/// The strength of a change that is the product of two matrices, before it is scaled.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Spectrum {
    /// The Frobenius norm of the first matrix: `lora_down`, or `lora_A`.
    pub down_norm: f64,
    /// The Frobenius norm of the second matrix: `lora_up`, or `lora_B`.
    pub up_norm: f64,
    /// The singular values of their product, the largest first. Those below 1e-8 of the largest one are rounding.
    pub singular_values: Vec<f64>,
    /// The Frobenius norm of the product.
    pub norm: f64,
    /// The sum of the squared singular values divided by the largest square: the effective rank. 0 if all are zero.
    pub stable_rank: f64,
    /// The number of singular values that have 90 % of the sum of squares. 0 if all are zero.
    pub rank_90: usize,
    /// The number for 95 %.
    pub rank_95: usize,
    /// The number for 99 %.
    pub rank_99: usize,
}

impl Spectrum {
    /// Reads the two matrices of a change. A convolution counts as a matrix with a row for each output channel. Returns `None`
    /// for shapes that do not fit, more ranks than [`limits::LORA_RANKS`], complex numbers, and NaN or infinite values.
    pub(crate) fn read(down: &LazyTensor, up: &LazyTensor, progress: &dyn Progress) -> Result<Option<Self>> {
        let elements = |tensor: &LazyTensor| tensor.shape().elements();
        let (Some(&ranks), Some(&rows)) = (down.shape().dims().first(), up.shape().dims().first()) else {
            return Ok(None);
        };
        let is_product = ranks > 0 && rows > 0 && elements(down) > 0 && ranks.checked_mul(rows) == Some(elements(up));
        let Some(size) = usize::try_from(ranks).ok().filter(|size| is_product && *size <= limits::LORA_RANKS) else {
            return Ok(None);
        };
        if down.dtype().is_complex() || up.dtype().is_complex() {
            return Ok(None);
        }
        let columns = elements(down) / ranks;
        let (of_down, of_up) = (gram_of_rows(down, size, columns, progress)?, gram_of_columns(up, size, progress)?);
        let norms = (of_down.trace(), of_up.trace());
        if !norms.0.is_finite() || !norms.1.is_finite() {
            return Ok(None);
        }
        let mut singular_values = of_product(&of_up, &of_down);
        singular_values.truncate(usize::try_from(columns.min(rows)).unwrap_or(usize::MAX));
        Ok(Some(Self::new(norms.0.sqrt(), norms.1.sqrt(), singular_values)))
    }

    fn new(down_norm: f64, up_norm: f64, singular_values: Vec<f64>) -> Self {
        let squares = || singular_values.iter().map(|value| value * value);
        let sum: f64 = squares().sum();
        let rank = |part: f64| {
            let mut rest = part * sum;
            let is_needed = |square: &f64| {
                let is_open = rest > 0.0;
                rest -= square;
                is_open
            };
            squares().take_while(is_needed).count()
        };
        let largest = squares().next().unwrap_or(0.0);
        Spectrum {
            down_norm,
            up_norm,
            norm: sum.sqrt(),
            stable_rank: if largest > 0.0 { sum / largest } else { 0.0 },
            rank_90: rank(0.90),
            rank_95: rank(0.95),
            rank_99: rank(0.99),
            singular_values,
        }
    }
}

/// Returns the Gram matrix of the columns of a matrix with `size` columns.
fn gram_of_columns(tensor: &LazyTensor, size: usize, progress: &dyn Progress) -> Result<Triangle> {
    let _held = tensor.hold()?;
    let mut gram = Triangle::zero(size);
    let (mut bytes, mut found) = (Vec::new(), Vec::new());
    let (mut first, end) = (0, tensor.shape().elements());
    while first < end {
        progress.check()?;
        let count = (end - first).min((ELEMENTS / size * size) as u64);
        bytes.resize(count as usize * tensor.dtype().size(), 0);
        tensor.read(first, &mut bytes, None)?;
        numbers(tensor.dtype(), &bytes, &mut found)?;
        found.chunks_exact(size).for_each(|row| gram.add_square(row));
        first += count;
        progress.advance(bytes.len() as u64);
    }
    Ok(gram)
}

/// Returns the Gram matrix of the rows of a matrix with `size` rows.
fn gram_of_rows(tensor: &LazyTensor, size: usize, columns: u64, progress: &dyn Progress) -> Result<Triangle> {
    let _held = tensor.hold()?;
    let mut gram = Triangle::zero(size);
    let (mut bytes, mut found, mut transposed) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    while first < columns {
        progress.check()?;
        let count = (columns - first).min((ELEMENTS / size) as u64);
        bytes.resize(count as usize * tensor.dtype().size(), 0);
        transposed.resize(count as usize * size, 0.0);
        for row in 0..size {
            tensor.read(row as u64 * columns + first, &mut bytes, None)?;
            numbers(tensor.dtype(), &bytes, &mut found)?;
            for (column, number) in transposed.chunks_exact_mut(size).zip(&found) {
                if let Some(element) = column.get_mut(row) {
                    *element = *number;
                }
            }
        }
        transposed.chunks_exact(size).for_each(|column| gram.add_square(column));
        first += count;
        progress.advance((bytes.len() * size) as u64);
    }
    Ok(gram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::io::NoProgress;
    use trinart_ckpt_formats::tensor::{Dtype, Shape};

    fn singles(dims: &[u64], values: impl IntoIterator<Item = f32>) -> LazyTensor {
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        LazyTensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
    }

    fn zeros(dims: &[u64]) -> LazyTensor {
        singles(dims, std::iter::repeat_n(0.0, dims.iter().product::<u64>() as usize))
    }

    fn of(down: &LazyTensor, up: &LazyTensor) -> Option<Spectrum> {
        Spectrum::read(down, up, &NoProgress).unwrap()
    }

    #[test]
    fn counts_the_ranks_of_most_of_the_change() {
        let down = singles(&[3, 4], [10.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let up = singles(&[4, 3], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let found = of(&down, &up).unwrap();
        let rounded: Vec<f64> = found.singular_values.iter().map(|value| (value * 1e9).round() / 1e9).collect();
        assert_eq!(rounded, [10.0, 3.0, 1.0]);
        assert_eq!((found.rank_90, found.rank_95, found.rank_99), (1, 2, 2));
        assert!((found.stable_rank - 1.1).abs() < 1e-12 && (found.norm - 110.0_f64.sqrt()).abs() < 1e-12);
        assert!((found.up_norm - 3.0_f64.sqrt()).abs() < 1e-12);
        let none = of(&zeros(&[3, 4]), &up).unwrap();
        assert_eq!((none.stable_rank, none.rank_90, none.rank_99, none.norm), (0.0, 0, 0, 0.0));
    }

    #[test]
    fn a_layer_smaller_than_the_ranks_has_fewer_singular_values() {
        assert_eq!(of(&zeros(&[8, 2, 3, 1]), &zeros(&[4, 8, 1, 1])).unwrap().singular_values.len(), 4);
    }

    #[test]
    fn refuses_what_is_no_product() {
        let down = zeros(&[2, 3]);
        assert!(of(&down, &zeros(&[4, 2])).is_some());
        for up in [zeros(&[4, 3]), zeros(&[0, 2]), zeros(&[4, 2, 2]), singles(&[1, 2], [f32::NAN, 0.0])] {
            assert_eq!(of(&down, &up), None);
        }
        assert_eq!(of(&zeros(&[0, 3]), &zeros(&[4, 0])), None);
    }

    #[test]
    fn has_a_limit_of_ranks() {
        let ranks = limits::LORA_RANKS as u64;
        assert!(of(&zeros(&[ranks, 1]), &zeros(&[1, ranks])).is_some());
        assert!(of(&zeros(&[ranks + 1, 1]), &zeros(&[1, ranks + 1])).is_none());
    }
}
