//! From noise to a latent: the samplers of WebUI, each with its own draws, times and number of calls.

mod k_diffusion;
mod timesteps;
mod unipc;

use candle_core::{Result as CandleResult, Tensor};

use crate::error::Result;
use crate::render::schedule::{NoiseSchedule, ScheduleType};

/// A way from noise to a latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// Euler's method.
    Euler,
    /// Euler's method with new noise at each step.
    #[default]
    EulerA,
    /// Denoising noise_schedule implicit models, in WebUI's own code, with eta 0.
    Ddim,
    /// DPM-Solver++ of second order, multistep.
    Dpmpp2m,
    /// Heun's method.
    Heun,
    /// A linear multistep method of fourth order.
    Lms,
    /// DPM-Solver of second order with new noise at each step.
    Dpm2A,
    /// A predictor and a corrector of third order.
    UniPc,
}

impl Sampler {
    /// All of them.
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

    /// As WebUI calls it.
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

    /// The sampler of a name, and the schedule where the name says it: "DPM++ 2M Karras". Case does not matter.
    pub fn from_name(name: &str) -> Option<(Self, Option<ScheduleType>)> {
        let name = name.trim().to_ascii_lowercase();
        let (name, schedule) = match name.strip_suffix(" karras") {
            Some(name) => (name, Some(ScheduleType::Karras)),
            None => (name.as_str(), None),
        };
        let sampler = Self::ALL.iter().find(|sampler| sampler.name().eq_ignore_ascii_case(name))?;
        (schedule.is_none() || sampler.has_schedule()).then_some((*sampler, schedule))
    }

    /// Whether its noise levels can be spread in several ways. The others have times of their own.
    pub fn has_schedule(self) -> bool {
        !matches!(self, Sampler::Ddim | Sampler::UniPc)
    }

    /// What WebUI since 1.9 takes where its "Schedule type" says "Automatic".
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

    /// How often it asks the UNet in so many steps.
    pub fn calls(self, noise_schedule: &NoiseSchedule, steps: usize) -> usize {
        match self {
            Sampler::Ddim => noise_schedule.ddim_times(steps).len().saturating_sub(1),
            // The step to no noise at all is one of Euler's.
            Sampler::Heun | Sampler::Dpm2A => (2 * steps).saturating_sub(1),
            _ => steps,
        }
    }
}

/// What a sampler works with.
pub struct SamplerContext<'a> {
    /// The model's noise by time.
    pub noise_schedule: &'a NoiseSchedule,
    /// How the noise levels are spread.
    pub schedule: ScheduleType,
    /// Steps.
    pub steps: usize,
    /// The noise that the UNet sees in a latent of unit variance at a time, with guidance.
    pub predict: &'a mut dyn FnMut(&Tensor, f64) -> Result<Tensor>,
    /// New noise of the latent's shape.
    pub draw: &'a mut dyn FnMut() -> Result<Tensor>,
    /// Told the latent after each step, counted from 0. An error ends the work.
    pub watch: &'a mut dyn FnMut(usize, &Tensor) -> Result<()>,
}

/// Makes a latent, in the model's own scale, of standard normal noise.
pub fn sample(sampler: Sampler, noise: &Tensor, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    match sampler {
        Sampler::Ddim => timesteps::ddim(noise, work),
        Sampler::UniPc => unipc::unipc(noise, work),
        _ => k_diffusion::sample(sampler, noise, work),
    }
}

/// The sum of tensors with factors.
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
    total.ok_or_else(|| candle_core::Error::Msg("a sum of nothing".into()))
}
