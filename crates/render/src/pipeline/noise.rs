//! The noise that a render draws.

use candle_core::{Device, Tensor};

use crate::errors::from_candle;
use crate::sampling::Generator;
use crate::settings::{Settings, Variation};
use crate::single::{acos, sin};
use trinart_ckpt_formats::error::Result;

/// Number of latent channels in Stable Diffusion.
pub(super) const LATENT_CHANNELS: usize = 4;

/// WebUI mixes two noises linearly if the mean of their cosines is above this.
const PARALLEL: f32 = 0.9995;

/// Draws noise in the shape of the latent.
pub(super) struct NoiseDrawing<'a> {
    settings: &'a Settings,
    generator: Generator,
    is_first: bool,
    height: usize,
    width: usize,
}

impl<'a> NoiseDrawing<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let generator = Generator::new(settings.rng, settings.seed);
        NoiseDrawing { settings, generator, is_first: true, height: settings.height / 8, width: settings.width / 8 }
    }

    pub(super) fn draw(&mut self) -> Result<Tensor> {
        let drawn = match std::mem::take(&mut self.is_first) {
            true => self.first(),
            false => self.generator.normal(LATENT_CHANNELS * self.height * self.width),
        };
        let shape = (1, LATENT_CHANNELS, self.height, self.width);
        Tensor::from_vec(drawn, shape, &Device::Cpu).map_err(from_candle)
    }

    /// Draws the noise that sampling starts with (WebUI, `ImageRNG.first`).
    fn first(&mut self) -> Vec<f32> {
        let Settings { rng, seed, seed_delta, webui, .. } = self.settings;
        let (height, width) = (self.height, self.width);
        let from = webui.resize_from.map_or((height, width), |(width, height)| (height / 8, width / 8));
        let is_resized = from != (height, width);
        let count = LATENT_CHANNELS * from.0 * from.1;
        let mut noise = match is_resized {
            true => Generator::new(*rng, *seed).normal(count),
            false => self.generator.normal(count),
        };
        if let Some(Variation { seed, strength }) = webui.variation {
            noise = mixed(&noise, &Generator::new(*rng, seed).normal(count), strength as f32, from);
        }
        if is_resized {
            let own = self.generator.normal(LATENT_CHANNELS * height * width);
            noise = put_into(own, (height, width), &noise, from);
        }
        // With a seed delta, WebUI reseeds for the noise of the steps.
        if *seed_delta != 0 {
            self.generator = Generator::new(*rng, seed.wrapping_add_signed(*seed_delta));
        }
        noise
    }
}

/// Interpolates between two noises on the sphere (WebUI, `slerp`): each column of each channel is a vector.
fn mixed(noise: &[f32], other: &[f32], strength: f32, (height, width): (usize, usize)) -> Vec<f32> {
    let column = |channel: usize, x: usize| (0..height).map(move |y| (channel * height + y) * width + x);
    let at = |values: &[f32], index: usize| values.get(index).copied().unwrap_or_default();
    let columns = || (0..LATENT_CHANNELS).flat_map(|channel| (0..width).map(move |x| (channel, x)));
    let cosine = |(channel, x): (usize, usize)| {
        let norm = |values: &[f32]| column(channel, x).map(|index| at(values, index).powi(2)).sum::<f32>().sqrt();
        let product: f32 = column(channel, x).map(|index| at(noise, index) * at(other, index)).sum();
        product / (norm(noise) * norm(other))
    };
    let cosines: Vec<f32> = columns().map(cosine).collect();
    let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
    let factors = |cosine: f32| {
        let angle = acos(cosine);
        (sin((1.0 - strength) * angle) / sin(angle), sin(strength * angle) / sin(angle))
    };
    let factors: Vec<(f32, f32)> = match mean > PARALLEL {
        true => vec![(strength, 1.0 - strength); cosines.len()],
        false => cosines.into_iter().map(factors).collect(),
    };
    let mix = |(index, (noise, other)): (usize, (&f32, &f32))| {
        let place = index / (height * width) * width + index % width;
        let (of_noise, of_other) = factors.get(place).copied().unwrap_or_default();
        of_noise * noise + of_other * other
    };
    noise.iter().zip(other).enumerate().map(mix).collect()
}

/// Puts a noise of another size into the middle of one, or its middle into it.
fn put_into(mut own: Vec<f32>, to: (usize, usize), noise: &[f32], from: (usize, usize)) -> Vec<f32> {
    /// Returns where in `to` and in `from` the common part begins, and how long it is.
    fn common(to: usize, from: usize) -> (usize, usize, usize) {
        let smaller = from.saturating_sub(to).div_ceil(2);
        match to >= from {
            true => ((to - from) / 2, 0, from),
            false => (0, smaller, from - 2 * smaller),
        }
    }
    let ((to_y, from_y, rows), (to_x, from_x, columns)) = (common(to.0, from.0), common(to.1, from.1));
    for channel in 0..LATENT_CHANNELS {
        for y in 0..rows {
            let target = (channel * to.0 + to_y + y) * to.1 + to_x;
            let source = (channel * from.0 + from_y + y) * from.1 + from_x;
            let pair = (own.get_mut(target..target + columns), noise.get(source..source + columns));
            if let (Some(target), Some(source)) = pair {
                target.copy_from_slice(source);
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::NoiseSource;

    /// The values of `ImageRNG.first` in WebUI 1.10.1: the first three, the last, and the sum of the magnitudes.
    fn assert_first(settings: &Settings, expected: [f32; 5]) {
        let drawn = NoiseDrawing::new(settings).draw().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let sum = drawn.iter().map(|it| it.abs()).sum::<f32>();
        let found = [drawn[0], drawn[1], drawn[2], drawn[drawn.len() - 1], sum];
        for (found_one, expected_one) in found.iter().zip(expected) {
            assert!((found_one - expected_one).abs() <= 3e-5 * expected_one.abs().max(1.0), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn draws_variations_and_resized_noise_like_webui() {
        let base = || Settings { rng: NoiseSource::Cpu, seed: 1234, width: 64, height: 80, ..Settings::default() };
        for (seed, strength, resize_from, expected) in [
            (77, 0.3, None, [-0.339901, -0.682583, 0.085198, -0.972659, 251.00]),
            (77, 1.0, None, [-0.504309, -0.416142, -0.136427, -0.462155, 254.46]),
            (0, 0.0, Some((128, 64)), [-0.111719, -0.496590, 0.163074, -1.054544, 255.37]),
            (5, 0.6, Some((40, 136)), [-0.111719, 0.064666, -0.214654, -1.054544, 250.85]),
            (0, 0.0, Some((72, 72)), [-0.496590, 0.163074, -0.881688, -1.054544, 252.88]),
            (0, 0.0, Some((56, 88)), [-0.467498, -0.215253, 0.883962, -1.054544, 253.14]),
            (1234, 0.25, None, [-0.111719, -0.496590, 0.163074, -1.054544, 250.37]),
        ] {
            let mut settings = base();
            settings.webui.variation = (strength > 0.0).then_some(Variation { seed, strength });
            settings.webui.resize_from = resize_from;
            assert_first(&settings, expected);
        }
    }
}
