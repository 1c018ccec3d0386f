//! The noise schedule of a model, and the noise levels of a sampler's steps.

mod beta;
mod kind;
mod levels;
mod table;
mod tuning;

use crate::single::{exp, linspace};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_models::constants::BETAS;
use trinart_ckpt_models::hyperparameters::scaled_linear;

pub use kind::ScheduleType;
use table::{Grid, LevelTable};
pub use tuning::LevelTuning;

/// The number of timesteps that Stable Diffusion was trained with.
const TIMES: usize = 1000;

/// The number of timesteps between those that latent consistency models are distilled for.
const LCM_STRIDE: usize = 20;

/// The noise schedule of a model: `alphas_cumprod`, the share of the image in the variance, for each of 1000 timesteps.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    alphas: Vec<f32>,
    table: LevelTable,
    is_sdxl: bool,
    tuning: LevelTuning,
}

/// The last value of `alphas_cumprod` with zero terminal SNR, instead of 0 (WebUI, `rescale_zero_terminal_snr_abar`).
const LEAST_ALPHA: f32 = 4.897_345e-8;

impl NoiseSchedule {
    /// Returns the schedule of Stable Diffusion: betas from 0.00085 to 0.012, whose square roots are evenly spaced.
    pub fn stable_diffusion() -> Self {
        let [first, last] = BETAS;
        Self::new(alphas(scaled_linear(first, last)))
    }

    /// Returns the schedule of these betas, the variance of the noise that each timestep adds.
    ///
    /// Fails for fewer than two values.
    pub fn from_betas(betas: &[f64]) -> Result<Self> {
        Self::from_alphas(alphas(betas.iter().copied()))
    }

    /// Returns the schedule of a checkpoint's `alphas_cumprod`, which WebUI prefers to the default one.
    ///
    /// Fails for fewer than two values.
    pub fn from_alphas(alphas: impl IntoIterator<Item = f32>) -> Result<Self> {
        let alphas: Vec<f32> = alphas.into_iter().collect();
        if alphas.len() < 2 {
            return Err(Error::malformed(format!("alphas_cumprod has {} values: expected 1000", alphas.len())));
        }
        Ok(Self::new(alphas))
    }

    /// Returns the schedule with other options for its levels.
    #[must_use]
    pub fn with_tuning(self, tuning: LevelTuning) -> Self {
        NoiseSchedule { tuning, ..self }
    }

    /// Returns the schedule with `alphas_cumprod` rounded to half precision, as WebUI did before 1.8.
    pub fn downcast(&self) -> Result<Self> {
        Self::from_alphas(self.alphas.iter().map(|alpha| half::f16::from_f32(*alpha).to_f32()))
    }

    /// `alphas` must have at least two values.
    fn new(alphas: Vec<f32>) -> Self {
        let table = LevelTable::new(alphas.iter().copied(), Grid::Dense);
        NoiseSchedule { alphas, table, is_sdxl: false, tuning: LevelTuning::default() }
    }

    /// Returns the schedule of an EDM model: 1000 levels with evenly spaced logarithms, as in ComfyUI's
    /// `ModelSamplingContinuousEDM`. Its timesteps only space the levels; the model gets a time from the level.
    ///
    /// Fails unless `0 < least < most`.
    pub fn edm(least: f64, most: f64) -> Result<Self> {
        if !(least > 0.0 && most > least && most.is_finite()) {
            return Err(Error::unsupported(format!("noise levels from {least} to {most}: expected 0 < least < most")));
        }
        let (lowest, highest) = (libm::log(least) as f32, libm::log(most) as f32);
        let sigmas: Vec<f32> = linspace(lowest, highest, TIMES).into_iter().map(exp).collect();
        let alphas = sigmas.iter().map(|sigma| 1.0 / (1.0 + sigma * sigma)).collect();
        Ok(NoiseSchedule {
            alphas,
            table: LevelTable::of_sigmas(sigmas, Grid::Dense),
            is_sdxl: false,
            tuning: LevelTuning::default(),
        })
    }

    /// Returns the schedule whose last timestep is almost pure noise: the square roots of `alphas_cumprod`, shifted and
    /// scaled so that the last is 0 and the first stays.
    #[must_use]
    pub fn with_zero_terminal_snr(&self) -> Self {
        let roots: Vec<f32> = self.alphas.iter().map(|alpha| alpha.sqrt()).collect();
        let (first, last) = (roots.first().copied().unwrap_or(1.0), roots.last().copied().unwrap_or(0.0));
        let scale = first / (first - last);
        let mut alphas: Vec<f32> = roots.iter().map(|root| (root - last) * scale).map(|root| root * root).collect();
        if let Some(last) = alphas.last_mut() {
            *last = LEAST_ALPHA;
        }
        NoiseSchedule { is_sdxl: self.is_sdxl, ..Self::new(alphas) }
    }

    /// Returns the schedule for a model of SDXL: Align Your Steps publishes other levels for it.
    #[must_use]
    pub fn for_sdxl(self) -> Self {
        NoiseSchedule { is_sdxl: true, ..self }
    }

    /// Returns the schedule of latent consistency models (Luo et al., 2023): the noise levels of 50 of the timesteps. Times
    /// are rounded to them.
    #[must_use]
    pub fn for_lcm(&self) -> Self {
        let mut of_groups: Vec<f32> = self.alphas.iter().rev().copied().step_by(LCM_STRIDE).collect();
        of_groups.reverse();
        match of_groups.len() {
            0 | 1 => self.clone(),
            _ => {
                let table = LevelTable::new(of_groups, Grid::Sparse { stride: LCM_STRIDE });
                NoiseSchedule { table, ..self.clone() }
            }
        }
    }

