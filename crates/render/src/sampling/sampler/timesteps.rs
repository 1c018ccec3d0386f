//! The sampler that WebUI defines on times rather than noise levels.

use candle_core::Tensor;

use super::{SamplerContext, sum};
use crate::errors::from_candle;
use trinart_ckpt_formats::error::Result;

/// Denoising diffusion implicit models (Song et al., 2020) with eta 0: without new noise.
pub(super) fn ddim(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let times = context.noise_schedule.ddim_times(context.steps);
    let mut x = noise.clone();
    let pairs = times.iter().zip(times.iter().skip(1)).rev().enumerate();
    for (step, (&next, &time)) in pairs {
        let noise = (context.predict)(&x, time as f64)?;
        let (alpha, next) = (context.noise_schedule.alpha(time), context.noise_schedule.alpha(next));
        let denoised =
            sum([(1.0, &x), (-(1.0 - alpha).sqrt(), &noise)]).and_then(|it| it.affine(1.0 / alpha.sqrt(), 0.0));
        let moved = denoised.and_then(|denoised| sum([(next.sqrt(), &denoised), ((1.0 - next).sqrt(), &noise)]));
        x = moved.map_err(from_candle)?;
        (context.watch)(step, &x)?;
    }
    Ok(x)
}
