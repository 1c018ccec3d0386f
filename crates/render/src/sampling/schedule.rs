//! The noise schedule of a model, and the noise levels of a sampler's steps.

use trinart_ckpt_formats::error::{Error, Result};

/// The number of timesteps that Stable Diffusion was trained with.
const TIMES: usize = 1000;

/// The noise schedule of a model: `alphas_cumprod`, the share of the image in the variance, for each of 1000 timesteps.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    alphas: Vec<f64>,
    log_sigmas: Vec<f64>,
}

/// How the noise levels of the steps are spaced: WebUI's "Schedule type".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ScheduleType {
    /// Evenly spaced timesteps.
    #[default]
    Uniform,
    /// As in Karras et al. (2022), with rho = 7.
    Karras,
}

impl ScheduleType {
    /// WebUI's name.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleType::Uniform => "Uniform",
            ScheduleType::Karras => "Karras",
        }
    }
}

impl NoiseSchedule {
    /// Returns the schedule of Stable Diffusion: betas from 0.00085 to 0.012, whose square roots are evenly spaced.
    pub fn stable_diffusion() -> Self {
        let (first, last) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
        let beta = |time: usize| (first + (last - first) * time as f64 / (TIMES - 1) as f64).powi(2);
        let alphas = (0..TIMES).scan(1.0, |product, time| {
            *product *= 1.0 - beta(time);
            Some(*product as f32)
        });
        Self::new(alphas.collect())
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

    /// `alphas` must have at least two values.
    fn new(alphas: Vec<f32>) -> Self {
        let log_sigma = |alpha: &f32| f64::from(((1.0 - alpha) / alpha).sqrt().ln());
        let log_sigmas = alphas.iter().map(log_sigma).collect();
        NoiseSchedule { alphas: alphas.into_iter().map(f64::from).collect(), log_sigmas }
    }

    /// The number of timesteps: 1000 in Stable Diffusion.
    pub fn times(&self) -> usize {
        self.alphas.len()
    }

    /// Returns `alphas_cumprod[time]`, or its last value for a later timestep.
    pub fn alpha(&self, time: usize) -> f64 {
        at(&self.alphas, time)
    }

    /// Returns the noise level (sigma) at a timestep, which may be fractional.
    pub fn sigma(&self, time: f64) -> f64 {
        interpolate(&self.log_sigmas, time).exp()
    }

    /// Returns the timestep of a noise level, not rounded: the input of the UNet.
    pub fn time(&self, sigma: f64) -> f64 {
        let wanted = sigma.ln();
        let above = self.log_sigmas.partition_point(|&log_sigma| log_sigma <= wanted);
        // Levels beyond the ends of the schedule are clamped to them.
        let low = above.clamp(1, self.times() - 1) - 1;
        let at = |index: usize| at(&self.log_sigmas, index);
        let weight = ((wanted - at(low)) / (at(low + 1) - at(low))).clamp(0.0, 1.0);
        low as f64 + weight
    }

    /// The lowest and the highest noise level.
    fn range(&self) -> (f64, f64) {
        (at(&self.log_sigmas, 0).exp(), at(&self.log_sigmas, self.times()).exp())
    }

    /// Returns the descending noise levels of `steps` steps, followed by 0.
    pub fn sigmas(&self, schedule: ScheduleType, steps: usize) -> Vec<f64> {
        // A single step is at the highest level.
        let last = steps.max(2) as f64 - 1.0;
        let level = |step: usize| {
            let progress = step as f64 / last;
            match schedule {
                ScheduleType::Uniform => {
                    let most = (self.times() - 1) as f64;
                    self.sigma(most * (1.0 - progress))
                }
                ScheduleType::Karras => {
                    const RHO: f64 = 7.0;
                    let (least, most) = self.range();
                    let (least, most) = (least.powf(1.0 / RHO), most.powf(1.0 / RHO));
                    (most + progress * (least - most)).powf(RHO)
                }
            }
        };
        // k-diffusion computes with single-precision levels.
        (0..steps).map(|step| f64::from(level(step) as f32)).chain([0.0]).collect()
    }

    /// Returns the ascending timesteps of WebUI's DDIM. Sampling starts at the last one and never evaluates the first:
    /// 20 steps make 19 calls. However, 30 steps make 30 calls, because 1000 / 30 is rounded down.
    pub fn ddim_times(&self, steps: usize) -> Vec<usize> {
        let stride = (self.times() / steps.max(1)).max(1);
        (0..self.times()).step_by(stride).map(|time| (time + 1).min(self.times() - 1)).collect()
    }
}

/// Returns the value at an index, or the last value if the index is beyond the end.
#[expect(clippy::indexing_slicing, reason = "a schedule has at least two timesteps")]
fn at(list: &[f64], index: usize) -> f64 {
    list[index.min(list.len() - 1)]
}

/// Interpolates linearly between two adjacent values of a list. `place` is clamped to the indices of the list.
fn interpolate(list: &[f64], place: f64) -> f64 {
    let place = place.clamp(0.0, (list.len() - 1) as f64);
    let (low, weight) = (place.floor(), place.fract());
    (1.0 - weight) * at(list, low as usize) + weight * at(list, place.ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-3), "{found} instead of {expected}");
        }
    }

    #[test]
    fn noise_levels_match_k_diffusion() {
        let diffusion = NoiseSchedule::stable_diffusion();
        let (least, most) = diffusion.range();
        assert_close(&[least, most, diffusion.alpha(999)], &[0.029_167_53, 14.614_642, 0.004_660_098_5], 5e-7);
        let uniform = diffusion.sigmas(ScheduleType::Uniform, 5);
        assert_close(&uniform, &[14.61464, 4.08608, 1.61558, 0.69515, 0.02917, 0.0], 2e-4);
        let karras = diffusion.sigmas(ScheduleType::Karras, 5);
        assert_close(&karras, &[14.61464, 4.79654, 1.2741, 0.24795, 0.02917, 0.0], 2e-4);
        let times: Vec<f64> = karras[..4].iter().map(|&sigma| diffusion.time(sigma)).collect();
        assert_close(&times, &[999.0, 785.954, 427.49, 58.892], 1e-5);
    }

    #[test]
    fn time_is_the_inverse_of_sigma() {
        let diffusion = NoiseSchedule::stable_diffusion();
        for time in [0.0, 0.25, 1.0, 500.5, 867.33, 998.9, 999.0] {
            assert!((diffusion.time(diffusion.sigma(time)) - time).abs() < 1e-9);
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
