//! The inputs and callbacks of a sampler, and the steps that samplers share.

use candle_core::{Result as CandleResult, Tensor};

use super::tuning::SamplerTuning;
use crate::errors::from_candle;
use crate::sampling::brownian::BrownianTree;
use crate::sampling::denoiser::Denoiser;
use crate::sampling::rng::NoiseSource;
use crate::sampling::schedule::{NoiseSchedule, ScheduleType};
use crate::single::{exp, ln};
use trinart_ckpt_formats::error::{OrInternal, Result};

/// What a model predicts from a latent: the noise or the velocity, as the [`Denoiser`] tells.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// With guidance.
    pub guided: Tensor,
    /// For the negative prompt alone. Only DDIM CFG++ needs it.
    pub negative: Option<Tensor>,
}

impl From<Tensor> for Prediction {
    fn from(guided: Tensor) -> Self {
        Prediction { guided, negative: None }
    }
}

/// The inputs and callbacks of a sampler.
pub struct SamplerContext<'a> {
    /// The model's noise schedule.
    pub noise_schedule: &'a NoiseSchedule,
    /// What the model predicts.
    pub denoiser: Denoiser,
    /// How the noise levels of the steps are spaced.
    pub schedule: ScheduleType,
    /// The number of steps.
    pub steps: usize,
    /// WebUI's options of samplers.
    pub tuning: SamplerTuning,
    /// The generator of Brownian paths.
    pub source: NoiseSource,
    /// The seed of Brownian paths.
    pub seed: u64,
    /// Calls the model with a latent, scaled for it, and a time.
    pub predict: &'a mut dyn FnMut(&Tensor, f64) -> Result<Prediction>,
    /// Draws noise in the latent's shape.
    pub draw: &'a mut dyn FnMut() -> Result<Tensor>,
    /// Called with the latent after each step, counted from 0. An error ends the sampling.
    pub watch: &'a mut dyn FnMut(usize, &Tensor) -> Result<()>,
}

impl SamplerContext<'_> {
    /// The share of new noise in each step. `default` is that of the sampler.
    pub(super) fn eta(&self, default: f64) -> f64 {
        self.tuning.eta.unwrap_or(default)
    }

    /// The noise levels of the steps.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        self.noise_schedule.sigmas(self.schedule, self.steps)
    }

    /// The noise levels of the steps, without the second to last.
    pub(super) fn sigmas_without_penultimate(&self) -> Vec<f32> {
        self.noise_schedule.sigmas_without_penultimate(self.schedule, self.steps)
    }

    /// Predicts the noise in a latent of unit variance at a timestep: with guidance, and for the negative prompt alone.
    pub(super) fn noise(&mut self, x: &Tensor, time: f64) -> Result<Prediction> {
        let Prediction { guided, negative } = (self.predict)(x, time)?;
        let noise = |predicted: &Tensor| self.denoiser.noise(x, predicted, time, self.noise_schedule);
        Ok(Prediction { guided: noise(&guided)?, negative: negative.as_ref().map(noise).transpose()? })
    }

    /// Predicts the noise in a latent of unit variance at a timestep, with guidance.
    pub(super) fn guided_noise(&mut self, x: &Tensor, time: f64) -> Result<Tensor> {
        Ok(self.noise(x, time)?.guided)
    }
}

/// A step from one noise level to the next.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) sigma: f64,
    pub(super) next: f64,
}

