//! Samplers that WebUI defines on times rather than noise levels: DDIM, DDIM CFG++ and PLMS.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::context::{Prediction, SamplerContext, sum, sum_all};
use trinart_ckpt_formats::error::{OrInternal, Result};

/// Number of past predictions that PLMS uses.
const PLMS_PAST: usize = 3;

/// Denoising diffusion implicit models (Song et al., 2020).
pub(super) fn ddim(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    walk(noise, context, |x, step, context| {
        let noise = context.guided_noise(x, step.time)?;
        step.advance_with_noise(x, &noise, &noise, context)
    })
}

/// DDIM with CFG++ (Chung et al., 2024): the noise that remains is that of the negative prompt.
pub(super) fn ddim_cfgpp(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    walk(noise, context, |x, step, context| {
        let Prediction { guided, negative } = context.noise(x, step.time)?;
        let negative = negative.or_internal("DDIM CFG++ without the prediction for the negative prompt")?;
        step.advance_with_noise(x, &guided, &negative, context)
    })
}

/// Pseudo linear multistep (Liu et al., 2022).
pub(super) fn plms(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    // Newest first.
    let mut past: VecDeque<Tensor> = VecDeque::new();
    walk(noise, context, |x, step, context| {
        let noise = context.guided_noise(x, step.time)?;
        // Adams-Bashforth, of as high an order as there are predictions.
        let factors: &[f64] = match past.len() {
            0 => &[0.5],
            1 => &[3.0 / 2.0, -1.0 / 2.0],
            2 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        };
        let mut terms: Vec<(f64, &Tensor)> = factors.iter().copied().zip([&noise].into_iter().chain(&past)).collect();
        let after = match past.is_empty() {
            true => Some(context.guided_noise(&step.advance(x, &noise, &noise)?, step.next_time)?),
            false => None,
        };
        terms.extend(after.as_ref().map(|after| (0.5, after)));
        let mean = sum_all(terms)?;
        let moved = step.advance(x, &mean, &mean);
        past.push_front(noise);
        past.truncate(PLMS_PAST);
        moved
    })
}

/// A step from one time to another, with their values of `alphas_cumprod`.
struct TimeStep {
    time: f64,
    next_time: f64,
    alpha: f64,
    next_alpha: f64,
}

impl TimeStep {
    /// Returns the next latent: the image without `removed` noise, with `remaining` noise.
    fn advance(&self, x: &Tensor, removed: &Tensor, remaining: &Tensor) -> Result<Tensor> {
        self.moved(x, removed, remaining, 0.0)
    }

    /// Like [`TimeStep::advance`], with part of the remaining noise replaced by new noise, by WebUI's "Eta DDIM".
    fn advance_with_noise(
        &self,
        x: &Tensor,
        removed: &Tensor,
        remaining: &Tensor,
        context: &mut SamplerContext<'_>,
    ) -> Result<Tensor> {
        let eta = context.eta(0.0);
        let ratio = (1.0 - self.next_alpha) / (1.0 - self.alpha) * (1.0 - self.alpha / self.next_alpha);
        let level = eta * ratio.sqrt();
        let moved = self.moved(x, removed, remaining, level)?;
        if eta == 0.0 {
            return Ok(moved);
        }
        let drawn = (context.draw)()?;
        sum([(1.0, &moved), (level, &drawn)])
    }

    /// Moves to the next time, with room for new noise of this level.
    fn moved(&self, x: &Tensor, removed: &Tensor, remaining: &Tensor, level: f64) -> Result<Tensor> {
        let kept = (self.next_alpha / self.alpha).sqrt();
        let left = (1.0 - self.next_alpha - level * level).sqrt();
        sum([(kept, x), (-kept * (1.0 - self.alpha).sqrt(), removed), (left, remaining)])
    }
}

/// Iterates over the times of DDIM in descending order.
fn walk(
    noise: &Tensor,
    context: &mut SamplerContext<'_>,
    mut advance: impl FnMut(&Tensor, &TimeStep, &mut SamplerContext<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let times = context.noise_schedule.ddim_times(context.steps);
    let mut x = noise.clone();
    for (index, (&next, &time)) in times.iter().zip(times.iter().skip(1)).rev().enumerate() {
        let schedule = context.noise_schedule;
        let step = TimeStep {
            time: time as f64,
            next_time: next as f64,
            alpha: schedule.alpha(time),
            next_alpha: schedule.alpha(next),
        };
        x = advance(&x, &step, context)?;
        (context.watch)(index, &x)?;
    }
    Ok(x)
}
