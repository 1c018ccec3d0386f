//! Sampling: the noise, its schedule, and the samplers that turn noise into a latent.

mod brownian;
mod rng;
mod sampler;
mod schedule;
mod single;

pub use brownian::BrownianTree;
pub use rng::{Generator, NoiseSource};
pub use sampler::{Prediction, Sampler, SamplerContext, sample};
pub use schedule::{NoiseSchedule, ScheduleType};
