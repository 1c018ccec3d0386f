//! The noise that a render draws.

use candle_core::{Device, Tensor};

use crate::errors::from_candle;
use crate::sampling::Generator;
use crate::settings::Settings;
use trinart_ckpt_formats::error::Result;

/// Number of latent channels in Stable Diffusion.
pub(super) const LATENT_CHANNELS: usize = 4;

/// Draws noise in the shape of the latent.
pub(super) struct NoiseDrawing {
    generator: Generator,
    /// The generator for the second and later draws, if WebUI's seed delta is set.
    later: Option<Generator>,
    height: usize,
    width: usize,
}

impl NoiseDrawing {
    pub(super) fn new(settings: &Settings) -> Self {
        let generator = Generator::new(settings.rng, settings.seed);
        // With a seed delta, WebUI reseeds for the noise of the steps.
        let later = || Generator::new(settings.rng, settings.seed.wrapping_add_signed(settings.seed_delta));
        let later = (settings.seed_delta != 0).then(later);
        NoiseDrawing { generator, later, height: settings.height / 8, width: settings.width / 8 }
    }

    pub(super) fn draw(&mut self) -> Result<Tensor> {
        let drawn = self.generator.normal(LATENT_CHANNELS * self.height * self.width);
        if let Some(later) = self.later.take() {
            self.generator = later;
        }
        let shape = (1, LATENT_CHANNELS, self.height, self.width);
        Tensor::from_vec(drawn, shape, &Device::Cpu).map_err(from_candle)
    }
}
