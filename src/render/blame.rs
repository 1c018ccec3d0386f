//! Who is to blame: the first layer that makes what is no number, and the weights that are none.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::render::checks::{Check, Statistics};
use crate::render::observer::Observer;
use crate::render::weights::{tensor, values};
use crate::state_dict::StateDict;

/// The greatest number of f16.
pub(super) const F16_MAX: f32 = 65_504.0;

/// The beginnings of the keys of the models that a render takes.
pub(super) const MODELS: [&str; 3] = ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."];

/// Looks for the first layer that makes something that is no number, and for the greatest value.
#[derive(Default)]
pub(super) struct Seeker {
    found: Mutex<Found>,
}

/// What it found.
#[derive(Default)]
struct Found {
    broken: Option<String>,
    /// The greatest value beyond f16, and its layer.
    most: Option<(String, f32)>,
}

impl Seeker {
    pub(super) fn first(&self) -> String {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.broken.clone().unwrap_or_else(|| "no layer".to_owned())
    }

    pub(super) fn overflow(&self) -> Option<(String, f32)> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).most.clone()
    }
}

impl Observer for Seeker {
    fn seen(&self, name: &str, tensor: &Tensor) {
        let most = tensor.abs().and_then(|it| it.flatten_all()?.max(0)?.to_dtype(DType::F32)?.to_scalar::<f32>());
        // A maximum passes over NaN; a sum does not.
        let sum = tensor.sum_all().and_then(|it| it.to_dtype(DType::F32)?.to_scalar::<f32>());
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.broken.is_none() && !sum.unwrap_or_default().is_finite() {
            found.broken = Some(name.to_owned());
        }
        let most = most.unwrap_or_default();
        if most.is_finite() && most > F16_MAX && found.most.as_ref().is_none_or(|(_, before)| most > *before) {
            found.most = Some((name.to_owned(), most));
        }
    }
}

/// The tensors of a model that are to blame where a check failed: not finite, or nothing but zeros. Reads all of it.
pub(super) fn blame(state_dict: &StateDict) -> Result<Vec<Check>> {
    let mut broken = Vec::new();
    let mut zeros = Vec::new();
    for (key, lazy) in state_dict.iter().filter(|(key, _)| MODELS.iter().any(|model| key.starts_with(model))) {
        if !lazy.dtype().is_float() {
            continue;
        }
        let read = values(&tensor(lazy, DType::F32, &Device::Cpu)?)?;
        if !Statistics::of(&read).is_finite() {
            broken.push(key);
        } else if key.ends_with(".weight") && read.iter().all(|&value| value == 0.0) {
            zeros.push(key);
        }
    }
    let named = |keys: &[&str]| {
        let (first, count) = (keys.first()?, keys.len());
        Some(if count > 1 { format!("{first}, and {} more", count - 1) } else { (*first).to_owned() })
    };
    let broken =
        named(&broken).map(|it| Check::judge("weights finite", false, it, "no NaN, no infinity in the weights"));
    let zeros =
        named(&zeros).map(|it| Check::warn("weights not zero", false, it, "weights: these are nothing but zeros"));
    Ok(broken.into_iter().chain(zeros).collect())
}
