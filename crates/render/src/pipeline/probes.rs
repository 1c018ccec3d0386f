//! Calls of the UNet that only the checks need: how well it finds noise that was added to a latent.
//!
//! A UNet that works finds most of the noise in pictures of its own. It finds less if its weights are damaged, or if the
//! latent comes from a VAE that it was not trained with. `docs/render-checks.md` shows measured values.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::calls::Expert;
use crate::checks::cosine;
use crate::errors::from_candle;
use crate::picture::Picture;
use crate::sampling::{Denoiser, Generator, NoiseSchedule, NoiseSource};
use crate::weights::values;
use trinart_ckpt_formats::error::Result;

/// The noise level at which a UNet finds noise in its own latent, relative to the deviation of latents: that of timestep
/// 300.
pub(super) const IN_OWN_LATENT: f64 = 0.83;

/// The same for a latent of the VAE: that of timestep 100, at which the UNet must know such latents to tell them from
/// noise.
pub(super) const IN_ENCODED_PICTURE: f64 = 0.35;

/// The largest width and height of the picture that is encoded.
const SIDE: usize = 512;

/// The seed of the noise. The noise is that of torch on the CPU, and independent of the seed of the render.
const SEED: u64 = 1;

const DISK: [u8; 3] = [245, 215, 40];
const GROUND: [u8; 3] = [30, 160, 60];

/// Adds noise of `level` to a latent, and returns the cosine similarity between it and the noise that the UNet finds,
/// without guidance.
pub(super) fn found_noise(
    expert: &Expert<'_>,
    denoiser: Denoiser,
    schedule: &NoiseSchedule,
    latent: &Tensor,
    level: f64,
) -> Result<f64> {
    let sigma = level * denoiser.data();
    let drawn = Generator::new(NoiseSource::Cpu, SEED).normal(latent.elem_count());
    let noise = Tensor::from_slice(&drawn, latent.shape(), &Device::Cpu).map_err(from_candle)?;
    let noisy = || latent.to_dtype(DType::F32)? + noise.affine(sigma, 0.0)?;
    let noisy = noisy().map_err(from_candle)?;
    let input = noisy.affine(denoiser.input_scale(sigma), 0.0).map_err(from_candle)?;
    let predicted = expert.guidance.unguided(&expert.unet, &input, denoiser.time(sigma, schedule))?;
    let (of_noisy, of_predicted) = denoiser.image_factors(sigma);
    let found = || -> CandleResult<Tensor> {
        let image = (noisy.affine(of_noisy, 0.0)? + predicted.affine(of_predicted, 0.0)?)?;
        (&noisy - image)?.affine(1.0 / sigma, 0.0)
    };
    Ok(cosine(&drawn, &values(&found().map_err(from_candle)?)?))
}

/// A picture that any VAE encodes well: a yellow disk on green, at most 512 pixels wide and high.
pub(super) fn picture(width: usize, height: usize) -> Picture {
    let (width, height) = (width.min(SIDE), height.min(SIDE));
    let radius = 0.31 * width.min(height) as f64;
    let is_inside = |x: usize, y: usize| {
        let distance = |at: usize, side: usize| at as f64 + 0.5 - side as f64 / 2.0;
        libm::hypot(distance(x, width), distance(y, height)) < radius
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| if is_inside(x, y) { DISK } else { GROUND }));
    Picture { width, height, rgb: pixels.flatten().collect() }
}