/// Iterates over the noise levels in descending order. `advance` takes the latent, the prediction for it and the step,
/// and returns the next latent.
pub(super) fn walk(
    noise: &Tensor,
    sigmas: &[f32],
    context: &mut SamplerContext<'_>,
    mut advance: impl FnMut(&Tensor, &Tensor, Step, &mut SamplerContext<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut x = scaled_noise(noise, sigmas, context)?;
    for (index, (&sigma, &next)) in sigmas.iter().zip(sigmas.iter().skip(1)).enumerate() {
        let sigma = churn(&mut x, sigma, sigmas.len() - 1, context)?;
        let step = Step { sigma: f64::from(sigma), next: f64::from(next) };
        let denoised = denoise(&x, step.sigma, context)?;
        x = advance(&x, &denoised, step, context)?;
        (context.watch)(index, &x)?;
    }
    Ok(x)
}

/// Adds noise before a step, one of `steps`. Returns the new noise level.
fn churn(x: &mut Tensor, sigma: f32, steps: usize, context: &mut SamplerContext<'_>) -> Result<f32> {
    let SamplerTuning { churn, churned: (least, most), noise, .. } = context.tuning;
    if churn <= 0.0 {
        return Ok(sigma);
    }
    // k-diffusion also draws noise for steps that add none.
    let drawn = (context.draw)()?;
    if !(least..=most).contains(&f64::from(sigma)) {
        return Ok(sigma);
    }
    let share = (churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0);
    let raised = (f64::from(sigma) * (share + 1.0)) as f32;
    let level = f64::from((raised * raised - sigma * sigma).sqrt());
    *x = sum([(1.0, &*x), (noise * level, &drawn)])?;
    Ok(raised)
}

/// Returns noise of the first level.
pub(super) fn scaled_noise(noise: &Tensor, sigmas: &[f32], context: &SamplerContext<'_>) -> Result<Tensor> {
    let first = f64::from(*sigmas.first().or_internal("a schedule without noise levels")?);
    let scale = if context.tuning.sgm_noise_multiplier { (1.0 + first * first).sqrt() } else { first };
    noise.affine(scale, 0.0).map_err(from_candle)
}

/// Predicts the image from a latent with noise of level `sigma`.
pub(super) fn denoise(x: &Tensor, sigma: f64, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    denoise_at(x, sigma, context.denoiser.time(sigma, context.noise_schedule), context)
}

/// Like [`denoise`], with another time for the model.
pub(super) fn denoise_at(x: &Tensor, sigma: f64, time: f64, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    let scaled = x.affine(context.denoiser.input_scale(sigma), 0.0).map_err(from_candle)?;
    let predicted = (context.predict)(&scaled, time)?.guided;
    let (kept, added) = context.denoiser.image_factors(sigma);
    sum([(kept, x), (added, &predicted)])
}

/// Returns the derivative of a latent with respect to its noise level.
pub(super) fn slope(x: &Tensor, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
    (x - denoised).and_then(|difference| difference.affine(1.0 / sigma, 0.0)).map_err(from_candle)
}

/// Returns the width of a step in the logarithm of the noise level, rounded as in k-diffusion: for narrow steps, rounding
/// matters.
pub(super) fn log_width(sigma: f64, next: f64) -> f64 {
    f64::from(ln(sigma as f32) - ln(next as f32))
}

/// Returns the noise level in the middle of a step, in logarithms.
pub(super) fn middle(sigma: f64, next: f64) -> f64 {
    let (begin, end) = (ln(sigma as f32), ln(next as f32));
    f64::from(exp(begin + 0.5 * (end - begin)))
}

/// Moves linearly from one noise level to another.
pub(super) fn euler_step(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let slope = slope(x, denoised, sigma)?;
    sum([(1.0, x), (next - sigma, &slope)])
}

/// Splits a step into the level to move down to, and the level of new noise that brings the latent back to `next`.
/// `eta` is the share of new noise.
pub(super) fn ancestral(sigma: f64, next: f64, eta: f64) -> (f64, f64) {
    if eta == 0.0 {
        return (next, 0.0);
    }
    let up = next.min(eta * (next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt());
    ((next * next - up * up).sqrt(), up)
}

/// Adds noise of this level. The step to 0 neither draws nor adds noise.
pub(super) fn add_noise(x: Tensor, level: f64, next: f64, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    if next == 0.0 {
        return Ok(x);
    }
    let drawn = (context.draw)()?;
    sum([(1.0, &x), (level * context.tuning.noise, &drawn)])
}

/// The noise of the SDE samplers: increments of a Brownian path over the noise levels.
pub(super) struct BrownianNoise {
    tree: BrownianTree,
    like: Tensor,
}

impl BrownianNoise {
    /// Returns the path between the lowest level above 0 and the highest.
    pub(super) fn new(x: &Tensor, sigmas: &[f32], context: &SamplerContext<'_>) -> Self {
        let above_zero = || sigmas.iter().copied().filter(|sigma| *sigma > 0.0);
        let (least, most) = (above_zero().fold(f32::INFINITY, f32::min), above_zero().fold(0.0, f32::max));
        let tree = BrownianTree::new(context.source, context.seed, least.min(most), most, x.elem_count());
        BrownianNoise { tree, like: x.clone() }
    }

    /// Returns the noise between two levels.
    pub(super) fn between(&self, sigma: f32, next: f32) -> Result<Tensor> {
        let noise = self.tree.noise(sigma, next);
        Tensor::from_vec(noise, self.like.shape(), self.like.device()).map_err(from_candle)
    }
}

/// Returns the weighted sum of tensors.
pub(super) fn sum<const N: usize>(terms: [(f64, &Tensor); N]) -> Result<Tensor> {
    sum_all(terms)
}

pub(super) fn sum_all<'a>(terms: impl IntoIterator<Item = (f64, &'a Tensor)>) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (factor, tensor) in terms {
        let add = || -> CandleResult<Tensor> {
            let term = tensor.affine(factor, 0.0)?;
            total.as_ref().map_or(Ok(term.clone()), |total| total + &term)
        };
        total = Some(add().map_err(from_candle)?);
    }
    total.or_internal("a sum without terms")
}
