//! Restart sampling (Xu et al., 2023): Heun's method that goes back to a higher noise level and down again.

use candle_core::Tensor;

use super::context::{SamplerContext, Step, add_noise, denoise, scaled_noise};
use super::k_diffusion::heun_step;
use crate::sampling::schedule::NoiseSchedule;
use trinart_ckpt_formats::error::Result;

/// The levels between which WebUI repeats steps.
const RESTART: (f32, f32) = (0.1, 2.0);

pub(super) fn restart(noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = context.sigmas();
    let mut x = scaled_noise(noise, &sigmas, context)?;
    let mut last: Option<f64> = None;
    for (index, (sigma, next)) in steps(&sigmas).into_iter().enumerate() {
        let step = Step { sigma: f64::from(sigma), next: f64::from(next) };
        if let Some(last) = last.filter(|last| *last < step.sigma) {
            x = add_noise(x, (step.sigma.powi(2) - last.powi(2)).sqrt(), step.sigma, context)?;
        }
        let denoised = denoise(&x, step.sigma, context)?;
        x = heun_step(&x, &denoised, step, context)?;
        last = Some(step.next);
        (context.watch)(index, &x)?;
    }
    Ok(x)
}

/// Returns the steps: the levels from which and to which they go.
///
/// From 20 levels on, WebUI respaces the levels as in Karras et al., to fewer steps, and uses the steps that this saves to
/// repeat the part between the levels of [`RESTART`].
pub(super) fn steps(sigmas: &[f32]) -> Vec<(f32, f32)> {
    let count = sigmas.len().saturating_sub(1);
    let (repeats, width) = match count {
        0..20 => return pairs(sigmas),
        20..36 => (1, 9),
        _ => (2, count / 4),
    };
    let [most, .., least, _] = sigmas else { return pairs(sigmas) };
    let mut sigmas = NoiseSchedule::karras_between(count - width * repeats, *least, *most);
    sigmas.push(0.0);
    let mut steps = pairs(&sigmas);
    let (low, high) = (nearest(&sigmas, RESTART.0), nearest(&sigmas, RESTART.1));
    let (Some(&to), Some(&from)) = (sigmas.get(low), sigmas.get(high)) else { return steps };
    if 0 < low && high < low {
        let repeated = pairs(&NoiseSchedule::karras_between(width + 1, to, from));
        let again = std::iter::repeat_n(repeated, repeats).flatten();
        steps.splice(low..low, again);
    }
    steps
}

fn pairs(sigmas: &[f32]) -> Vec<(f32, f32)> {
    sigmas.iter().copied().zip(sigmas.iter().copied().skip(1)).collect()
}

/// The index of the first level that is nearest to another level.
fn nearest(sigmas: &[f32], level: f32) -> usize {
    let distances = sigmas.iter().map(|sigma| (sigma - level).abs()).enumerate();
    distances.min_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(index, _)| index)
}
