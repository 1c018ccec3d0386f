//! Samplers of k-diffusion (Karras et al., 2022, and later) that follow the slope of the latent over the noise levels
//! (sigma). The slope comes from the image that the model predicts from a latent (`denoised`).

use std::collections::VecDeque;

use candle_core::Tensor;

use super::context::{
    SamplerContext, Step, add_noise, ancestral, denoise, euler_step, middle, slope, sum, sum_all, walk,
};
use trinart_ckpt_formats::error::Result;

/// Number of past slopes that the linear multistep method uses.
const LMS_ORDER: usize = 4;

/// Euler's method.
pub(super) fn euler(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    walk(noise, &sigmas, context, |x, denoised, step, _| euler_step(x, denoised, step.sigma, step.next))
}

/// Euler's method with new noise at each step.
pub(super) fn euler_ancestral(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    walk(noise, &sigmas, context, |x, denoised, step, context| {
        let (down, up) = ancestral(step.sigma, step.next, context.eta(1.0));
        let moved = euler_step(x, denoised, step.sigma, down)?;
        add_noise(moved, up, step.next, context)
    })
}

/// Heun's method. A step to sigma 0 is an Euler step.
pub(super) fn heun(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    walk(noise, &sigmas, context, heun_step)
}

/// A step of Heun's method.
pub(super) fn heun_step(
    x: &Tensor,
    denoised: &Tensor,
    Step { sigma, next }: Step,
    context: &mut SamplerContext<'_>,
) -> Result<Tensor> {
    let tentative = euler_step(x, denoised, sigma, next)?;
    if next <= 0.0 {
        return Ok(tentative);
    }
    let denoised_next = denoise(&tentative, next, context)?;
    let slopes = (slope(x, denoised, sigma)?, slope(&tentative, &denoised_next, next)?);
    let half = (next - sigma) / 2.0;
    sum([(1.0, x), (half, &slopes.0), (half, &slopes.1)])
}

/// Second-order DPM-Solver.
pub(super) fn dpm_2(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas_without_penultimate();
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, context| {
        dpm_2_step(x, denoised, sigma, next, context)
    })
}

/// Second-order DPM-Solver with new noise at each step.
pub(super) fn dpm_2_ancestral(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas_without_penultimate();
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, context| {
        let (down, up) = ancestral(sigma, next, context.eta(1.0));
        let moved = dpm_2_step(x, denoised, sigma, down, context)?;
        add_noise(moved, up, next, context)
    })
}

/// A step of the second-order DPM-Solver. A step to sigma 0 is an Euler step.
fn dpm_2_step(
    x: &Tensor,
    denoised: &Tensor,
    sigma: f64,
    next: f64,
    context: &mut SamplerContext<'_>,
) -> Result<Tensor> {
    if next <= 0.0 {
        return euler_step(x, denoised, sigma, next);
    }
    let middle = middle(sigma, next);
    let tentative = euler_step(x, denoised, sigma, middle)?;
    let denoised_middle = denoise(&tentative, middle, context)?;
    let slope = slope(&tentative, &denoised_middle, middle)?;
    sum([(1.0, x), (next - sigma, &slope)])
}

/// A linear multistep method of order [`LMS_ORDER`].
pub(super) fn lms(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    // Newest first.
    let mut slopes: VecDeque<(f64, Tensor)> = VecDeque::new();
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, _| {
        slopes.push_front((sigma, slope(x, denoised, sigma)?));
        slopes.truncate(LMS_ORDER);
        let levels: Vec<f64> = slopes.iter().map(|(sigma, _)| *sigma).collect();
        let factors = levels.iter().enumerate().map(|(term, &own)| lagrange_integral(&levels, term, own, sigma, next));
        let terms = factors.zip(slopes.iter().map(|(_, slope)| slope));
        sum_all([(1.0, x)].into_iter().chain(terms))
    })
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
