//! Summary statistics of a tensor.

/// Summary statistics of a tensor. All fields except the counts cover only finite values; they are 0 if there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Statistics {
    /// The number of NaN values.
    pub nan: usize,
    /// The number of infinite values.
    pub infinite: usize,
    /// The maximum.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub deviation: f64,
}

impl Statistics {
    /// Returns the statistics of `values`.
    pub(crate) fn of(values: &[f32]) -> Self {
        let finite = || values.iter().map(|&value| f64::from(value)).filter(|value| value.is_finite());
        let count = finite().count();
        let nan = values.iter().filter(|value| value.is_nan()).count();
        if count == 0 {
            return Statistics { nan, infinite: values.len() - nan, ..Statistics::default() };
        }
        let mean = finite().sum::<f64>() / count as f64;
        let variance = finite().map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64;
        Statistics {
            nan,
            infinite: values.len() - nan - count,
            max: finite().fold(f64::NEG_INFINITY, f64::max),
            mean,
            deviation: variance.sqrt(),
        }
    }

    /// Whether all values are finite.
    pub(crate) fn is_finite(&self) -> bool {
        self.nan + self.infinite == 0
    }
}

/// Returns the Euclidean norm of a vector.
pub(super) fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Returns the norm of the difference of two vectors, divided by the norm of the first. Equal vectors, including zero
/// vectors, have distance 0.
pub fn relative_distance(a: &[f32], b: &[f32]) -> f64 {
    let distance = norm(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    if distance == 0.0 { 0.0 } else { distance / norm(a.iter().copied().map(f64::from)) }
}

/// Returns the cosine similarity of two vectors.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot / (norm(a.iter().copied().map(f64::from)) * norm(b.iter().copied().map(f64::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_nan_and_infinite_values() {
        let found = Statistics::of(&[1.0, f32::NAN, 3.0, f32::INFINITY]);
        assert_eq!((found.nan, found.infinite, found.mean, found.deviation), (1, 1, 2.0, 1.0));
        assert!(!found.is_finite());
        assert!(Statistics::of(&[0.0]).is_finite());
    }

    #[test]
    fn distances_are_relative_to_the_norm_of_the_first() {
        assert_eq!(relative_distance(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_distance(&[3.0, 4.0], &[0.0, 0.0]), 1.0);
        assert_eq!(relative_distance(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
    }
}
