//! Who is to blame: the first layer that makes what is no number, and the weights that are none.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};

use crate::render::checks::Check;
use crate::render::observer::Observer;
use crate::render::weight_flaws::{WeightFlaw, WeightFlaws};

/// The greatest number of f16.
pub(super) const F16_MAX: f32 = 65_504.0;

/// The beginnings of the keys of the models that a render takes.
pub(super) const MODEL_PREFIXES: [&str; 3] = ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."];

/// Looks for the first layer that makes something that is no number, and for the greatest value.
#[derive(Default)]
pub(super) struct NonFiniteFinder {
    found: Mutex<Found>,
}

/// What it found.
#[derive(Default)]
struct Found {
    broken: Option<String>,
    /// The greatest value beyond f16, and its layer.
    most: Option<(String, f32)>,
}

impl NonFiniteFinder {
    pub(super) fn first(&self) -> String {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.broken.clone().unwrap_or_else(|| "no layer".to_owned())
    }

    pub(super) fn overflow(&self) -> Option<(String, f32)> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).most.clone()
    }
}

impl Observer for NonFiniteFinder {
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

/// The weights that are to blame: not finite, which no checkpoint may have, or nothing but zeros, which only a network
/// that was never trained has.
pub(super) fn weight_checks(flaws: &WeightFlaws) -> Vec<Check> {
    let broken = named(&flaws.keys(WeightFlaw::NotFinite));
    let broken = broken.map(|it| Check::judge("weights finite", false, it, "no NaN, no infinity in the weights"));
    let zeros: Vec<String> = flaws.keys(WeightFlaw::Zero).into_iter().filter(|key| key.ends_with(".weight")).collect();
    let zeros = named(&zeros);
    let zeros = zeros.map(|it| Check::warn("weights not zero", false, it, "weights: these are nothing but zeros"));
    broken.into_iter().chain(zeros).collect()
}

/// The first key of each model, and how many more there are.
fn named(keys: &[String]) -> Option<String> {
    let of = |model: &str| {
        let mut keys = keys.iter().filter(|key| key.starts_with(model));
        let (first, more) = (keys.next()?, keys.count());
        Some(if more > 0 { format!("{first}, and {more} more") } else { first.clone() })
    };
    let models: Vec<String> = MODEL_PREFIXES.into_iter().filter_map(of).collect();
    (!models.is_empty()).then(|| models.join("; "))
}
