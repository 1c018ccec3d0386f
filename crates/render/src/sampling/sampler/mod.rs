//! WebUI's samplers, with the same random draws, timesteps and number of model calls.

mod k_diffusion;
mod timesteps;
mod unipc;

use candle_core::{Result as CandleResult, Tensor};

use crate::sampling::schedule::{NoiseSchedule, ScheduleType};
use trinart_ckpt_formats::error::Result;

/// A sampler: a method to turn noise into a latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Sampler {
    /// Euler's method.
    Euler,
    /// Euler's method with new noise at each step.
    #[default]
    EulerA,
    /// Denoising diffusion implicit models (DDIM) as in WebUI, with eta 0.
    Ddim,
    /// DPM-Solver++, second-order multistep.
    Dpmpp2m,
    /// Heun's method.
    Heun,
    /// A fourth-order linear multistep method.
    Lms,
    /// Second-order DPM-Solver with new noise at each step.
    Dpm2A,
    /// UniPC, a third-order predictor-corrector method.
    UniPc,
}

impl Sampler {
    /// All samplers.
    pub const ALL: &'static [Sampler] = &[
        Sampler::Euler,
        Sampler::EulerA,
        Sampler::Ddim,
        Sampler::Dpmpp2m,
        Sampler::Heun,
        Sampler::Lms,
        Sampler::Dpm2A,
        Sampler::UniPc,
    ];

    /// WebUI's name.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Euler => "Euler",
            Sampler::EulerA => "Euler a",
            Sampler::Ddim => "DDIM",
            Sampler::Dpmpp2m => "DPM++ 2M",
            Sampler::Heun => "Heun",
            Sampler::Lms => "LMS",
            Sampler::Dpm2A => "DPM2 a",
            Sampler::UniPc => "UniPC",
        }
    }

    /// Returns the sampler with this name, and the schedule type if the name contains one: "DPM++ 2M Karras". Ignores
    /// case.
    pub fn from_name(name: &str) -> Option<(Self, Option<ScheduleType>)> {
        let name = name.trim().to_ascii_lowercase();
        let (name, schedule) = match name.strip_suffix(" karras") {
            Some(name) => (name, Some(ScheduleType::Karras)),
            None => (name.as_str(), None),
        };
        let sampler = Self::ALL.iter().find(|sampler| sampler.name().eq_ignore_ascii_case(name))?;
        (schedule.is_none() || sampler.has_schedule()).then_some((*sampler, schedule))
    }

    /// Whether the schedule type applies. The other samplers have fixed times.
    pub fn has_schedule(self) -> bool {
        !matches!(self, Sampler::Ddim | Sampler::UniPc)
    }

    /// The schedule type that WebUI 1.9 and later uses for "Automatic".
    pub fn automatic_schedule(self) -> ScheduleType {
        match self {
            Sampler::Dpmpp2m | Sampler::Dpm2A => ScheduleType::Karras,
            _ => ScheduleType::Uniform,
        }
    }

    /// Whether each step draws new noise.
    pub fn is_ancestral(self) -> bool {
        matches!(self, Sampler::EulerA | Sampler::Dpm2A)
    }

    /// The number of UNet calls in `steps` steps.
    pub fn calls(self, noise_schedule: &NoiseSchedule, steps: usize) -> usize {
        match self {
            Sampler::Ddim => noise_schedule.ddim_times(steps).len() - 1,
            // The last step, to sigma 0, is an Euler step.
            Sampler::Heun | Sampler::Dpm2A => (2 * steps).max(1) - 1,
            _ => steps,
        }
    }
}

/// The inputs and callbacks of a sampler.
pub struct SamplerContext<'a> {
    /// The model's noise schedule.
    pub noise_schedule: &'a NoiseSchedule,
    /// How the noise levels of the steps are spaced.
    pub schedule: ScheduleType,
    /// The number of steps.
    pub steps: usize,
    /// Predicts the noise in a latent of unit variance at a time, with guidance.
    pub predict: &'a mut dyn FnMut(&Tensor, f64) -> Result<Tensor>,
    /// Draws noise in the latent's shape.
    pub draw: &'a mut dyn FnMut() -> Result<Tensor>,
    /// Called with the latent after each step, counted from 0. An error ends the sampling.
    pub watch: &'a mut dyn FnMut(usize, &Tensor) -> Result<()>,
}

/// Samples a latent, in the UNet's scale, from standard normal noise.
///
/// Fails if a callback fails.
pub fn sample(sampler: Sampler, noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    match sampler {
        Sampler::Ddim => timesteps::ddim(noise, context),
        Sampler::UniPc => unipc::unipc(noise, context),
        Sampler::Euler => k_diffusion::euler(noise, context),
        Sampler::EulerA => k_diffusion::euler_ancestral(noise, context),
        Sampler::Heun => k_diffusion::heun(noise, context),
        Sampler::Lms => k_diffusion::lms(noise, context),
        Sampler::Dpm2A => k_diffusion::dpm_2_ancestral(noise, context),
        Sampler::Dpmpp2m => k_diffusion::dpmpp_2m(noise, context),
    }
}

/// Returns the weighted sum of tensors.
fn sum<const N: usize>(terms: [(f64, &Tensor); N]) -> CandleResult<Tensor> {
    sum_all(terms)
}

fn sum_all<'a>(terms: impl IntoIterator<Item = (f64, &'a Tensor)>) -> CandleResult<Tensor> {
    let mut total: Option<Tensor> = None;
    for (factor, tensor) in terms {
        let term = tensor.affine(factor, 0.0)?;
        total = Some(match total {
            Some(total) => (total + term)?,
            None => term,
        });
    }
    total.ok_or_else(|| candle_core::Error::Msg("internal error: a sum without terms".into()))
}
