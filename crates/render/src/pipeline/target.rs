//! The engine and the dtype of a render, and the f32 fallback for a VAE that overflows half precision.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::model::Model;
use super::nonfinite::{MODEL_PREFIXES, NonFiniteFinder};
use crate::checks::Statistics;
use crate::errors::from_candle;
use crate::kernels::{Accelerator, Kernels};
use crate::networks::Vae;
use crate::observer::{Observer, Trace};
use crate::ops::Engine;
use crate::weight_flaws::WeightFlaws;
use crate::weights::{WeightLoader, values};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, Overflow};
use trinart_ckpt_models::hyperparameters::Hyperparameters;

/// The engine of a render, with the weights for it.
pub(super) struct RenderTarget {
    pub(super) engine: Engine,
    dtype: Dtype,
    /// The checkpoint's weights, unchanged.
    full_precision: Arc<StateDict>,
    /// The weights rounded to `dtype`, on the CPU; kernels round on their device.
    rounded: Arc<StateDict>,
    hyperparameters: Arc<Hyperparameters>,
    /// The flaws of the weights loaded so far.
    pub(super) flaws: WeightFlaws,
}

/// A decoded latent.
pub(super) struct Decoded {
    pub(super) vae: Vae,
    pub(super) image: Tensor,
    /// Describes the overflow of half precision, if there was one.
    pub(super) overflow: Option<String>,
    /// The first layer with NaN or infinite values.
    pub(super) first_non_finite: Option<String>,
}

impl RenderTarget {
    /// Returns a target on `machine`, or on the CPU without one.
    pub(super) fn new(model: &Model, dtype: Dtype, machine: Option<&Arc<dyn Accelerator>>) -> Result<Self> {
        let state_dict = model.state_dict();
        let (full_precision, hyperparameters) = (Arc::clone(state_dict), Arc::clone(model.hyperparameters()));
        let (engine, rounded) = match machine {
            None => (Engine::Candle, rounded(state_dict, dtype)?),
            Some(machine) => (Engine::Kernels(kernels(machine, dtype)?), Arc::clone(state_dict)),
        };
        Ok(RenderTarget { engine, dtype, full_precision, rounded, hyperparameters, flaws: WeightFlaws::default() })
    }

    /// The weights for models that run on the engine.
    pub(super) fn weights(&self) -> WeightLoader {
        self.loader(&self.rounded, &self.engine)
    }

    fn loader(&self, state_dict: &Arc<StateDict>, engine: &Engine) -> WeightLoader {
        let loader = WeightLoader::new(Arc::clone(state_dict), engine).recording_flaws(&self.flaws);
        loader.with_hyperparameters(Arc::clone(&self.hyperparameters))
    }

    /// Loads the VAE on the CPU, with its own weights if they overflow f16. Returns a text about such an overflow.
    fn load_vae_on_cpu(&self) -> Result<(Vae, Option<String>)> {
        match Vae::load(&self.weights()) {
            // Full precision only helps if weights exceed the range of f16.
            Err(error) if self.dtype == Dtype::F16 => {
                let vae = Vae::load(&self.loader(&self.full_precision, &self.engine))?;
                Ok((vae, Some(format!("{error}; decoded with f32 weights"))))
            }
            loaded => Ok((loaded?, None)),
        }
    }

    /// Encodes a picture `[1, 3, height, width]`. Values are f32 on each engine, because VAEs overflow half precision.
    pub(super) fn encode(&self, picture: &Tensor) -> Result<Tensor> {
        let vae = match &self.engine {
            Engine::Candle => self.load_vae_on_cpu()?.0,
            Engine::Kernels(kernels) => {
                let kernels = kernels.in_dtype(DType::F32).map_err(from_candle)?;
                Vae::load(&self.loader(&self.full_precision, &Engine::Kernels(kernels)))?
            }
        };
        Ok(vae.encode(picture)?.0)
    }

    /// Decodes on the CPU, in f32. The largest value after each layer shows whether f16 would overflow.
    pub(super) fn decode_on_cpu(&self, z: &Tensor) -> Result<Decoded> {
        let (mut vae, weights_overflow) = self.load_vae_on_cpu()?;
        let finder = Arc::new(NonFiniteFinder::default());
        vae.observe(Trace::to(Arc::clone(&finder) as Arc<dyn Observer>));
        let image = vae.decode(z)?;
        vae.observe(Trace::default());
        let overflow =
            finder.overflow().map(|(layer, most)| format!("{most:.0} after {layer} overflows f16; decoded in f32"));
        Ok(Decoded { vae, image, overflow: weights_overflow.or(overflow), first_non_finite: finder.first() })
    }

    /// Decodes with kernels in half precision, and again in f32 if that gives NaN or infinite values. If the render's
    /// dtype is f32, still tries f16 first to detect overflows, because other programs default to f16.
    pub(super) fn decode_with_f32_fallback(&self, kernels: &Kernels, z: &Tensor) -> Result<Decoded> {
        let decode = |dtype: DType| {
            let kernels = kernels.in_dtype(dtype).map_err(from_candle)?;
            let vae = Vae::load(&self.loader(&self.full_precision, &Engine::Kernels(kernels)))?;
            let image = vae.decode(z)?;
            let statistics = Statistics::of(&values(&image)?);
            Ok::<_, Error>((Decoded { vae, image, overflow: None, first_non_finite: None }, statistics))
        };
        let (name, half) = if self.dtype == Dtype::BF16 { ("bf16", DType::BF16) } else { ("f16", DType::F16) };
        let (half, half_statistics) = decode(half)?;
        if self.dtype != Dtype::F32 && half_statistics.is_finite() {
            return Ok(half);
        }
        drop(half);
        let (mut full, full_statistics) = decode(DType::F32)?;
        if !full_statistics.is_finite() {
            // Trace in a separate run, because each traced tensor is copied from the device.
            let finder = Arc::new(NonFiniteFinder::default());
            full.vae.observe(Trace::to(Arc::clone(&finder) as Arc<dyn Observer>));
            full.vae.decode(z)?;
            full.vae.observe(Trace::default());
            full.first_non_finite = finder.first();
        } else if !half_statistics.is_finite() {
            let count = half_statistics.nan + half_statistics.infinite;
            full.overflow = Some(format!("{count} values are NaN or infinite in {name}; decoded in f32"));
        }
        Ok(full)
    }
}

fn kernels(machine: &Arc<dyn Accelerator>, dtype: Dtype) -> Result<Kernels> {
    let dtype = match dtype {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        _ => return Err(Error::internal(format!("kernels in {dtype}, which the settings exclude"))),
    };
    Kernels::new(Arc::clone(machine), dtype).map_err(from_candle)
}

/// Rounds the weights of the models to `dtype`. Other tensors, such as the noise schedule, keep theirs, as in WebUI.
fn rounded(state_dict: &Arc<StateDict>, dtype: Dtype) -> Result<Arc<StateDict>> {
    if dtype == Dtype::F32 {
        return Ok(Arc::clone(state_dict));
    }
    let mut rounded = StateDict::new();
    for (key, lazy) in state_dict.iter() {
        let is_weight = lazy.dtype().is_float() && MODEL_PREFIXES.iter().any(|model| key.starts_with(model));
        let tensor = match is_weight {
            true => lazy.clone().cast(dtype, Overflow::Refuse).map_err(|error| error.in_tensor(key))?,
            false => lazy.clone(),
        };
        rounded.insert(key, tensor)?;
    }
    Ok(Arc::new(rounded))
}
