//! DPM-Solver (Lu et al., 2022) with singlestep methods of first to third order: DPM fast and DPM adaptive. Both replace
//! part of each step by new noise.

use candle_core::Tensor;

use super::context::{SamplerContext, denoise, scaled_noise, slope, sum};
use crate::errors::from_candle;
use crate::single::{exp, exp_m1, linspace, ln};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};

/// The tolerances of DPM adaptive.
const ABSOLUTE: f64 = 0.0078;
const RELATIVE: f64 = 0.05;

/// The width of the first step of DPM adaptive, in log-sigma.
const FIRST_WIDTH: f64 = 0.05;

/// DPM adaptive accepts a step if the next one need not be narrower than this share of it.
const ACCEPTED: f64 = 0.81;

/// The order of the step control with new noise, and without.
const CONTROL_ORDERS: (f64, f64) = (1.5, 3.0);

/// Maximum number of steps of DPM adaptive. Trained models need less than 100.
const MOST_STEPS: usize = 10_000;

/// The predictions of noise in a step, which methods of different order share.
struct Predictions {
    /// At the begin of the step.
    begin: Tensor,
    /// At a third of the step.
    third: Option<Tensor>,
}

/// A fixed number of model calls, in steps of third order as far as possible.
pub(super) fn fast(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let calls = context.steps;
    let mut x = scaled_noise(noise, &context.sigmas(), context)?;
    let s_noise = context.tuning.noise;
    let (begin, end) = times(context);
    let orders = orders(calls);
    let times = linspace(begin, end, orders.len() + 1);
    for (index, (order, (&time, &next))) in orders.iter().zip(times.iter().zip(times.iter().skip(1))).enumerate() {
        let (down, up) = ancestral(time, next, end, context.eta(1.0));
        let mut predictions = Predictions::new(&x, time, context)?;
        x = match order {
            1 => predictions.first_order(&x, time, down)?,
            2 => predictions.second_order(&x, time, down, 0.5, context)?,
            _ => predictions.third_order(&x, time, down, context)?,
        };
        let drawn = (context.draw)()?;
        x = sum([(1.0, &x), (f64::from(up) * s_noise, &drawn)])?;
        (context.watch)(index, &x)?;
    }
    Ok(x)
}

/// The orders of the steps of DPM fast, whose sum is the number of model calls.
fn orders(calls: usize) -> Vec<usize> {
    let thirds = calls / 3;
    match calls % 3 {
        0 => std::iter::repeat_n(3, thirds.saturating_sub(1)).chain([2, 1]).collect(),
        rest => std::iter::repeat_n(3, thirds).chain([rest]).collect(),
    }
}

/// Steps of third order, each as wide as its difference from second order allows. The number of steps does not matter.
pub(super) fn adaptive(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let mut x = scaled_noise(noise, &context.sigmas(), context)?;
    let (mut time, end) = times(context);
    let order = if context.eta(1.0) == 0.0 { CONTROL_ORDERS.1 } else { CONTROL_ORDERS.0 };
    let (mut width, mut before) = (FIRST_WIDTH, x.clone());
    for index in 0..MOST_STEPS {
        if f64::from(time) >= f64::from(end) - 1e-5 {
            return Ok(x);
        }
        let next = end.min(time + width as f32);
        let (down, up) = ancestral(time, next, end, context.eta(1.0));
        let mut predictions = Predictions::new(&x, time, context)?;
        let low = predictions.second_order(&x, time, down, 1.0 / 3.0, context)?;
        let high = predictions.third_order(&x, time, down, context)?;
        let error = distance(&low, &high, &before)?;
        if !error.is_finite() {
            // No width would help. The checks of the render report the values.
            (context.watch)(index, &high)?;
            return Ok(high);
        }
        let factor = 1.0 + libm::atan(libm::pow(error + 1e-8, -1.0 / order) - 1.0);
        if factor >= ACCEPTED {
            let drawn = (context.draw)()?;
            (before, x) = (low, sum([(1.0, &high), (f64::from(up), &drawn)])?);
            time = next;
        }
        width *= factor;
        (context.watch)(index, &x)?;
    }
    Err(Error::limit(format!("DPM adaptive did not reach the last noise level in {MOST_STEPS} steps")))
}

