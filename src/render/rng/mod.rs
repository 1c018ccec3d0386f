//! The noise that pictures begin with, number for number as the programs people compare with draw it.

mod mt19937;
mod philox;

pub use mt19937::Mt19937;
pub use philox::Philox;

/// Which generator draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoiseSource {
    /// NVIDIA's Philox: what WebUI calls "GPU", its default, and "NV", which is the same without a card.
    #[default]
    Nv,
    /// torch's generator of the CPU: WebUI's "CPU", ComfyUI, diffusers.
    Cpu,
}

impl NoiseSource {
    /// As WebUI writes it into pictures.
    pub fn name(self) -> &'static str {
        match self {
            NoiseSource::Nv => "NV",
            NoiseSource::Cpu => "CPU",
        }
    }
}

/// A generator with its state.
#[derive(Debug, Clone)]
pub enum Generator {
    /// See [`NoiseSource::Nv`].
    Nv(Philox),
    /// See [`NoiseSource::Cpu`].
    Cpu(Box<Mt19937>),
}

impl Generator {
    /// One that begins with `seed`.
    pub fn new(source: NoiseSource, seed: u64) -> Self {
        match source {
            NoiseSource::Nv => Generator::Nv(Philox::new(seed)),
            NoiseSource::Cpu => Generator::Cpu(Box::new(Mt19937::new(seed))),
        }
    }

    /// Draws a tensor of `count` numbers of the standard normal distribution.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        match self {
            Generator::Nv(philox) => philox.normal(count),
            Generator::Cpu(twister) => twister.normal(count),
        }
    }
}
