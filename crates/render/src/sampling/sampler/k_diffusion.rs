//! The samplers of k-diffusion (Karras et al., 2022, and later). They use latents with a noise level (sigma), and the
//! image that the model predicts from a latent (`denoised`).

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{SamplerContext, sum, sum_all};
use crate::errors::from_candle;
use trinart_ckpt_formats::error::{OrInternal, Result};

/// Number of past slopes that the linear multistep method uses.
const LMS_ORDER: usize = 4;

/// A step from one noise level to the next.
#[derive(Clone, Copy)]
struct Step {
    sigma: f64,
    next: f64,
}

/// Euler's method.
pub(super) fn euler(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = sigmas(context);
    walk(noise, &sigmas, context, |x, denoised, step, _| euler_step(x, denoised, step.sigma, step.next))
}

/// Euler's method with new noise at each step.
pub(super) fn euler_ancestral(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = sigmas(context);
    walk(noise, &sigmas, context, |x, denoised, step, context| {
        let (down, up) = ancestral(step.sigma, step.next);
        let moved = euler_step(x, denoised, step.sigma, down)?;
        add_noise(moved, up, step.next, context)
    })
}

/// Heun's method. The last step, to sigma 0, is an Euler step.
pub(super) fn heun(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = sigmas(context);
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, context| {
        let tentative = euler_step(x, denoised, sigma, next)?;
        if next <= 0.0 {
            return Ok(tentative);
        }
        let denoised_next = denoise(&tentative, next, context)?;
        let slopes = (slope(x, denoised, sigma)?, slope(&tentative, &denoised_next, next)?);
        let half = (next - sigma) / 2.0;
        sum([(1.0, x), (half, &slopes.0), (half, &slopes.1)]).map_err(from_candle)
    })
}

/// Second-order DPM-Solver with new noise at each step.
pub(super) fn dpm_2_ancestral(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    // WebUI sets `discard_next_to_last_sigma` for this sampler: it computes one more level and drops the second to
    // last.
    let mut sigmas = context.noise_schedule.sigmas(context.schedule, context.steps + 1);
    sigmas.remove(context.steps);
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, context| {
        let (down, up) = ancestral(sigma, next);
        if down <= 0.0 {
            return euler_step(x, denoised, sigma, down);
        }
        let middle = ((sigma.ln() + down.ln()) / 2.0).exp();
        let tentative = euler_step(x, denoised, sigma, middle)?;
        let denoised_middle = denoise(&tentative, middle, context)?;
        let slope = slope(&tentative, &denoised_middle, middle)?;
        let moved = sum([(1.0, x), (down - sigma, &slope)]).map_err(from_candle)?;
        add_noise(moved, up, next, context)
    })
}

/// A linear multistep method of order [`LMS_ORDER`].
pub(super) fn lms(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = sigmas(context);
    // Newest first.
    let mut slopes: VecDeque<(f64, Tensor)> = VecDeque::new();
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, _| {
        slopes.push_front((sigma, slope(x, denoised, sigma)?));
        slopes.truncate(LMS_ORDER);
        let levels: Vec<f64> = slopes.iter().map(|(sigma, _)| *sigma).collect();
        let factors = levels.iter().enumerate().map(|(term, &own)| lagrange_integral(&levels, term, own, sigma, next));
        let terms = factors.zip(slopes.iter().map(|(_, slope)| slope));
        sum_all([(1.0, x)].into_iter().chain(terms)).map_err(from_candle)
    })
}

/// DPM-Solver++, second-order multistep.
pub(super) fn dpmpp_2m(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = sigmas(context);
    // The prediction of the last step, and its width in log-sigma.
    let mut past: Option<(Tensor, f64)> = None;
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, _| {
        if next == 0.0 {
            return Ok(denoised.clone());
        }
        let width = sigma.ln() - next.ln();
        let (kept, gained) = (next / sigma, -(-width).exp_m1());
        let moved = match &past {
            Some((before, width_before)) => {
                let half = width / width_before / 2.0;
                sum([(kept, x), (gained * (1.0 + half), denoised), (-gained * half, before)])
            }
            None => sum([(kept, x), (gained, denoised)]),
        };
        past = Some((denoised.clone(), width));
        moved.map_err(from_candle)
    })
}

fn sigmas(context: &SamplerContext<'_>) -> Vec<f64> {
    context.noise_schedule.sigmas(context.schedule, context.steps)
}

/// Iterates over the noise levels in descending order. `advance` takes the latent, the prediction for it and the step,
/// and returns the next latent.
fn walk(
    noise: &Tensor,
    sigmas: &[f64],
    context: &mut SamplerContext<'_>,
    mut advance: impl FnMut(&Tensor, &Tensor, Step, &mut SamplerContext<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let first = *sigmas.first().or_internal("a schedule without noise levels")?;
    let mut x = noise.affine(first, 0.0).map_err(from_candle)?;
    for (index, (&sigma, &next)) in sigmas.iter().zip(sigmas.iter().skip(1)).enumerate() {
        let denoised = denoise(&x, sigma, context)?;
        x = advance(&x, &denoised, Step { sigma, next }, context)?;
        (context.watch)(index, &x)?;
    }
    Ok(x)
}

/// Predicts the image from a latent with noise of level `sigma`.
fn denoise(x: &Tensor, sigma: f64, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let scaled = x.affine(1.0 / (sigma * sigma + 1.0).sqrt(), 0.0).map_err(from_candle)?;
    let noise = (context.predict)(&scaled, context.noise_schedule.time(sigma))?;
    sum([(1.0, x), (-sigma, &noise)]).map_err(from_candle)
}

/// Returns the derivative of a latent with respect to its noise level.
fn slope(x: &Tensor, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
    (x - denoised).and_then(|difference| difference.affine(1.0 / sigma, 0.0)).map_err(from_candle)
}

/// Moves linearly from one noise level to another.
fn euler_step(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let slope = slope(x, denoised, sigma)?;
    sum([(1.0, x), (next - sigma, &slope)]).map_err(from_candle)
}

/// Splits a step into the level to move down to, and the level of new noise that brings the latent back to `next`.
fn ancestral(sigma: f64, next: f64) -> (f64, f64) {
    let up = next.min((next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt());
    ((next * next - up * up).sqrt(), up)
}

/// Adds noise of this level. The last step neither draws nor adds noise.
fn add_noise(x: Tensor, level: f64, next: f64, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    if next == 0.0 {
        return Ok(x);
    }
    let drawn = (context.draw)()?;
    sum([(1.0, &x), (level, &drawn)]).map_err(from_candle)
}

/// Integrates, from one noise level to the next, the Lagrange polynomial that is 1 at level `own` (the `term`th) and 0 at
/// the others.
fn lagrange_integral(levels: &[f64], term: usize, own: f64, from: f64, to: f64) -> f64 {
    // Gauss-Legendre quadrature with three points is exact up to degree five; the polynomial has at most degree three.
    const POINTS: [(f64, f64); 3] =
        [(-0.774_596_669_241_483_4, 5.0 / 9.0), (0.0, 8.0 / 9.0), (0.774_596_669_241_483_4, 5.0 / 9.0)];
    let others = || levels.iter().enumerate().filter(|(index, _)| *index != term).map(|(_, other)| other);
    let polynomial = |at: f64| others().map(|other| (at - other) / (own - other)).product::<f64>();
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    half * POINTS.iter().map(|(point, weight)| weight * polynomial(middle + half * point)).sum::<f64>()
}
