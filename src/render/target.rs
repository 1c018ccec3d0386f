//! Where a picture is computed, and in what: the models' weights for it, and what becomes of an autoencoder that half
//! precision is too small for.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::render::checks::Statistics;
use crate::render::kernels::{Kernels, Machine};
use crate::render::nonfinite::{MODEL_PREFIXES, NonFiniteFinder};
use crate::render::observer::{Observer, Trace};
use crate::render::ops::Engine;
use crate::render::vae::Vae;
use crate::render::weight_flaws::WeightFlaws;
use crate::render::weights::{WeightLoader, from_candle, values};
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, Overflow};

/// Who computes, with which weights.
pub(super) struct RenderTarget {
    pub(super) engine: Engine,
    dtype: Dtype,
    /// As they are.
    whole: Arc<StateDict>,
    /// Rounded to the type.
    rounded: Arc<StateDict>,
    /// What is wrong with the weights that models asked for.
    pub(super) flaws: WeightFlaws,
}

/// What an autoencoder made of a latent.
pub(super) struct Decoded {
    pub(super) autoencoder: Vae,
    pub(super) image: Tensor,
    /// What was too large for f16, where something was.
    pub(super) overflow: Option<String>,
    /// The first layer that made what is no number.
    pub(super) broken: Option<String>,
}

impl RenderTarget {
    /// The CPU, or a machine.
    pub(super) fn new(whole: &Arc<StateDict>, dtype: Dtype, machine: Option<&Arc<dyn Machine>>) -> Result<Self> {
        let (engine, rounded) = match machine {
            None => (Engine::Candle, rounded(whole, dtype)?),
            // They are rounded where they arrive.
            Some(machine) => (Engine::Kernels(kernels(machine, dtype)?), Arc::clone(whole)),
        };
        Ok(RenderTarget { engine, dtype, whole: Arc::clone(whole), rounded, flaws: WeightFlaws::default() })
    }

    /// The weights, for models of the engine.
    pub(super) fn weights(&self) -> VarBuilder<'static> {
        match &self.engine {
            Engine::Candle => self.noting(&self.rounded).builder(DType::F32, &Device::Cpu),
            Engine::Kernels(kernels) => self.noting(&self.whole).builder_of(kernels),
        }
    }

    fn noting(&self, state_dict: &Arc<StateDict>) -> WeightLoader {
        WeightLoader::new(Arc::clone(state_dict)).noting(&self.flaws)
    }

    /// On the CPU, in f32: the greatest value behind a layer says whether f16 would do.
    pub(super) fn decode_on_cpu(&self, state_dict: &StateDict, z: &Tensor) -> Result<Decoded> {
        let mut weights = None;
        let mut autoencoder = match Vae::load(self.weights(), state_dict, &self.engine) {
            // WeightLoader beyond f16 are all that f32 would change.
            Err(error) if self.dtype == Dtype::F16 => {
                weights = Some(format!("{error}; decoded with its weights in f32"));
                let whole = self.noting(&self.whole).builder(DType::F32, &Device::Cpu);
                Vae::load(whole, state_dict, &self.engine)?
            }
            loaded => loaded?,
        };
        let seeker = Arc::new(NonFiniteFinder::default());
        autoencoder.observe(Trace::to(Arc::clone(&seeker) as Arc<dyn Observer>));
        let image = autoencoder.decode(z)?;
        autoencoder.observe(Trace::default());
        let overflow =
            seeker.overflow().map(|(layer, most)| format!("{most:.0} behind {layer} overflows f16; decoded in f32"));
        Ok(Decoded { autoencoder, image, overflow: weights.or(overflow), broken: Some(seeker.first()) })
    }

    /// With kernels: in f16 where that is the type, or could be the type of another program, and again in f32 where it
    /// was too small.
    pub(super) fn decode_with_f32_fallback(
        &self,
        kernels: &Kernels,
        state_dict: &StateDict,
        z: &Tensor,
    ) -> Result<Decoded> {
        let decode = |dtype: DType| {
            let kernels = kernels.in_dtype(dtype).map_err(from_candle)?;
            let weights = self.noting(&self.whole).builder_of(&kernels);
            let autoencoder = Vae::load(weights, state_dict, &Engine::Kernels(kernels))?;
            let image = autoencoder.decode(z)?;
            let statistics = Statistics::of(&values(&image)?);
            Ok::<_, Error>((Decoded { autoencoder, image, overflow: None, broken: None }, statistics))
        };
        let (name, half) = if self.dtype == Dtype::BF16 { ("bf16", DType::BF16) } else { ("f16", DType::F16) };
        let (half, of_half) = decode(half)?;
        if self.dtype != Dtype::F32 && of_half.is_finite() {
            return Ok(half);
        }
        drop(half);
        let (mut whole, of_whole) = decode(DType::F32)?;
        if !of_whole.is_finite() {
            // Once more, and each layer is looked at: what is looked at has to leave the machine.
            let seeker = Arc::new(NonFiniteFinder::default());
            whole.autoencoder.observe(Trace::to(Arc::clone(&seeker) as Arc<dyn Observer>));
            whole.autoencoder.decode(z)?;
            whole.autoencoder.observe(Trace::default());
            whole.broken = Some(seeker.first());
        } else if !of_half.is_finite() {
            let broken = of_half.nan + of_half.infinite;
            whole.overflow = Some(format!("in {name} {broken} values of the picture are no numbers; decoded in f32"));
        }
        Ok(whole)
    }
}

fn kernels(machine: &Arc<dyn Machine>, dtype: Dtype) -> Result<Kernels> {
    let dtype = match dtype {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        _ => return Err(Error::usage(format!("kernels compute in F32, F16 or BF16, not in {dtype}"))),
    };
    Kernels::new(Arc::clone(machine), dtype).map_err(from_candle)
}

/// The weights of the models rounded to a type. What else there is (the schedule) stays as it is, as in WebUI.
fn rounded(state_dict: &Arc<StateDict>, to: Dtype) -> Result<Arc<StateDict>> {
    if to == Dtype::F32 {
        return Ok(Arc::clone(state_dict));
    }
    let mut rounded = StateDict::new();
    for (key, lazy) in state_dict.iter() {
        let is_weight = lazy.dtype().is_float() && MODEL_PREFIXES.iter().any(|model| key.starts_with(model));
        let tensor = match is_weight {
            true => lazy.clone().cast(to, Overflow::Refuse).map_err(|error| error.in_tensor(key))?,
            false => lazy.clone(),
        };
        rounded.insert(key, tensor)?;
    }
    Ok(Arc::new(rounded))
}
