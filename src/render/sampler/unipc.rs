//! UniPC (Zhao et al., 2023): a predictor and a corrector of up to third order in half the logarithm of the
//! signal-to-noise ratio, in the variant `bh1`, at times spread evenly.

use candle_core::Tensor;

use super::{SamplerContext, sum, sum_all};
use crate::error::Result;
use crate::render::schedule::NoiseSchedule;
use crate::render::weights::from_candle;

const ORDER: usize = 3;

pub(super) fn unipc(noise: &Tensor, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    let steps = work.steps;
    let order = ORDER.min(steps);
    let least = 1.0 / work.noise_schedule.times() as f64;
    let point = |step: usize| Point::new(work.noise_schedule, 1.0 - (1.0 - least) * step as f64 / steps as f64);
    let points: Vec<Point> = (0..=steps).map(point).collect();
    let Some((first, others)) = points.split_first() else { return Ok(noise.clone()) };
    let mut x = noise.clone();
    // What was seen at the last points, the latest first.
    let mut past = vec![(*first, see(&x, first, work)?)];
    for (step, point) in (1..).zip(others) {
        let is_last = step == steps;
        let order = order.min(step).min(steps + 1 - step);
        let update = Update::new(point, &past, order);
        let predicted = update.predict(&x, &past)?;
        if is_last {
            x = predicted;
        } else {
            let seen = see(&predicted, point, work)?;
            x = update.correct(&x, &past, &seen)?;
            past.insert(0, (*point, seen));
            past.truncate(ORDER);
        }
        (work.watch)(step - 1, &x)?;
    }
    Ok(x)
}

/// A time between 0 and 1, and what the schedule has there.
#[derive(Debug, Clone, Copy)]
struct Point {
    time: f64,
    /// The share of the image, and of the noise.
    alpha: f64,
    sigma: f64,
    /// The logarithm of their ratio.
    lambda: f64,
}

impl Point {
    fn new(noise_schedule: &NoiseSchedule, time: f64) -> Self {
        // The published code has the logarithms of the image's share at 1/1000, 2/1000, ... and straight lines between.
        let place = (time * noise_schedule.times() as f64 - 1.0).max(0.0);
        let log = |time: f64| noise_schedule.alpha(time as usize).ln() / 2.0;
        let log_alpha = (1.0 - place.fract()) * log(place.floor()) + place.fract() * log(place.ceil());
        let sigma = (1.0 - (2.0 * log_alpha).exp()).sqrt();
        Point { time, alpha: log_alpha.exp(), sigma, lambda: log_alpha - sigma.ln() }
    }
}

/// The image that the model sees at a point.
fn see(x: &Tensor, point: &Point, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    let times = work.noise_schedule.times() as f64;
    let noise = (work.predict)(x, (point.time - 1.0 / times) * times)?;
    let seen = sum([(1.0, x), (-point.sigma, &noise)]).and_then(|it| it.affine(1.0 / point.alpha, 0.0));
    seen.map_err(from_candle)
}

/// The step to a point, in numbers.
struct Update {
    /// The factors of the latent and of what was seen last.
    kept: f64,
    gained: f64,
    /// The factor of all differences.
    scale: f64,
    /// Distances of the points before the last one, as parts of the step.
    distances: Vec<f64>,
    /// The right side of the order conditions.
    conditions: Vec<f64>,
}

impl Update {
    fn new(point: &Point, past: &[(Point, Tensor)], order: usize) -> Self {
        let last = past.first().map_or(*point, |(point, _)| *point);
        let width = point.lambda - last.lambda;
        let h = -width;
        let distance = |(before, _): &(Point, Tensor)| (before.lambda - last.lambda) / width;
        let phi_1 = h.exp_m1();
        let mut phi = phi_1 / h - 1.0;
        let mut factorial = 1.0;
        let mut conditions = Vec::new();
        for index in 1..=order {
            conditions.push(phi * factorial / h);
            factorial *= (index + 1) as f64;
            phi = phi / h - 1.0 / factorial;
        }
        Update {
            kept: point.sigma / last.sigma,
            gained: -point.alpha * phi_1,
            scale: -point.alpha * h,
            distances: past.iter().skip(1).take(order - 1).map(distance).collect(),
            conditions,
        }
    }

    /// The step by what was seen before.
    fn predict(&self, x: &Tensor, past: &[(Point, Tensor)]) -> Result<Tensor> {
        let known = self.distances.len();
        let weights = match known {
            0 => Vec::new(),
            // For the second order the authors have a simpler one.
            1 => vec![0.5],
            _ => solve(&self.distances, &self.conditions),
        };
        self.step(x, past, &weights, None)
    }

    /// The step by what was seen before and at its end.
    fn correct(&self, x: &Tensor, past: &[(Point, Tensor)], seen: &Tensor) -> Result<Tensor> {
        let distances: Vec<f64> = self.distances.iter().copied().chain([1.0]).collect();
        let weights = if distances.len() == 1 { vec![0.5] } else { solve(&distances, &self.conditions) };
        self.step(x, past, &weights, Some(seen))
    }

    fn step(&self, x: &Tensor, past: &[(Point, Tensor)], weights: &[f64], seen: Option<&Tensor>) -> Result<Tensor> {
        let Some((_, last)) = past.first() else { return Ok(x.clone()) };
        let before = past.iter().skip(1).map(|(_, seen)| seen).zip(&self.distances);
        let all: Vec<(&Tensor, f64)> =
            before.map(|(seen, &distance)| (seen, distance)).chain(seen.map(|seen| (seen, 1.0))).collect();
        // Each difference to what was seen last, by its distance.
        let factors: Vec<f64> =
            all.iter().zip(weights).map(|((_, distance), weight)| self.scale * weight / distance).collect();
        let of_last = self.gained - factors.iter().sum::<f64>();
        let terms = [(self.kept, x), (of_last, last)].into_iter();
        sum_all(terms.chain(factors.iter().copied().zip(all.iter().map(|(seen, _)| *seen)))).map_err(from_candle)
    }
}

/// The weights whose sums with the powers 0, 1, ... of the distances meet the conditions: two or three of each.
fn solve(distances: &[f64], conditions: &[f64]) -> Vec<f64> {
    // Lagrange: the weight of a point is the functional applied to the polynomial that is 1 there and 0 at the others.
    let weight = |(index, own): (usize, &f64)| {
        let mut polynomial = vec![1.0];
        for (_, other) in distances.iter().enumerate().filter(|(other, _)| *other != index) {
            let mut product = vec![0.0; polynomial.len() + 1];
            for (power, factor) in polynomial.iter().enumerate() {
                if let Some(slot) = product.get_mut(power) {
                    *slot -= factor * other / (own - other);
                }
                if let Some(slot) = product.get_mut(power + 1) {
                    *slot += factor / (own - other);
                }
            }
            polynomial = product;
        }
        polynomial.iter().zip(conditions).map(|(factor, condition)| factor * condition).sum()
    };
    distances.iter().enumerate().map(weight).collect()
}
