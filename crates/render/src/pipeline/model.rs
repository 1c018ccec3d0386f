//! A model to render with: its tensors, and what its UNet predicts.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::noise::LATENT_CHANNELS;
use crate::errors::from_candle;
use crate::networks::Family;
use crate::sampling::{Denoiser, NoiseSchedule};
use crate::settings::Settings;
use crate::weights::{tensor, values};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::detection::detect;
use trinart_ckpt_models::family::{Architecture, Prediction};
use trinart_ckpt_models::hyperparameters::Hyperparameters;
use trinart_ckpt_models::parameterization::{Parameterization, VaeConstants, read_tensors};
use trinart_ckpt_models::renderable;

/// A model to render with: tensors in LDM names, what the UNet predicts, and the constants of the VAE.
#[derive(Clone)]
pub struct Model {
    state_dict: Arc<StateDict>,
    parameterization: Parameterization,
    hyperparameters: Arc<Hyperparameters>,
    family: &'static Family,
    refiner: Option<Arc<Model>>,
}

impl Model {
    /// Returns the model of these tensors. Tensors that are marks tell what the UNet predicts.
    ///
    /// Fails for models that cannot be rendered, and if marks cannot be read.
    pub fn new(state_dict: Arc<StateDict>) -> Result<Self> {
        let parameterization = read_tensors(&state_dict, &detect(&state_dict))?;
        Self::with_parameterization(state_dict, &parameterization)
    }

    /// Returns the model of these tensors, with the parameterization of the checkpoint that they come from.
    ///
    /// Fails for models that cannot be rendered.
    pub fn with_parameterization(state_dict: Arc<StateDict>, parameterization: &Parameterization) -> Result<Self> {
        let family = Family::of(&state_dict)?;
        let parameterization = parameterization.for_architecture(family.architecture);
        let model = Model { state_dict, parameterization, hyperparameters: Arc::default(), family, refiner: None };
        model.denoiser()?;
        Ok(model)
    }

    /// Sets what the tensors do not show. By default, it is that of the published models.
    #[must_use]
    pub fn with_hyperparameters(self, hyperparameters: Arc<Hyperparameters>) -> Self {
        Model { hyperparameters, ..self }
    }

    /// Lets another model take over the last part of each render: [`Settings::refiner`] says when. The latent is decoded
    /// with the VAE of this model, not with that of the refiner, which WebUI has loaded by then.
    ///
    /// Fails if the refiner works on other latents, predicts something else or takes an image.
    pub fn with_refiner(self, refiner: Model) -> Result<Self> {
        let fail = |message: String| Err(Error::mismatch(message));
        if self.family.has_vector() != refiner.family.has_vector() {
            let (base, refiner) = (self.architecture().text(), refiner.architecture().text());
            return fail(format!("a refiner of {refiner} cannot finish pictures of {base}: their latents differ"));
        }
        if self.denoiser()? != refiner.denoiser()? || refiner.denoiser()?.is_edm() {
            let [base, refiner] = [&self, &refiner].map(|model| model.parameterization.prediction.text());
            return fail(format!("the refiner predicts {refiner}, the base {base}: expected the same, and not EDM"));
        }
        if refiner.takes_image() {
            return fail("a refiner that also takes an image is not supported".to_owned());
        }
        Ok(Model { refiner: Some(Arc::new(refiner)), ..self })
    }

    /// The model that takes over the last part of each render.
    pub(crate) fn refiner(&self) -> Option<&Model> {
        self.refiner.as_deref()
    }

    /// The tensors, in LDM names.
    pub fn state_dict(&self) -> &Arc<StateDict> {
        &self.state_dict
    }

    /// What the tensors do not show.
    pub fn hyperparameters(&self) -> &Arc<Hyperparameters> {
        &self.hyperparameters
    }

    /// The architecture, by which the checks choose what they expect.
    pub fn architecture(&self) -> Architecture {
        self.family.architecture
    }

    /// What the UNet predicts, and the constants of the VAE.
    pub fn parameterization(&self) -> &Parameterization {
        &self.parameterization
    }

    /// What the UNet predicts, as samplers need it.
    ///
    /// Fails for models that predict something else.
    pub fn denoiser(&self) -> Result<Denoiser> {
        let data = self.parameterization.sigma_data.unwrap_or(1.0);
        match self.parameterization.prediction {
            Prediction::Epsilon | Prediction::Unknown => Ok(Denoiser::Epsilon),
            Prediction::Velocity => Ok(Denoiser::Velocity),
            Prediction::Edm => Ok(Denoiser::Edm { data }),
            Prediction::EdmVelocity => Ok(Denoiser::EdmVelocity { data }),
            other => Err(renderable::unsupported(other)),
        }
    }

