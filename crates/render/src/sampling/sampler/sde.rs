//! DPM-Solver++ as a stochastic differential equation (Lu et al., 2022): the noise of each step is an increment of one
//! Brownian path. Levels are computed in single precision, like those of k-diffusion, because the path depends on them.

use candle_core::Tensor;

use super::context::{BrownianNoise, SamplerContext, Step, denoise, euler_step, log_width, sum, walk};
use crate::single::{exp, exp_m1, ln};
use trinart_ckpt_formats::error::Result;

/// The correction for the curvature in the multistep solvers.
#[derive(Clone, Copy)]
pub(super) enum Correction {
    Midpoint,
    Heun,
}

/// DPM-Solver++ SDE: two predictions for each step.
pub(super) fn dpmpp_sde(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    let brownian = BrownianNoise::new(noise, &sigmas, context);
    let (eta, s_noise) = (context.eta(1.0), context.tuning.noise);
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, context| {
        if next == 0.0 {
            return euler_step(x, denoised, sigma, next);
        }
        // Times are negative logarithms of levels.
        let (time, end) = (-ln(sigma as f32), -ln(next as f32));
        let middle = time + (end - time) * 0.5;
        let tentative = stochastic_step(x, denoised, (time, middle), eta as f32, s_noise, &brownian)?;
        let denoised_middle = denoise(&tentative, f64::from(exp(-middle)), context)?;
        stochastic_step(x, &denoised_middle, (time, end), eta as f32, s_noise, &brownian)
    })
}

/// Moves from one time to another, partly by noise.
fn stochastic_step(
    x: &Tensor,
    denoised: &Tensor,
    (time, end): (f32, f32),
    eta: f32,
    s_noise: f64,
    brownian: &BrownianNoise,
) -> Result<Tensor> {
    let (sigma, next) = (exp(-time), exp(-end));
    let (down, up) = ancestral(sigma, next, eta);
    let down = -ln(down);
    let moved = sum([(f64::from(exp(-down) / sigma), x), (-f64::from(exp_m1(time - down)), denoised)])?;
    sum([(1.0, &moved), (f64::from(up) * s_noise, &brownian.between(sigma, next)?)])
}

/// Like [`super::context::ancestral`], in single precision.
fn ancestral(sigma: f32, next: f32, eta: f32) -> (f32, f32) {
    if eta == 0.0 {
        return (next, 0.0);
    }
    let up = next.min(eta * (next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt());
    ((next * next - up * up).sqrt(), up)
}

/// DPM-Solver++ SDE, second-order multistep.
pub(super) fn dpmpp_2m_sde(noise: &Tensor, correction: Correction, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    let brownian = BrownianNoise::new(noise, &sigmas, context);
    let (eta, s_noise) = (context.eta(1.0), context.tuning.noise);
    // The prediction of the last step, and its width in log-sigma.
    let mut past: Option<(Tensor, f64)> = None;
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, _| {
        if next == 0.0 {
            return Ok(denoised.clone());
        }
        let width = log_width(sigma, next);
        let total = width * (1.0 + eta);
        let gained = -libm::expm1(-total);
        let mut moved = sum([(next / sigma * libm::exp(-eta * width), x), (gained, denoised)])?;
        if let Some((before, width_before)) = &past {
            let factor = match correction {
                Correction::Midpoint => gained / 2.0,
                Correction::Heun => 1.0 - gained / total,
            };
            let factor = factor * width / width_before;
            moved = sum([(1.0, &moved), (factor, denoised), (-factor, before)])?;
        }
        past = Some((denoised.clone(), width));
        add_increment(&moved, &brownian, (sigma, next), eta, s_noise)
    })
}

/// DPM-Solver++ SDE, third-order multistep.
pub(super) fn dpmpp_3m_sde(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas_without_penultimate();
    let brownian = BrownianNoise::new(noise, &sigmas, context);
    let (eta, s_noise) = (context.eta(1.0), context.tuning.noise);
    // The predictions of the last two steps and their widths in log-sigma, newest first.
    let mut past: Vec<(Tensor, f64)> = Vec::new();
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, _| {
        if next == 0.0 {
            return Ok(denoised.clone());
        }
        let width = log_width(sigma, next);
        let total = width * (1.0 + eta);
        let mut moved = sum([(libm::exp(-total), x), (-libm::expm1(-total), denoised)])?;
        let phi_2 = libm::expm1(-total) / total + 1.0;
        match past.as_slice() {
            [(first, width_1), (second, width_2), ..] => {
                let (ratio_0, ratio_1) = (width_1 / width, width_2 / width);
                let phi_3 = phi_2 / total - 0.5;
                let newer = sum([(1.0 / ratio_0, denoised), (-1.0 / ratio_0, first)])?;
                let older = sum([(1.0 / ratio_1, first), (-1.0 / ratio_1, second)])?;
                let share = 1.0 / (ratio_0 + ratio_1);
                let of_newer = phi_2 * (1.0 + ratio_0 * share) - phi_3 * share;
                let of_older = phi_3 * share - phi_2 * ratio_0 * share;
                moved = sum([(1.0, &moved), (of_newer, &newer), (of_older, &older)])?;
            }
            [(first, width_1)] => {
                let factor = phi_2 * width / width_1;
                moved = sum([(1.0, &moved), (factor, denoised), (-factor, first)])?;
            }
            [] => {}
        }
        past.insert(0, (denoised.clone(), width));
        past.truncate(2);
        add_increment(&moved, &brownian, (sigma, next), eta, s_noise)
    })
}

/// Adds the noise of a step: as much as it has lost.
fn add_increment(
    x: &Tensor,
    brownian: &BrownianNoise,
    (sigma, next): (f64, f64),
    eta: f64,
    s_noise: f64,
) -> Result<Tensor> {
    let level = next * (-libm::expm1(-2.0 * eta * log_width(sigma, next))).sqrt() * s_noise;
    sum([(1.0, x), (level, &brownian.between(sigma as f32, next as f32)?)])
}
