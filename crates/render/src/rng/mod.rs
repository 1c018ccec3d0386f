//! Random number generators that reproduce the noise of WebUI and torch exactly.

mod mt19937;
mod philox;

pub use mt19937::Mt19937;
pub use philox::Philox;

/// The generator of the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NoiseSource {
    /// NVIDIA's Philox: WebUI's "GPU", its default, and "NV", the same without a GPU.
    #[default]
    Nv,
    /// torch's CPU generator: WebUI's "CPU", ComfyUI and diffusers.
    Cpu,
}

impl NoiseSource {
    /// The name in the parameters of WebUI's pictures.
    pub fn name(self) -> &'static str {
        match self {
            NoiseSource::Nv => "NV",
            NoiseSource::Cpu => "CPU",
        }
    }
}

/// A seeded generator.
#[derive(Debug, Clone)]
pub enum Generator {
    /// See [`NoiseSource::Nv`].
    Nv(Philox),
    /// See [`NoiseSource::Cpu`].
    Cpu(Box<Mt19937>),
}

impl Generator {
    /// Returns a generator with this seed.
    pub fn new(source: NoiseSource, seed: u64) -> Self {
        match source {
            NoiseSource::Nv => Generator::Nv(Philox::new(seed)),
            NoiseSource::Cpu => Generator::Cpu(Box::new(Mt19937::new(seed))),
        }
    }

    /// Draws a tensor of `count` values from the standard normal distribution.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        match self {
            Generator::Nv(philox) => philox.normal(count),
            Generator::Cpu(twister) => twister.normal(count),
        }
    }
}
