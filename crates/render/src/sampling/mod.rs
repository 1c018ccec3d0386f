//! Sampling: the noise, its schedule, and the samplers that turn noise into a latent.

mod rng;
mod sampler;
mod schedule;

pub use rng::{Generator, NoiseSource};
pub use sampler::{Sampler, SamplerContext, sample};
pub use schedule::{NoiseSchedule, ScheduleType};
