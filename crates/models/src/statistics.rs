//! Statistics of the values of a tensor: range, mean, deviation, and how many are NaN, infinite or zero.

use serde::Serialize;

use crate::hash::each_piece;
use crate::numbers::numbers;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{Progress, parallel};
use trinart_ckpt_formats::tensor::LazyTensor;

/// Bytes of a tensor that are read at a time: a multiple of the size of every dtype.
const PIECE: usize = 1 << 20;

/// The statistics of a tensor, computed in f64. Complex numbers have none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Statistics {
    /// The smallest finite value; `None` without one.
    pub min: Option<f64>,
    /// The largest finite value; `None` without one.
    pub max: Option<f64>,
    /// The mean of the finite values; `None` without one, or if their sum is too large for an f64.
    pub mean: Option<f64>,
    /// The standard deviation of the finite values, divided by their number, as in NumPy; `None` without one, or if it is too
    /// large for an f64.
    pub std: Option<f64>,
    /// The number of NaN.
    pub nan: u64,
    /// The number of infinite values.
    pub infinite: u64,
    /// The number of zeros of either sign.
    pub zeros: u64,
}

/// Reads the tensors, and returns the statistics of each; `None` for complex numbers.
pub fn statistics(tensors: &[&LazyTensor], jobs: usize, progress: &dyn Progress) -> Result<Vec<Option<Statistics>>> {
    progress.begin("reading", tensors.iter().map(|tensor| tensor.bytes()).fold(0, u64::saturating_add));
    let buffers = || (vec![0; PIECE], Vec::new());
    parallel::map(jobs, tensors, buffers, |(bytes, found): &mut (Vec<u8>, Vec<f64>), tensor| {
        if tensor.dtype().is_complex() {
            return Ok(None);
        }
        let mut sums = Sums::default();
        each_piece(tensor, bytes, progress, |piece| {
            numbers(tensor.dtype(), piece, found)?;
            sums.add(found);
            Ok(())
        })?;
        Ok(Some(sums.finish()))
    })
}

/// The values so far.
#[derive(Default)]
struct Sums {
    found: Statistics,
    /// The number of finite values, their mean, and the sum of their squared distances to it.
    count: f64,
    mean: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, numbers: &[f64]) {
        let (mut count, mut sum) = (0.0, 0.0);
        for &value in numbers {
            if value.is_nan() {
                self.found.nan += 1;
            } else if value.is_infinite() {
                self.found.infinite += 1;
            } else {
                self.found.zeros += u64::from(value == 0.0);
                self.found.min = Some(self.found.min.map_or(value, |min| min.min(value)));
                self.found.max = Some(self.found.max.map_or(value, |max| max.max(value)));
                count += 1.0;
                sum += value;
            }
        }
        if count == 0.0 {
            return;
        }
        // The mean of a piece first, then the distances to it: one sum of squares would lose small deviations.
        let mean = sum / count;
        let finite = numbers.iter().filter(|value| value.is_finite());
        let squares: f64 = finite.map(|value| (value - mean) * (value - mean)).sum();
        // Two groups become one as Chan, Golub and LeVeque add their variances.
        let (distance, total) = (mean - self.mean, self.count + count);
        self.squares += squares + distance * distance * (self.count / total * count);
        self.mean += distance * (count / total);
        self.count = total;
    }

    fn finish(self) -> Statistics {
        let finite = |value: f64| (self.count > 0.0 && value.is_finite()).then_some(value);
        Statistics { mean: finite(self.mean), std: finite((self.squares / self.count).sqrt()), ..self.found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::io::NoProgress;
    use trinart_ckpt_formats::tensor::{Dtype, Shape};

    fn of(dtype: Dtype, bytes: Vec<u8>) -> Option<Statistics> {
        let count = (bytes.len() / dtype.size()) as u64;
        let tensor = LazyTensor::owned(dtype, Shape::new([count]).unwrap(), bytes).unwrap();
        statistics(&[&tensor], 1, &NoProgress).unwrap().remove(0)
    }

    fn singles(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    #[test]
    fn counts_values_that_are_no_finite_numbers_apart() {
        let found = of(Dtype::F32, singles([f32::NAN, 3.0, f32::INFINITY, -0.0, -1.0, f32::NEG_INFINITY])).unwrap();
        let expected = Statistics {
            min: Some(-1.0),
            max: Some(3.0),
            mean: Some(2.0 / 3.0),
            std: Some((26.0_f64 / 9.0).sqrt()),
            nan: 1,
            infinite: 2,
            zeros: 1,
        };
        assert_eq!(found.std.map(|std| (std * 1e12).round()), expected.std.map(|std| (std * 1e12).round()));
        assert_eq!(Statistics { std: None, ..found }, Statistics { std: None, ..expected });
        assert_eq!(of(Dtype::F16, Vec::new()), Some(Statistics::default()));
        let only_nan = of(Dtype::F32, singles([f32::NAN])).unwrap();
        assert_eq!((only_nan.mean, only_nan.std, only_nan.nan), (None, None, 1));
        assert_eq!(of(Dtype::C64, vec![0; 8]), None);
    }

    #[test]
    fn keeps_a_small_deviation_beside_a_large_mean_over_many_pieces() {
        let count = 3 * PIECE / 4 + 4;
        let found = of(Dtype::F32, singles((0..count).map(|index| 4096.0 + (index % 2) as f32 / 256.0))).unwrap();
        let close = |found: Option<f64>, expected: f64| (found.unwrap() / expected - 1.0).abs() < 1e-9;
        assert!(close(found.mean, 4096.0 + 1.0 / 512.0) && close(found.std, 1.0 / 512.0), "{found:?}");
        assert_eq!((found.min, found.max), (Some(4096.0), Some(4096.0 + 1.0 / 256.0)));
    }

    #[test]
    fn reads_integers_and_small_floats() {
        let found = of(Dtype::I64, [-2_i64, 0, 5].iter().flat_map(|it| it.to_le_bytes()).collect()).unwrap();
        assert_eq!((found.min, found.max, found.mean, found.zeros), (Some(-2.0), Some(5.0), Some(1.0), 1));
        let found = of(Dtype::F8E4M3, vec![0x38, 0xb8, 0x7f, 0x80]).unwrap();
        assert_eq!((found.min, found.max, found.nan, found.zeros), (Some(-1.0), Some(1.0), 1, 1));
        let found = of(Dtype::Bool, vec![0, 1, 1, 1]).unwrap();
        assert_eq!((found.mean, found.zeros), (Some(0.75), 1));
    }
}
