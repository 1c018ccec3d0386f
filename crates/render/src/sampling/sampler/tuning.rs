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
