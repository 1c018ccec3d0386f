//! The Brownian path of the SDE samplers, with the values of torchsde's `BrownianTree`.

use super::rng::{Generator, NoiseSource, first_word};

/// torchsde resolves a path to this many decimals.
const DECIMALS: usize = 6;

/// A Brownian path between two times. The values depend only on the seed and the two ends: the tree halves the time span
/// until a time is an end of an interval, and each interval has its own seed.
///
/// torchsde draws the value of an interval with a generator of torch; WebUI draws it with the generator of its setting
/// "RNG".
#[derive(Debug, Clone)]
pub struct BrownianTree {
    source: NoiseSource,
    seed: u64,
    start: f64,
    end: f64,
    /// The increment over the whole span.
    whole: Vec<f32>,
}

/// An interval of the tree.
#[derive(Clone, Copy)]
struct Interval {
    start: f64,
    end: f64,
    /// Its index among the intervals of its depth.
    index: u64,
    depth: u64,
}

impl BrownianTree {
    /// Returns a path of `count` values from `start` to `end`.
    pub fn new(source: NoiseSource, seed: u64, start: f32, end: f32, count: usize) -> Self {
        let (start, end) = (f64::from(start), f64::from(end));
        let scale = (end - start).sqrt() as f32;
        let drawn = Generator::new(source, u64::from(first_word(seed, &[]))).normal(count);
        let whole = drawn.into_iter().map(|value| value * scale).collect();
        BrownianTree { source, seed, start: rounded(start), end: rounded(end), whole }
    }

    /// Returns the increment of the path between two times, scaled to unit variance. Times beyond the ends of the path are
    /// clamped to them.
    ///
    /// The sign is that of k-diffusion, which steps down: negative if `from` is above `to`.
    pub fn noise(&self, from: f32, to: f32) -> Vec<f32> {
        let clamp = |time: f32| rounded(f64::from(time).clamp(self.start, self.end));
        let (low, high) = (clamp(from.min(to)), clamp(from.max(to)));
        let mut total: Option<Vec<f32>> = None;
        if low < high {
            let all = Interval { start: self.start, end: self.end, index: 0, depth: 0 };
            self.add(all, &self.whole, low, high, &mut total);
        }
        let mut noise = total.unwrap_or_else(|| vec![0.0; self.whole.len()]);
        let sign = if from > to { -1.0 } else { 1.0 };
        let scale = (to - from).abs().sqrt();
        noise.iter_mut().for_each(|value| *value = sign * *value / scale);
        noise
    }

    /// Adds the increment from `low` to `high` within an interval. `increment` is that of the whole interval.
    fn add(&self, interval: Interval, increment: &[f32], low: f64, high: f64, total: &mut Option<Vec<f32>>) {
        let Interval { start, end, index, depth } = interval;
        if low <= start && high >= end {
            match total {
                Some(total) => total.iter_mut().zip(increment).for_each(|(total, value)| *total += value),
                None => *total = Some(increment.to_vec()),
            }
            return;
        }
        let middle = rounded(0.5 * (end + start));
        // Below the resolution, an interval cannot be halved.
        if middle <= start || middle >= end {
            return;
        }
        let seed = first_word(self.seed, &[index, depth]);
        let noise = Generator::new(self.source, u64::from(seed)).normal(increment.len());
        let (before, after, per_width) = (middle - start, end - middle, 1.0 / (end - start));
        let deviation = (before * after * per_width).sqrt() as f32;
        // torch rounds after each operation.
        let (before, per_width) = (before as f32, per_width as f32);
        let left: Vec<f32> =
            increment.iter().zip(noise).map(|(whole, noise)| before * whole * per_width + deviation * noise).collect();
        if low < middle {
            let half = Interval { start, end: middle, index: 2 * index, depth: depth + 1 };
            self.add(half, &left, low, high, total);
        }
        if high > middle {
            let right: Vec<f32> = increment.iter().zip(left).map(|(whole, left)| whole - left).collect();
            let half = Interval { start: middle, end, index: 2 * index + 1, depth: depth + 1 };
            self.add(half, &right, low, high, total);
        }
    }
}

/// Rounds like Python's `round` with [`DECIMALS`] digits: to the nearest decimal, from the exact value.
fn rounded(time: f64) -> f64 {
    // Formatting rounds the exact value, unlike a multiplication by a power of ten. A formatted number always parses.
    format!("{time:.DECIMALS$}").parse().unwrap_or(time)
}
