//! UniPC (Zhao et al., 2023), variant `bh1`, at evenly spaced times: a predictor-corrector method of up to third order in
//! half the log signal-to-noise ratio.

use candle_core::Tensor;

use super::context::{SamplerContext, sum, sum_all};
use crate::sampling::schedule::NoiseSchedule;
use trinart_ckpt_formats::error::{OrInternal, Result};

const ORDER: usize = 3;

pub(super) fn unipc(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    // WebUI passes the number of DDIM's times on as the number of steps: 30 steps are 31.
    let steps = context.noise_schedule.ddim_times(context.steps).len();
    let least = 1.0 / context.noise_schedule.times() as f64;
    let point = |step: usize| Point::new(context.noise_schedule, 1.0 - (1.0 - least) * step as f64 / steps as f64);
    let points: Vec<Point> = (0..=steps).map(point).collect();
    let (first, others) = points.split_first().or_internal("a schedule without times")?;
    let mut x = noise.clone();
    // The predictions at the last points, newest first.
    let mut past = vec![(*first, denoise(&x, first, context)?)];
    for (step, point) in (1..).zip(others) {
        let is_last = step == steps;
        let order = ORDER.min(step).min(steps + 1 - step);
        let update = Update::new(point, &past, order);
        let predicted = update.predict(&x, &past)?;
        if is_last {
            x = predicted;
        } else {
            let seen = denoise(&predicted, point, context)?;
            x = update.correct(&x, &past, &seen)?;
            past.insert(0, (*point, seen));
            past.truncate(ORDER);
        }
        (context.watch)(step - 1, &x)?;
    }
    Ok(x)
}

/// A time between 0 and 1, with the schedule's values.
#[derive(Debug, Clone, Copy)]
struct Point {
    time: f64,
    /// The factors of the image and of the noise.
    alpha: f64,
    sigma: f64,
    /// `ln(alpha / sigma)`.
    lambda: f64,
}

impl Point {
    fn new(noise_schedule: &NoiseSchedule, time: f64) -> Self {
        // The published code interpolates ln(alpha) linearly between the times 1/1000, 2/1000 and so on.
        let position = (time * noise_schedule.times() as f64 - 1.0).max(0.0);
        let log = |time: f64| libm::log(noise_schedule.alpha(time as usize)) / 2.0;
        let log_alpha = (1.0 - position.fract()) * log(position.floor()) + position.fract() * log(position.ceil());
        let sigma = (1.0 - libm::exp(2.0 * log_alpha)).sqrt();
        Point { time, alpha: libm::exp(log_alpha), sigma, lambda: log_alpha - libm::log(sigma) }
    }
}

/// Predicts the image at a point.
fn denoise(x: &Tensor, point: &Point, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let times = context.noise_schedule.times() as f64;
    let noise = context.guided_noise(x, (point.time - 1.0 / times) * times)?;
    sum([(1.0 / point.alpha, x), (-point.sigma / point.alpha, &noise)])
}

/// The coefficients of a step to a point.
struct Update {
    /// The factors of the latent and of the last prediction.
    kept: f64,
    gained: f64,
    /// The factor of all differences between predictions.
    scale: f64,
    /// The distances from the last point to those before it, in widths of the step.
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
        let phi_1 = libm::expm1(h);
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

    /// Steps with the past predictions.
    fn predict(&self, x: &Tensor, past: &[(Point, Tensor)]) -> Result<Tensor> {
        let known = self.distances.len();
        let weights = match known {
            0 => Vec::new(),
            // The authors use a simpler weight for the second order.
            1 => vec![0.5],
            _ => solve(&self.distances, &self.conditions),
        };
        self.step(x, past, &weights, None)
    }

    /// Steps with the past predictions and the one at the end of the step.
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
        // The differences to the last prediction, over their distances.
        let factors: Vec<f64> =
            all.iter().zip(weights).map(|((_, distance), weight)| self.scale * weight / distance).collect();
        let of_last = self.gained - factors.iter().sum::<f64>();
        let terms = [(self.kept, x), (of_last, last)].into_iter();
        sum_all(terms.chain(factors.iter().copied().zip(all.iter().map(|(seen, _)| *seen))))
    }
}

/// Solves the order conditions: returns the weights whose sums with the powers 0, 1 and so on of the distances are the
/// conditions. There are two or three of each.
fn solve(distances: &[f64], conditions: &[f64]) -> Vec<f64> {
    // The weight of a point is the functional applied to its Lagrange polynomial.
    let weight = |(index, own): (usize, &f64)| {
        let mut polynomial = vec![1.0];
        for (_, other) in distances.iter().enumerate().filter(|(other, _)| *other != index) {
            let mut product = vec![0.0; polynomial.len() + 1];
            for (slot, factor) in product.iter_mut().zip(&polynomial) {
                *slot -= factor * other / (own - other);
            }
            for (slot, factor) in product.iter_mut().skip(1).zip(&polynomial) {
                *slot += factor / (own - other);
            }
            polynomial = product;
        }
        polynomial.iter().zip(conditions).map(|(factor, condition)| factor * condition).sum()
    };
    distances.iter().enumerate().map(weight).collect()
}
