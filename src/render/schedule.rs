//! How much noise there is at each time of the diffusion, and at which of them the samplers look.

/// Times of the diffusion.
const TIMES: usize = 1000;

/// The noise of a model by time: for each of 1000 times, what is left of the image (`alphas_cumprod`).
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    alphas: Vec<f64>,
    log_sigmas: Vec<f64>,
}

/// How the noise levels of the steps are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleType {
    /// Evenly in time.
    Uniform,
    /// By Karras et al. (2022), with rho = 7.
    Karras,
}

impl ScheduleType {
    /// As WebUI calls it.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleType::Uniform => "Uniform",
            ScheduleType::Karras => "Karras",
        }
    }
}

impl NoiseSchedule {
    /// That of Stable NoiseSchedule: betas whose roots are spread evenly from 0.00085 to 0.012.
    pub fn stable_diffusion() -> Self {
        let (first, last) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
        let beta = |time: usize| (first + (last - first) * time as f64 / (TIMES - 1) as f64).powi(2);
        let alphas = (0..TIMES).scan(1.0, |product, time| {
            *product *= 1.0 - beta(time);
            Some(*product as f32)
        });
        Self::from_alphas(alphas)
    }

    /// That of `alphas_cumprod` in a checkpoint, which WebUI takes where there is one.
    pub fn from_alphas(alphas: impl IntoIterator<Item = f32>) -> Self {
        let alphas: Vec<f32> = alphas.into_iter().collect();
        let log_sigma = |alpha: &f32| f64::from(((1.0 - alpha) / alpha).sqrt().ln());
        let log_sigmas = alphas.iter().map(log_sigma).collect();
        NoiseSchedule { alphas: alphas.into_iter().map(f64::from).collect(), log_sigmas }
    }

    /// How many times there are.
    pub fn times(&self) -> usize {
        self.alphas.len()
    }

    /// What is left of the image at a time; of the nearest one where there is none such.
    pub fn alpha(&self, time: usize) -> f64 {
        self.alphas.get(time).or(self.alphas.last()).copied().unwrap_or(1.0)
    }

    /// The noise level at a time, which need not be whole.
    pub fn sigma(&self, time: f64) -> f64 {
        interpolate(&self.log_sigmas, time).exp()
    }

    /// The time of a noise level, not rounded: what the UNet is told.
    pub fn time(&self, sigma: f64) -> f64 {
        let wanted = sigma.ln();
        let above = self.log_sigmas.partition_point(|&log_sigma| log_sigma <= wanted);
        let low = above.saturating_sub(1).min(self.times().saturating_sub(2));
        let at = |index: usize| self.log_sigmas.get(index).copied().unwrap_or_default();
        let weight = ((wanted - at(low)) / (at(low + 1) - at(low))).clamp(0.0, 1.0);
        low as f64 + weight
    }

    /// The least and the greatest noise level.
    fn range(&self) -> (f64, f64) {
        let at = |log_sigma: Option<&f64>| log_sigma.copied().unwrap_or_default().exp();
        (at(self.log_sigmas.first()), at(self.log_sigmas.last()))
    }

    /// The noise levels of `steps` steps: as many, falling, and 0 behind them.
    pub fn sigmas(&self, schedule: ScheduleType, steps: usize) -> Vec<f64> {
        let last = steps.saturating_sub(1).max(1) as f64;
        let level = |step: usize| {
            let way = step as f64 / last;
            match schedule {
                ScheduleType::Uniform => {
                    let most = self.times().saturating_sub(1) as f64;
                    self.sigma(most * (1.0 - way))
                }
                ScheduleType::Karras => {
                    const RHO: f64 = 7.0;
                    let (least, most) = self.range();
                    let (least, most) = (least.powf(1.0 / RHO), most.powf(1.0 / RHO));
                    (most + way * (least - most)).powf(RHO)
                }
            }
        };
        // k-diffusion keeps them in single precision.
        (0..steps).map(|step| f64::from(level(step) as f32)).chain([0.0]).collect()
    }

    /// The times of WebUI's DDIM, rising. It begins with the last of them and never looks at the first, so that of 20
    /// steps 19 are made, and of 30 as many, as 1000 over 30 is rounded.
    pub fn ddim_times(&self, steps: usize) -> Vec<usize> {
        let stride = (self.times() / steps.max(1)).max(1);
        (0..self.times()).step_by(stride).map(|time| (time + 1).min(self.times().saturating_sub(1))).collect()
    }
}

/// Between two neighbours of a list, in a straight line; beyond its ends the last ones.
fn interpolate(list: &[f64], place: f64) -> f64 {
    let place = place.clamp(0.0, list.len().saturating_sub(1) as f64);
    let (low, weight) = (place.floor(), place.fract());
    let at = |index: f64| list.get(index as usize).copied().unwrap_or_default();
    (1.0 - weight) * at(low) + weight * at(place.ceil())
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
    fn the_noise_levels_are_those_of_k_diffusion() {
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
    fn times_and_levels_are_each_others_way_back() {
        let diffusion = NoiseSchedule::stable_diffusion();
        for time in [0.0, 0.25, 1.0, 500.5, 867.33, 998.9, 999.0] {
            assert!((diffusion.time(diffusion.sigma(time)) - time).abs() < 1e-9);
        }
        assert_eq!(diffusion.time(1e9), 999.0);
        assert_eq!(diffusion.time(1e-9), 0.0);
    }

    #[test]
    fn ddim_makes_the_steps_that_webui_makes() {
        let diffusion = NoiseSchedule::stable_diffusion();
        for (steps, times) in [(20, 20), (30, 31), (8, 8), (999, 1000), (1500, 1000)] {
            assert_eq!(diffusion.ddim_times(steps).len(), times);
        }
        assert_eq!(diffusion.ddim_times(20)[..3], [1, 51, 101]);
        assert_eq!(diffusion.ddim_times(1000).last(), Some(&999));
    }
}
