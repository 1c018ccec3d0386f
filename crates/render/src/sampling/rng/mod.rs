//! Random number generators that reproduce the noise of WebUI and torch exactly.

mod mt19937;
mod philox;
mod seed_sequence;

use mt19937::Mt19937;
use philox::Philox;

pub(super) use seed_sequence::first_word;

/// The generator of the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NoiseSource {
    /// NVIDIA's Philox: "GPU" in WebUI (the default), and "NV", which gives the same values without a GPU.
    #[default]
    Nv,
    /// torch's CPU generator: "CPU" in WebUI. ComfyUI and diffusers also use it.
    Cpu,
}

impl NoiseSource {
    /// Returns the name in the parameters of WebUI's pictures.
    pub fn name(self) -> &'static str {
        match self {
            NoiseSource::Nv => "NV",
            NoiseSource::Cpu => "CPU",
        }
    }
}

/// A seeded generator.
#[derive(Debug, Clone)]
pub struct Generator(State);

#[derive(Debug, Clone)]
enum State {
    Nv(Philox),
    Cpu(Box<Mt19937>),
}

impl Generator {
    /// Returns a generator with this seed.
    pub fn new(source: NoiseSource, seed: u64) -> Self {
        Generator(match source {
            NoiseSource::Nv => State::Nv(Philox::new(seed)),
            NoiseSource::Cpu => State::Cpu(Box::new(Mt19937::new(seed))),
        })
    }

    /// Draws a tensor of `count` values from the standard normal distribution.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        match &mut self.0 {
            State::Nv(philox) => philox.normal(count),
            State::Cpu(twister) => twister.normal(count),
        }
    }
}