    /// Returns the noise schedule: that of EDM, that of a folder's scheduler, the checkpoint's own if it has a valid one, or
    /// the default of Stable Diffusion, with zero terminal SNR if the model is marked so. WebUI does not read the schedule
    /// of SDXL.
    pub(crate) fn noise_schedule(&self, settings: &Settings) -> Result<NoiseSchedule> {
        let Parameterization { sigma_min, sigma_max, zero_terminal_snr, .. } = &self.parameterization;
        let is_sdxl = self.family.has_vector();
        if self.denoiser()?.is_edm() {
            let (least, most) = (sigma_min.unwrap_or_default(), sigma_max.unwrap_or_default());
            return Ok(NoiseSchedule::edm(least, most)?.for_sdxl().with_tuning(settings.webui.levels));
        }
        let own = self.state_dict.get("alphas_cumprod").filter(|own| own.shape().dims() == [1000] && !is_sdxl);
        let own = own.map(|own| tensor(own, DType::F32, &Device::Cpu).and_then(|own| values(&own))).transpose()?;
        let is_valid = |own: &Vec<f32>| {
            own.windows(2).all(|pair| matches!(pair, [a, b] if a > b)) && own.iter().all(|it| *it > 0.0 && *it < 1.0)
        };
        let schedule = match (&self.hyperparameters.betas, own.filter(is_valid)) {
            (Some(betas), _) => NoiseSchedule::from_betas(betas)?,
            (None, Some(own)) => NoiseSchedule::from_alphas(own)?,
            (None, None) => NoiseSchedule::stable_diffusion(),
        };
        let schedule = if settings.downcast_alphas { schedule.downcast()? } else { schedule };
        let schedule = if *zero_terminal_snr || settings.webui.zero_terminal_snr {
            schedule.with_zero_terminal_snr()
        } else {
            schedule
        };
        let schedule = if is_sdxl { schedule.for_sdxl() } else { schedule };
        Ok(schedule.with_tuning(settings.webui.levels))
    }

    /// Whether the UNet also takes an image, as those for inpainting do.
    pub(crate) fn takes_image(&self) -> bool {
        self.image_channels(LATENT_CHANNELS) > 0
    }

    /// The number of channels that the UNet takes besides the latent: 0, or more for models that also take an image.
    pub(crate) fn image_channels(&self, latent_channels: usize) -> usize {
        let conv_in = self.state_dict.get("model.diffusion_model.input_blocks.0.0.weight");
        let channels = conv_in.and_then(|conv_in| conv_in.shape().dims().get(1).copied());
        channels.and_then(|channels| usize::try_from(channels).ok()).unwrap_or(0).saturating_sub(latent_channels)
    }

    /// Converts a latent of the UNet to one of the VAE.
    pub(crate) fn to_vae(&self, latent: &Tensor) -> Result<Tensor> {
        let convert = |constants: &VaeConstants| -> CandleResult<Tensor> {
            let z = match &constants.latents_std {
                Some(std) => latent.broadcast_mul(&channels(std)?)?,
                None => latent.clone(),
            };
            let z = z.affine(1.0 / constants.scaling_factor, constants.shift_factor.unwrap_or(0.0))?;
            match &constants.latents_mean {
                Some(mean) => z.broadcast_add(&channels(mean)?),
                None => Ok(z),
            }
        };
        convert(&self.parameterization.vae).map_err(from_candle)
    }

    /// Converts a latent of the VAE to one of the UNet.
    pub(crate) fn to_unet(&self, z: &Tensor) -> Result<Tensor> {
        let convert = |constants: &VaeConstants| -> CandleResult<Tensor> {
            let z = match &constants.latents_mean {
                Some(mean) => z.broadcast_sub(&channels(mean)?)?,
                None => z.clone(),
            };
            let shift = constants.shift_factor.unwrap_or(0.0) * constants.scaling_factor;
            let latent = z.affine(constants.scaling_factor, -shift)?;
            match &constants.latents_std {
                Some(std) => latent.broadcast_div(&channels(std)?),
                None => Ok(latent),
            }
        };
        convert(&self.parameterization.vae).map_err(from_candle)
    }
}

/// One value for each channel of a latent.
fn channels(list: &[f64]) -> CandleResult<Tensor> {
    let list: Vec<f32> = list.iter().map(|value| *value as f32).collect();
    Tensor::from_vec(list.clone(), (1, list.len(), 1, 1), &Device::Cpu)
}
