//! How far the values of two tensors are apart: mean, norm and angle.

use serde::Serialize;

/// How far two values may be apart to be close: by `absolute`, plus `relative` times the second value. As in NumPy's
/// `allclose`, whose tolerances are the default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// The tolerance as a part of the second value.
    pub relative: f64,
    /// The tolerance of any value.
    pub absolute: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { relative: 1e-5, absolute: 1e-8 }
    }
}

/// How far the values of tensors are apart, computed in f64 from all pairs of finite values. A number that is too large for
/// an f64 is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Measures {
    /// The number of pairs of finite values.
    pub pairs: u64,
    /// The number of pairs with a NaN or an infinite value, which the other numbers leave out.
    pub non_finite_pairs: u64,
    /// The number of pairs that are not close. A NaN is close to a NaN, and an infinite value to the same one.
    pub not_close: u64,
    /// The mean of the absolute differences; `None` without a pair.
    pub mean_abs: Option<f64>,
    /// The L2 norm of the differences.
    pub l2: Option<f64>,
    /// The L2 norm of the differences divided by that of the first tensor; `None` if all its values are zero.
    pub relative_l2: Option<f64>,
    /// The cosine of the angle between the two tensors; `None` if all values of one are zero.
    pub cosine: Option<f64>,
}

/// The sums that measures are computed from.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    pairs: u64,
    non_finite_pairs: u64,
    not_close: u64,
    /// Of the absolute differences, and of their squares.
    distances: f64,
    squares: f64,
    /// Of the squares of both sides, and of their products.
    a: f64,
    b: f64,
    products: f64,
}

impl Sums {
    /// Adds pairs of values: a part of two tensors.
    pub(crate) fn add(&mut self, a: &[f64], b: &[f64], tolerance: Tolerance) {
        // A part has its own sums, so that rounding does not grow with the number of elements.
        let mut part = Sums::default();
        for (&x, &y) in a.iter().zip(b) {
            let distance = (x - y).abs();
            if !x.is_finite() || !y.is_finite() {
                part.non_finite_pairs += 1;
                part.not_close += u64::from(x != y && !(x.is_nan() && y.is_nan()));
                continue;
            }
            part.pairs += 1;
            part.not_close += u64::from(distance > tolerance.absolute + tolerance.relative * y.abs());
            part.distances += distance;
            part.squares += distance * distance;
            part.a += x * x;
            part.b += y * y;
            part.products += x * y;
        }
        self.join(&part);
    }

    /// Adds values that both tensors have.
    pub(crate) fn add_equal(&mut self, values: &[f64]) {
        let mut part = Sums::default();
        for value in values.iter().filter(|value| value.is_finite()) {
            part.pairs += 1;
            part.a += value * value;
        }
        part.non_finite_pairs = values.len() as u64 - part.pairs;
        (part.b, part.products) = (part.a, part.a);
        self.join(&part);
    }

    /// Adds the sums of other tensors.
    pub fn join(&mut self, other: &Sums) {
        self.pairs += other.pairs;
        self.non_finite_pairs += other.non_finite_pairs;
        self.not_close += other.not_close;
        self.distances += other.distances;
        self.squares += other.squares;
        self.a += other.a;
        self.b += other.b;
        self.products += other.products;
    }

    /// Returns the measures.
    pub fn finish(&self) -> Measures {
        let finite = |value: f64| value.is_finite().then_some(value);
        let l2 = self.squares.sqrt();
        // In this order, the cosine of equal tensors is exactly 1. Otherwise rounding can move it past 1.
        let cosine = finite(self.products / self.a * (self.a / self.b).sqrt()).map(|cosine| cosine.clamp(-1.0, 1.0));
        Measures {
            pairs: self.pairs,
            non_finite_pairs: self.non_finite_pairs,
            not_close: self.not_close,
            mean_abs: finite(self.distances / self.pairs as f64),
            l2: finite(l2),
            relative_l2: finite(l2 / self.a.sqrt()),
            cosine,
        }
    }
}

impl Measures {
    /// `mean 1.250e-3, L2 2.000e-1 (relative 1.100e-2), cosine 0.999940, all close`.
    pub fn to_text(&self) -> String {
        let number = |name: &str, value: Option<f64>| Some(format!("{name} {:.3e}", value?));
        let relative = number("relative", self.relative_l2).map_or_else(String::new, |text| format!(" ({text})"));
        let close = (self.not_close == 0).then(|| "all close".to_owned());
        let left_out = match self.non_finite_pairs {
            0 => None,
            1 => Some("1 pair with NaN or infinite values left out".to_owned()),
            count => Some(format!("{count} pairs with NaN or infinite values left out")),
        };
        let parts = [
            number("mean", self.mean_abs),
            number("L2", self.l2).map(|text| text + &relative),
            self.cosine.map(|cosine| format!("cosine {cosine:.6}")),
            close,
            left_out,
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &[f64], b: &[f64]) -> Measures {
        let mut sums = Sums::default();
        sums.add(a, b, Tolerance::default());
        sums.finish()
    }

    #[test]
    fn measures_differences_and_the_angle() {
        let found = of(&[3.0, 0.0, 4.0], &[3.0, 5.0, 0.0]);
        assert_eq!((found.pairs, found.not_close, found.mean_abs), (3, 2, Some(3.0)));
        assert_eq!((found.l2, found.relative_l2), (Some(41.0_f64.sqrt()), Some(41.0_f64.sqrt() / 5.0)));
        assert!((found.cosine.unwrap() - 9.0 / (5.0 * 34.0_f64.sqrt())).abs() < 1e-15);
        assert_eq!(of(&[0.1, 0.7, 0.3], &[0.1, 0.7, 0.3]).cosine, Some(1.0));
        let mut in_parts = Sums::default();
        in_parts.add_equal(&[3.0]);
        in_parts.add(&[0.0, 4.0], &[5.0, 0.0], Tolerance::default());
        assert_eq!(in_parts.finish(), found);
    }

    #[test]
    fn leaves_out_what_is_not_finite() {
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        let found = of(&[nan, nan, infinite, infinite, 1.0], &[nan, 1.0, infinite, -infinite, 1.0]);
        assert_eq!((found.pairs, found.non_finite_pairs, found.not_close), (1, 4, 2));
        assert_eq!((found.mean_abs, found.cosine), (Some(0.0), Some(1.0)));
        let none = of(&[nan], &[1.0]);
        assert_eq!((none.mean_abs, none.relative_l2, none.cosine), (None, None, None));
        assert_eq!(of(&[0.0], &[1.0]).cosine, None);
        assert_eq!(of(&[1e200], &[-1e200]).l2, None);
        assert_eq!(of(&[], &[]).mean_abs, None);
    }

    #[test]
    fn close_depends_on_the_tolerance() {
        assert_eq!(of(&[1.0 + 0.9e-5, 0.0], &[1.0, 0.9e-8]).not_close, 0);
        assert_eq!(of(&[1.0 + 1.1e-5, 0.0], &[1.0, 1.1e-8]).not_close, 2);
        let mut sums = Sums::default();
        sums.add(&[1.0], &[1.5], Tolerance { relative: 0.0, absolute: 0.5 });
        assert_eq!(sums.finish().not_close, 0);
    }
}