/// Returns the distance between two latents in units of the tolerance: the root mean square of all values.
fn distance(low: &Tensor, high: &Tensor, before: &Tensor) -> Result<f64> {
    let values = |tensor: &Tensor| tensor.flatten_all().and_then(|it| it.to_vec1::<f32>()).map_err(from_candle);
    let (low, high, before) = (values(low)?, values(high)?, values(before)?);
    let square = |((low, high), before): ((&f32, &f32), &f32)| {
        let tolerance = (ABSOLUTE as f32).max(RELATIVE as f32 * low.abs().max(before.abs()));
        f64::from((low - high) / tolerance).powi(2)
    };
    let total: f64 = low.iter().zip(&high).zip(&before).map(square).sum();
    Ok((total / low.len() as f64).sqrt())
}

/// The times of the highest and the lowest noise level of the model. A time is the negative logarithm of a level.
fn times(context: &SamplerContext<'_>) -> (f32, f32) {
    let (least, most) = context.noise_schedule.range();
    (-ln(most), -ln(least))
}

/// Splits a step into the time to move to, which is at most `end`, and the level of the noise to add. `eta` is the share of
/// new noise.
fn ancestral(time: f32, next: f32, end: f32, eta: f64) -> (f32, f32) {
    if eta == 0.0 {
        return (next, 0.0);
    }
    let (sigma, lower) = (exp(-time), exp(-next));
    let up = lower.min(eta as f32 * (lower * lower * (sigma * sigma - lower * lower) / (sigma * sigma)).sqrt());
    let down = end.min(-ln((lower * lower - up * up).sqrt()));
    let reached = exp(-down);
    (down, (lower * lower - reached * reached).sqrt())
}

impl Predictions {
    fn new(x: &Tensor, time: f32, context: &mut SamplerContext<'_>) -> Result<Self> {
        Ok(Predictions { begin: predicted_noise(x, time, context)?, third: None })
    }

    fn first_order(&self, x: &Tensor, time: f32, next: f32) -> Result<Tensor> {
        self.moved(x, next, next - time, None)
    }

    /// `share` is the place of the second prediction in the step.
    fn second_order(
        &mut self,
        x: &Tensor,
        time: f32,
        next: f32,
        share: f64,
        context: &mut SamplerContext<'_>,
    ) -> Result<Tensor> {
        let inner = self.inner(x, time, next, share, context)?;
        let width = next - time;
        let slope = sigma(next) / (2.0 * share) as f32 * exp_m1(width);
        let moved = self.moved(x, next, width, Some((slope, &inner)));
        self.third = Some(inner);
        moved
    }

    fn third_order(&mut self, x: &Tensor, time: f32, next: f32, context: &mut SamplerContext<'_>) -> Result<Tensor> {
        const SHARES: (f64, f64) = (1.0 / 3.0, 2.0 / 3.0);
        if self.third.is_none() {
            self.third = Some(self.inner(x, time, next, SHARES.0, context)?);
        }
        let third = self.third.as_ref().or_internal("a step of third order without its first prediction")?;
        let width = next - time;
        let part = SHARES.1 as f32 * width;
        let place = time + part;
        let slope = sigma(place) * (SHARES.1 / SHARES.0) as f32 * (exp_m1(part) / part - 1.0);
        let inner = self.moved(x, place, part, Some((slope, third)))?;
        let inner = predicted_noise(&inner, place, context)?;
        let slope = sigma(next) / SHARES.1 as f32 * (exp_m1(width) / width - 1.0);
        self.moved(x, next, width, Some((slope, &inner)))
    }

    /// Predicts the noise after this share of the step.
    fn inner(&self, x: &Tensor, time: f32, next: f32, share: f64, context: &mut SamplerContext<'_>) -> Result<Tensor> {
        let part = share as f32 * (next - time);
        let moved = self.moved(x, time + part, part, None)?;
        predicted_noise(&moved, time + part, context)
    }

    /// Moves to a time, `width` after the begin, with a factor of the difference between a later prediction and the first.
    ///
    /// The first steps of DPM adaptive differ from each other in little more than rounding errors, which decide on the width
    /// of the next step. So this rounds after the same operations as k-diffusion.
    fn moved(&self, x: &Tensor, to: f32, width: f32, slope: Option<(f32, &Tensor)>) -> Result<Tensor> {
        let factor = f64::from(sigma(to) * exp_m1(width));
        let Some((slope, later)) = slope else { return sum([(1.0, x), (-factor, &self.begin)]) };
        let difference = (later - &self.begin).map_err(from_candle)?;
        sum([(1.0, x), (-factor, &self.begin), (-f64::from(slope), &difference)])
    }
}

fn sigma(time: f32) -> f32 {
    exp(-time)
}

/// Predicts the noise in a latent at a time.
fn predicted_noise(x: &Tensor, time: f32, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigma = f64::from(sigma(time));
    let denoised = denoise(x, sigma, context)?;
    slope(x, &denoised, sigma)
}
