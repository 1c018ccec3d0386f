//! Which tensors of a model the changes of LoRAs belong to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::candidates::candidates;
use super::recipe::{Changed, Term};
use super::request::Lora;
use crate::checks::Check;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::LazyTensor;

/// The prefixes of a model's keys, and what WebUI's names of modules have in their place.
const PREFIXES: [(&str, &str); 5] = [
    ("model.diffusion_model.", "diffusion_model_"),
    ("cond_stage_model.transformer.text_model.", "transformer_text_model_"),
    // Some early files lack this level.
    ("cond_stage_model.transformer.", "transformer_text_model_"),
    ("cond_stage_model.", ""),
    ("conditioner.embedders.", ""),
];

/// A module of OpenCLIP's text encoders that PyTorch counts as one: three projections in one weight, and an output.
const JOINED: &str = ".in_proj_weight";

/// The projections of such a module; the first three share a weight.
const PROJECTIONS: [&str; 4] = ["_q_proj", "_k_proj", "_v_proj", "_out_proj"];

/// The changes of a model's tensors.
pub(super) struct Targets {
    /// The keys of modules without `.weight`, by WebUI's name.
    modules: HashMap<String, String>,
    is_openclip: bool,
    /// The changes by key.
    terms: IndexMap<String, Vec<Term>>,
    /// The number of rows of tensors that join three weights, by key.
    joined_rows: HashMap<String, usize>,
    has_bias: HashMap<String, bool>,
}

impl Targets {
    /// Returns the modules of a model in LDM names.
    pub(super) fn of(state_dict: &StateDict) -> Self {
        let (mut modules, mut joined_rows, mut has_bias) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (key, tensor) in state_dict.iter() {
            let Some((module, is_joined)) = key
                .strip_suffix(".weight")
                .map(|module| (module, false))
                .or_else(|| key.strip_suffix(JOINED).map(|module| (module, true)))
            else {
                continue;
            };
            let name = PREFIXES.iter().find_map(|(prefix, name)| Some((name, module.strip_prefix(prefix)?)));
            let Some((prefix, rest)) = name else { continue };
            let name = format!("{prefix}{}", rest.replace('.', "_"));
            if is_joined {
                let rows = tensor.shape().dims().first().and_then(|rows| usize::try_from(*rows).ok());
                joined_rows.insert(name.clone(), rows.unwrap_or(0));
            } else {
                has_bias.insert(module.to_owned(), state_dict.contains(&format!("{module}.bias")));
            }
            modules.insert(name, module.to_owned());
        }
        let is_openclip = state_dict.keys().any(|key| key.starts_with("cond_stage_model.model."));
        Targets { modules, is_openclip, terms: IndexMap::new(), joined_rows, has_bias }
    }

    /// Adds the changes of a LoRA. Returns what was applied, and what fits no module.
    ///
    /// Fails if nothing fits.
    pub(super) fn add(&mut self, lora: &Lora) -> Result<Vec<Check>> {
        let (mut changed, mut unknown) = (0_usize, Vec::new());
        let find = |name: &str| candidates(name, self.is_openclip).into_iter().find_map(|wanted| self.find(&wanted));
        let found: Vec<Option<(String, Place)>> = lora.file.changes.keys().map(|name| find(name)).collect();
        let names: HashSet<String> = found.iter().flatten().map(|(wanted, _)| wanted.clone()).collect();
        for ((name, change), found) in lora.file.changes.iter().zip(found) {
            let Some((wanted, place)) = found.filter(|(wanted, _)| self.is_whole(wanted, &names)) else {
                unknown.push(name.as_str());
                continue;
            };
            let is_text_encoder = wanted.get(..wanted.len().min(20)).is_some_and(|begin| begin.contains("transformer"));
            let multiplier = if is_text_encoder { lora.request.text_encoder } else { lora.request.unet };
            let term = Term {
                file: Arc::clone(&lora.file),
                module: name.clone(),
                multiplier,
                rank: lora.request.rank,
                rows: place.rows.clone(),
                is_bias: false,
            };
            if change.changes_bias() {
                if !place.has_bias {
                    let message = "adds a bias to a layer without one, which is not supported";
                    return Err(Error::unsupported(message).in_tensor(name).in_file(lora.file.path()));
                }
                let bias = Term { is_bias: true, rows: None, ..term.clone() };
                self.terms.entry(format!("{}.bias", place.module)).or_default().push(bias);
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

    /// Whether a change of an attention layer of OpenCLIP comes with those of its other projections. WebUI ignores others.
    fn is_whole(&self, wanted: &str, names: &HashSet<String>) -> bool {
        let layer = PROJECTIONS.iter().find_map(|suffix| wanted.strip_suffix(suffix));
        let joined = layer.filter(|layer| self.joined_rows.contains_key(*layer));
        joined.is_none_or(|layer| PROJECTIONS.iter().all(|suffix| names.contains(&format!("{layer}{suffix}"))))
    }

    /// Finds a module by WebUI's name.
    fn find(&self, wanted: &str) -> Option<(String, Place)> {
        if let Some(module) = self.modules.get(wanted).filter(|_| !self.joined_rows.contains_key(wanted)) {
            let has_bias = self.has_bias.get(module).copied().unwrap_or(false);
            let (key, module) = (format!("{module}.weight"), module.clone());
            return Some((wanted.to_owned(), Place { key, module, rows: None, has_bias }));
        }
        let joined = PROJECTIONS.iter().take(3).enumerate();
        let (index, name) =
            joined.into_iter().find_map(|(index, suffix)| Some((index, wanted.strip_suffix(suffix)?)))?;
        let (module, rows) = (self.modules.get(name)?, self.joined_rows.get(name)? / 3);
        let key = format!("{module}{JOINED}");
        let rows = Some(index * rows..(index + 1) * rows);
        Some((wanted.to_owned(), Place { key, module: module.clone(), rows, has_bias: false }))
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

/// Where a change belongs.
struct Place {
    key: String,
    module: String,
    rows: Option<std::ops::Range<usize>>,
    has_bias: bool,
}
