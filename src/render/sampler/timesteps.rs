//! The sampler that WebUI runs on times rather than noise levels.

use candle_core::Tensor;

use super::{SamplerContext, sum};
use crate::error::Result;
use crate::render::weights::from_candle;

/// Denoising noise_schedule implicit models (Song et al., 2020), without new noise.
pub(super) fn ddim(noise: &Tensor, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    let times = work.noise_schedule.ddim_times(work.steps);
    let mut x = noise.clone();
    let pairs = times.iter().zip(times.iter().skip(1)).rev().enumerate();
    for (step, (&next, &time)) in pairs {
        let noise = (work.predict)(&x, time as f64)?;
        let (alpha, next) = (work.noise_schedule.alpha(time), work.noise_schedule.alpha(next));
        let seen = sum([(1.0, &x), (-(1.0 - alpha).sqrt(), &noise)]).and_then(|it| it.affine(1.0 / alpha.sqrt(), 0.0));
        let moved = seen.and_then(|seen| sum([(next.sqrt(), &seen), ((1.0 - next).sqrt(), &noise)]));
        x = moved.map_err(from_candle)?;
        (work.watch)(step, &x)?;
    }
    Ok(x)
}
