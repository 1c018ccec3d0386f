//! DPM-Solver++ (Lu et al., 2022) without a stochastic differential equation: 2M and 2S a.

use candle_core::Tensor;

use super::context::{SamplerContext, Step, add_noise, ancestral, denoise, euler_step, log_width, sum, walk};
use trinart_ckpt_formats::error::Result;

/// DPM-Solver++, second-order multistep.
pub(super) fn dpmpp_2m(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    // The prediction of the last step, and its width in log-sigma.
    let mut past: Option<(Tensor, f64)> = None;
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, _| {
        if next == 0.0 {
            return Ok(denoised.clone());
        }
        let width = log_width(sigma, next);
        let (kept, gained) = (next / sigma, -libm::expm1(-width));
        let moved = match &past {
            Some((before, width_before)) => {
                let half = width / width_before / 2.0;
                sum([(kept, x), (gained * (1.0 + half), denoised), (-gained * half, before)])
            }
            None => sum([(kept, x), (gained, denoised)]),
        };
        past = Some((denoised.clone(), width));
        moved
    })
}

/// DPM-Solver++, second-order single-step, with new noise at each step.
pub(super) fn dpmpp_2s_ancestral(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    walk(noise, &sigmas, context, |x, denoised, Step { sigma, next }, context| {
        let (down, up) = ancestral(sigma, next, context.eta(1.0));
        if down <= 0.0 {
            return add_noise(euler_step(x, denoised, sigma, down)?, up, next, context);
        }
        let width = log_width(sigma, down);
        let middle = libm::exp(-width / 2.0);
        let tentative = sum([(middle, x), (-libm::expm1(-width / 2.0), denoised)])?;
        let denoised_middle = denoise(&tentative, middle * sigma, context)?;
        let moved = sum([(down / sigma, x), (-libm::expm1(-width), &denoised_middle)])?;
        add_noise(moved, up, next, context)
    })
}
