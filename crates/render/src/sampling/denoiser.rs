//! How the image and the noise follow from what a model predicts.

use candle_core::Tensor;

use super::schedule::NoiseSchedule;
use crate::errors::from_candle;
use trinart_ckpt_formats::error::Result;

/// What a model predicts, and how its input is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Denoiser {
    /// The noise (k-diffusion's `CompVisDenoiser`).
    #[default]
    Epsilon,
    /// The velocity (k-diffusion's `CompVisVDenoiser`).
    Velocity,
    /// The output of the preconditioning of Karras et al. (2022), as in Playground 2.5. `data` is the deviation of the
    /// latents.
    Edm {
        /// The standard deviation of the latents.
        data: f64,
    },
    /// The velocity, with the input and the times of EDM, as in CosXL (ComfyUI's `V_PREDICTION_EDM`).
    EdmVelocity {
        /// The standard deviation of the latents.
        data: f64,
    },
}

impl Denoiser {
    /// Whether the noise levels are continuous, so that there are no timesteps.
    pub fn is_edm(self) -> bool {
        matches!(self, Denoiser::Edm { .. } | Denoiser::EdmVelocity { .. })
    }

    /// The deviation of the latents that the model was trained with.
    pub(crate) fn data(self) -> f64 {
        match self {
            Denoiser::Epsilon | Denoiser::Velocity => 1.0,
            Denoiser::Edm { data } | Denoiser::EdmVelocity { data } => data,
        }
    }

    /// The factor of the model's input at a noise level.
    pub(crate) fn input_scale(self, sigma: f64) -> f64 {
        1.0 / (sigma * sigma + self.data() * self.data()).sqrt()
    }

    /// The time that the model gets at a noise level.
    pub(crate) fn time(self, sigma: f64, schedule: &NoiseSchedule) -> f64 {
        match self {
            Denoiser::Epsilon | Denoiser::Velocity => schedule.time(sigma),
            Denoiser::Edm { .. } | Denoiser::EdmVelocity { .. } => libm::log(sigma) / 4.0,
        }
    }

    /// The noise level at which the model gets a time: the inverse of [`Denoiser::time`].
    pub(crate) fn sigma(self, time: f64, schedule: &NoiseSchedule) -> f64 {
        match self {
            Denoiser::Epsilon | Denoiser::Velocity => schedule.sigma(time),
            Denoiser::Edm { .. } | Denoiser::EdmVelocity { .. } => libm::exp(4.0 * time),
        }
    }

    /// The factors of a latent and of the prediction for it, whose sum is the image.
    pub(crate) fn image_factors(self, sigma: f64) -> (f64, f64) {
        let data = self.data();
        let total = sigma * sigma + data * data;
        match self {
            Denoiser::Epsilon => (1.0, -sigma),
            Denoiser::Velocity | Denoiser::EdmVelocity { .. } => (data * data / total, -sigma * data / total.sqrt()),
            Denoiser::Edm { .. } => (data * data / total, sigma * data / total.sqrt()),
        }
    }

    /// Returns the noise in a latent of unit variance from the prediction at a timestep.
    pub(crate) fn noise(self, x: &Tensor, predicted: &Tensor, time: f64, schedule: &NoiseSchedule) -> Result<Tensor> {
        match self {
            Denoiser::Velocity => {
                // As in WebUI, fractional times are rounded down.
                let alpha = schedule.alpha(time.max(0.0) as usize);
                let noise = || predicted.affine(alpha.sqrt(), 0.0)? + x.affine((1.0 - alpha).sqrt(), 0.0)?;
                noise().map_err(from_candle)
            }
            _ => Ok(predicted.clone()),
        }
    }
}
