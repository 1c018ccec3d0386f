//! Which tensors of a model the changes of LoRAs belong to.

use std::sync::Arc;

use indexmap::IndexMap;

use super::recipe::{Changed, Term};
use super::request::Lora;
use crate::checks::Check;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_models::lora::LoraPlaces;

/// The changes of a model's tensors.
pub(super) struct Targets {
    places: LoraPlaces,
    /// The changes by key.
    terms: IndexMap<String, Vec<Term>>,
}

impl Targets {
    /// Returns the modules of a model in LDM names.
    pub(super) fn of(state_dict: &StateDict) -> Self {
        Targets { places: LoraPlaces::of(state_dict), terms: IndexMap::new() }
    }

    /// Adds the changes of a LoRA. Returns what was applied, and what fits no module.
    ///
    /// Fails if nothing fits.
    pub(super) fn add(&mut self, lora: &Lora) -> Result<Vec<Check>> {
        let (mut changed, mut unknown) = (0_usize, Vec::new());
        let found = self.places.find(lora.file.changes.keys().map(String::as_str));
        for ((name, change), place) in lora.file.changes.iter().zip(found) {
            let Some(place) = place else {
                unknown.push(name.as_str());
                continue;
            };
            let is_text_encoder = place.is_in_text_encoder();
            let multiplier = if is_text_encoder { lora.request.text_encoder } else { lora.request.unet };
            let term = Term {
                file: Arc::clone(&lora.file),
                module: name.clone(),
                multiplier,
                rank: lora.request.rank,
                rows: place.rows,
                is_bias: false,
            };
            if change.changes_bias() {
                let Some(key) = place.bias else {
                    let message = "adds a bias to a layer without one, which is not supported";
                    return Err(Error::unsupported(message).in_tensor(name).in_file(lora.file.path()));
                };
                let bias = Term { is_bias: true, rows: None, ..term.clone() };
                self.terms.entry(key).or_default().push(bias);
            }
            self.terms.entry(place.key).or_default().push(term);
            changed += 1;
        }
        if changed == 0 {
            let message = "no change in it fits the model: it is for another architecture";
            return Err(Error::mismatch(message).in_file(lora.file.path()));
        }
        let (name, hash) = (&lora.request.name, lora.file.hash());
        let mut checks = vec![Check::info("LoRA", format!("{name}, hash {hash}: changes {changed} weights"))];
        if let Some(first) = unknown.first() {
            let found = format!("{name}: {} changes fit no weight of the model, the first is {first}", unknown.len());
            checks.push(Check::warn("LoRA keys", false, found, "every change fits a weight; WebUI ignores others"));
        }
        if lora.file.has_embeddings {
            let found = format!("{name} contains embeddings, which are ignored");
            checks.push(Check::warn("LoRA embeddings", false, found, "no embeddings: WebUI loads them by name"));
        }
        Ok(checks)
    }

    /// Returns the model with all changes.
    pub(super) fn into_state_dict(mut self, base: &StateDict) -> Result<StateDict> {
        let mut state_dict = StateDict::new();
        for (key, tensor) in base.iter() {
            let tensor = match self.terms.shift_remove(key) {
                Some(terms) => LazyTensor::derived(Arc::new(Changed { base: tensor.clone(), terms })),
                None => tensor.clone(),
            };
            state_dict.insert(key, tensor)?;
        }
        Ok(state_dict)
    }
}
