//! The sampler of latent consistency models (Luo et al., 2023): each step predicts the image and adds new noise.

use candle_core::Tensor;

use super::context::{SamplerContext, Step, add_noise, denoise_at, scaled_noise, sum};
use trinart_ckpt_formats::error::Result;

/// The deviation of images that the boundary conditions of the model assume, and their factor for times.
const DEVIATION: f64 = 0.5;
const TIME_SCALE: f64 = 10.0;

pub(super) fn lcm(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let schedule = context.noise_schedule.for_lcm();
    let sigmas = schedule.sigmas(context.schedule, context.steps);
    let mut x = scaled_noise(noise, &sigmas, context)?;
    for (index, (&sigma, &next)) in sigmas.iter().zip(sigmas.iter().skip(1)).enumerate() {
        let Step { sigma, next } = Step { sigma: f64::from(sigma), next: f64::from(next) };
        let time = schedule.time(sigma);
        let image = denoise_at(&x, sigma, time, context)?;
        let place = time * TIME_SCALE;
        let length = place * place + DEVIATION * DEVIATION;
        let (kept, predicted) = (DEVIATION * DEVIATION / length, place / length.sqrt());
        let denoised = sum([(kept, &x), (predicted, &image)])?;
        x = add_noise(denoised, next, next, context)?;
        (context.watch)(index, &x)?;
    }
    Ok(x)
}
