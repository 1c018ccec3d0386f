use super::kind::Sampler;

/// WebUI's options of samplers. Each acts only on the samplers that have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerTuning {
    /// "Eta": the share of new noise in each step, 0 to 1. Default: that of the sampler, 0 for DDIM and 1 for the others.
    pub eta: Option<f64>,
    /// "Sigma churn": how much noise Euler, Heun and DPM2 add before each step. Default: 0.
    pub churn: f64,
    /// "Sigma tmin" and "Sigma tmax": the noise levels between which they add noise. Default: all.
    pub churned: (f64, f64),
    /// "Sigma noise": the factor of new noise. Default: 1.
    pub noise: f64,
    /// "SGM noise multiplier": whether the first latent has the variance of a noisy image, not of noise. Default: false.
    pub sgm_noise_multiplier: bool,
}

impl Default for SamplerTuning {
    fn default() -> Self {
        SamplerTuning { eta: None, churn: 0.0, churned: (0.0, f64::INFINITY), noise: 1.0, sgm_noise_multiplier: false }
    }
}

impl SamplerTuning {
    /// Returns the options that WebUI passes to a sampler. The others have their defaults.
    #[must_use]
    pub fn of(self, sampler: Sampler) -> Self {
        let defaults = SamplerTuning::default();
        let has_churn = matches!(sampler, Sampler::Euler | Sampler::Heun | Sampler::Dpm2);
        let has_noise = has_churn
            || matches!(
                sampler,
                Sampler::DpmFast
                    | Sampler::Dpm2A
                    | Sampler::Dpmpp2sA
                    | Sampler::DpmppSde
                    | Sampler::Dpmpp2mSde
                    | Sampler::Dpmpp2mSdeHeun
                    | Sampler::Dpmpp3mSde
            );
        SamplerTuning {
            eta: self.eta.filter(|_| sampler.default_eta().is_some()),
            churn: if has_churn { self.churn } else { defaults.churn },
            churned: if has_churn { self.churned } else { defaults.churned },
            noise: if has_noise { self.noise } else { defaults.noise },
            sgm_noise_multiplier: self.sgm_noise_multiplier && sampler.has_schedule(),
        }
    }
}