    /// The number of timesteps: 1000 in Stable Diffusion.
    pub fn times(&self) -> usize {
        self.alphas.len()
    }

    /// Returns `alphas_cumprod[time]`, or its last value for a later timestep.
    #[expect(clippy::indexing_slicing, reason = "a schedule has at least two timesteps")]
    pub fn alpha(&self, time: usize) -> f64 {
        f64::from(self.alphas[time.min(self.alphas.len() - 1)])
    }

    /// Returns the noise level (sigma) at a timestep, which may be fractional.
    pub fn sigma(&self, time: f64) -> f64 {
        f64::from(self.table.sigma(time as f32))
    }

    /// Returns the timestep of a noise level, not rounded: the input of the UNet.
    pub fn time(&self, sigma: f64) -> f64 {
        f64::from(self.table.time(sigma as f32))
    }

    /// The index of the noise level of the model that is nearest to another: the timestep, except for LCM.
    pub(crate) fn nearest_index(&self, sigma: f64) -> usize {
        self.table.nearest_index(sigma as f32)
    }

    /// The lowest and the highest noise level.
    pub fn range(&self) -> (f32, f32) {
        self.table.range()
    }

    /// Returns the descending noise levels of `steps` steps. Each step goes from one level to the next. The last level is 0,
    /// except for KL Optimal, where it is the lowest level of the model.
    pub fn sigmas(&self, schedule: ScheduleType, steps: usize) -> Vec<f32> {
        let levels = |steps| levels::levels(&self.table, schedule, steps, self.is_sdxl, &self.tuning);
        if self.tuning.discards_penultimate { without_penultimate(levels(steps + 1)) } else { levels(steps) }
    }

    /// Like [`NoiseSchedule::sigmas`], for samplers that compute one more level and drop the second to last. WebUI calls
    /// this `discard_next_to_last_sigma`.
    pub(crate) fn sigmas_without_penultimate(&self, schedule: ScheduleType, steps: usize) -> Vec<f32> {
        without_penultimate(levels::levels(&self.table, schedule, steps + 1, self.is_sdxl, &self.tuning))
    }

    /// Returns the descending noise levels of Karras et al. (2022) between two levels, without a final 0.
    pub(crate) fn karras_between(steps: usize, least: f32, most: f32) -> Vec<f32> {
        levels::karras(steps, f64::from(least), f64::from(most), levels::RHO)
    }

    /// Returns the ascending timesteps of WebUI's DDIM. Sampling starts at the last one and never evaluates the first:
    /// 20 steps make 19 calls. However, 30 steps make 30 calls, because 1000 / 30 is rounded down.
    pub fn ddim_times(&self, steps: usize) -> Vec<usize> {
        let stride = (self.times() / steps.max(1)).max(1);
        (0..self.times()).step_by(stride).map(|time| (time + 1).min(self.times() - 1)).collect()
    }
}

/// Returns `alphas_cumprod` of betas.
fn alphas(betas: impl Iterator<Item = f64>) -> Vec<f32> {
    let shares = betas.scan(1.0, |product, beta| {
        *product *= 1.0 - beta;
        Some(*product as f32)
    });
    shares.collect()
}

fn without_penultimate(mut sigmas: Vec<f32>) -> Vec<f32> {
    if sigmas.len() >= 2 {
        sigmas.remove(sigmas.len() - 2);
    }
    sigmas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().map(|it| f64::from(*it)).zip(expected) {
            assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-3), "{found} instead of {expected}");
        }
    }

    #[test]
    fn noise_levels_match_k_diffusion() {
        let diffusion = NoiseSchedule::stable_diffusion();
        let (least, most) = diffusion.range();
        assert_close(&[least, most, diffusion.alpha(999) as f32], &[0.029_167_53, 14.614_642, 0.004_660_098_5], 5e-7);
        let uniform = diffusion.sigmas(ScheduleType::Uniform, 5);
        assert_close(&uniform, &[14.61464, 4.08608, 1.61558, 0.69515, 0.02917, 0.0], 2e-4);
        let karras = diffusion.sigmas(ScheduleType::Karras, 5);
        assert_close(&karras, &[14.61464, 4.79654, 1.2741, 0.24795, 0.02917, 0.0], 2e-4);
        let times: Vec<f32> = karras[..4].iter().map(|&sigma| diffusion.time(f64::from(sigma)) as f32).collect();
        assert_close(&times, &[999.0, 785.954, 427.49, 58.892], 1e-5);
    }

    #[test]
    fn rounds_to_half_precision_like_webui_before_1_8() {
        let (least, most) = NoiseSchedule::stable_diffusion().downcast().unwrap().range();
        assert_close(&[least, most], &[0.031_265_3, 14.612_339], 1e-5);
    }

    #[test]
    fn time_is_the_inverse_of_sigma() {
        let diffusion = NoiseSchedule::stable_diffusion();
        for time in [0.0, 0.25, 1.0, 500.5, 867.33, 998.9, 999.0] {
            assert!((diffusion.time(diffusion.sigma(time)) - time).abs() < 1e-3);
        }
        assert_eq!(diffusion.time(1e9), 999.0);
        assert_eq!(diffusion.time(1e-9), 0.0);
    }

    #[test]
    fn ddim_times_match_webui() {
        let diffusion = NoiseSchedule::stable_diffusion();
        for (steps, times) in [(20, 20), (30, 31), (8, 8), (999, 1000), (1500, 1000)] {
            assert_eq!(diffusion.ddim_times(steps).len(), times);
        }
        assert_eq!(diffusion.ddim_times(20)[..3], [1, 51, 101]);
        assert_eq!(diffusion.ddim_times(1000).last(), Some(&999));
    }
}
