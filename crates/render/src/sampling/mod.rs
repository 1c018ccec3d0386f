//! Sampling: the noise, its schedule, and the samplers that turn noise into a latent.

mod brownian;
mod denoiser;
mod rng;
mod sampler;
mod schedule;

pub use brownian::BrownianTree;
pub use denoiser::Denoiser;
pub use rng::{Generator, NoiseSource};
pub use sampler::{Prediction, Sampler, SamplerContext, SamplerTuning, sample};
pub use schedule::{LevelTuning, NoiseSchedule, ScheduleType};
