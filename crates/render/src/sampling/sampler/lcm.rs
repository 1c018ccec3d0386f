//! The sampler of latent consistency models (Luo et al., 2023): each step predicts the image and adds new noise.

use candle_core::Tensor;

use super::context::{SamplerContext, Step, add_noise, scaled_noise, sum};
use crate::errors::from_candle;
use trinart_ckpt_formats::error::Result;

/// The deviation of images that the boundary conditions of the model assume, and their factor for times.
const DEVIATION: f64 = 0.5;
const TIME_SCALE: f64 = 10.0;

pub(super) fn lcm(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let schedule = context.noise_schedule.for_lcm();
    let sigmas = schedule.sigmas(context.schedule, context.steps);
    let mut x = scaled_noise(noise, &sigmas)?;
    for (index, (&sigma, &next)) in sigmas.iter().zip(sigmas.iter().skip(1)).enumerate() {
        let Step { sigma, next } = Step { sigma: f64::from(sigma), next: f64::from(next) };
        let time = schedule.time(sigma);
        let scaled = x.affine(1.0 / (sigma * sigma + 1.0).sqrt(), 0.0).map_err(from_candle)?;
        let noise = context.guided(&scaled, time)?;
        let place = time * TIME_SCALE;
        let length = place * place + DEVIATION * DEVIATION;
        let (kept, predicted) = (DEVIATION * DEVIATION / length, place / length.sqrt());
        let denoised = sum([(kept + predicted, &x), (-sigma * predicted, &noise)])?;
        x = add_noise(denoised, next, next, context)?;
        (context.watch)(index, &x)?;
    }
    Ok(x)
}
