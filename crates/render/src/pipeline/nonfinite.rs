//! Finds the first layer that produces NaN or infinite values, and reports weights that are not finite or all zero.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};

use crate::checks::Check;
use crate::observer::Observer;
use crate::weight_flaws::{WeightFlaw, WeightFlaws};

/// The largest finite f16.
pub(super) const F16_MAX: f32 = 65_504.0;

/// The key prefixes of the models that a render uses.
pub(super) const MODEL_PREFIXES: [&str; 4] =
    ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."];

/// An [`Observer`] that finds the first layer with NaN or infinite values, and the largest finite value beyond f16.
#[derive(Default)]
pub(super) struct NonFiniteFinder {
    extremes: Mutex<Extremes>,
}

#[derive(Default)]
struct Extremes {
    first_non_finite: Option<String>,
    /// The layer with the largest finite value beyond f16, and that value.
    beyond_f16: Option<(String, f32)>,
}

impl NonFiniteFinder {
    /// The first layer with NaN or infinite values.
    pub(super) fn first(&self) -> Option<String> {
        self.extremes.lock().unwrap_or_else(PoisonError::into_inner).first_non_finite.clone()
    }

    /// The layer with the largest finite value beyond f16, and that value.
    pub(super) fn overflow(&self) -> Option<(String, f32)> {
        self.extremes.lock().unwrap_or_else(PoisonError::into_inner).beyond_f16.clone()
    }
}

impl Observer for NonFiniteFinder {
    fn seen(&self, name: &str, tensor: &Tensor) {
        let largest = tensor.abs().and_then(|it| it.flatten_all()?.max(0)?.to_dtype(DType::F32)?.to_scalar::<f32>());
        // The maximum ignores NaN; the sum does not.
        let sum = tensor.sum_all().and_then(|it| it.to_dtype(DType::F32)?.to_scalar::<f32>());
        let mut extremes = self.extremes.lock().unwrap_or_else(PoisonError::into_inner);
        // If the device cannot compute the sum or the maximum, report nothing.
        if extremes.first_non_finite.is_none() && sum.is_ok_and(|sum| !sum.is_finite()) {
            extremes.first_non_finite = Some(name.to_owned());
        }
        let Ok(largest) = largest else { return };
        let is_largest = extremes.beyond_f16.as_ref().is_none_or(|(_, before)| largest > *before);
        if largest.is_finite() && largest > F16_MAX && is_largest {
            extremes.beyond_f16 = Some((name.to_owned(), largest));
        }
    }
}

/// Number of fp8 tensors that reach the largest value of their dtype if they were scaled. Casts clamp a few at most.
const SCALED_TENSORS: usize = 10;

/// Checks the loaded weights. Fp8 weights that need scales are a failure. NaN or infinite values are a failure. All-zero tensors, which only untrained networks
/// have, are a warning.
pub(super) fn weight_checks(flaws: &WeightFlaws) -> Vec<Check> {
    let non_finite = summarize(&flaws.keys(WeightFlaw::NotFinite));
    let non_finite =
        non_finite.map(|it| Check::judge("weights finite", false, it, "no NaN or infinite values in the weights"));
    let zeros: Vec<String> = flaws.keys(WeightFlaw::Zero).into_iter().filter(|key| key.ends_with(".weight")).collect();
    let zeros = summarize(&zeros);
    let zeros = zeros.map(|it| Check::warn("weights not zero", false, it, "none: trained weights are not all zero"));
    let full = flaws.keys(WeightFlaw::FullRange);
    let full = (full.len() >= SCALED_TENSORS).then(|| {
        let found =
            format!("{} fp8 tensors reach 448, the largest value: the scales of the weights are missing", full.len());
        Check::judge("weight scales", false, found, "fp8 weights without scales are below 10")
    });
    non_finite.into_iter().chain(zeros).chain(full).collect()
}

/// Lists the first key of each model, and the number of further keys.
fn summarize(keys: &[String]) -> Option<String> {
    let of_model = |model: &str| {
        let mut keys = keys.iter().filter(|key| key.starts_with(model));
        let (first, more) = (keys.next()?, keys.count());
        Some(if more > 0 { format!("{first}, and {more} more") } else { first.clone() })
    };
    let models: Vec<String> = MODEL_PREFIXES.into_iter().filter_map(of_model).collect();
    (!models.is_empty()).then(|| models.join("; "))
}

/// Describes the first layer with NaN or infinite values. `None` means that all layers were finite when the call was
/// repeated.
pub(super) fn first_layer(layer: Option<String>) -> String {
    layer.map_or_else(|| "; repeating the call gave finite values".to_owned(), |layer| format!(", first after {layer}"))
}
