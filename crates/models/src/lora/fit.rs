//! Whether the modules and shapes of a LoRA fit a model.

use std::collections::BTreeMap;

use serde::Serialize;
use trinart_ckpt_formats::error::{Error, Result};

use super::adapted::{AdaptedNetwork, Place};
use super::base_model::{BaseModel, Found};
use super::extent::{self, Extent};
use super::parts::{Parts, modules};
use super::spelling::LoraNames;
use crate::checkpoint::Checkpoint;
use crate::claimed_family::ClaimedFamily;
use crate::file_kind::{Identity, Model};

/// How a LoRA fits a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoraFit {
    /// The path of the model.
    pub model: String,
    /// Whether all modules fit.
    pub fits: bool,
    /// The verdict in words.
    pub verdict: String,
    /// The networks that the LoRA changes.
    pub networks: Vec<NetworkFit>,
    /// The modules that the model lacks, in kohya's spelling.
    pub missing: Vec<String>,
    /// The modules that have another shape in the model.
    pub mismatched: Vec<ShapeMismatch>,
    /// The modules that fit, and that WebUI ignores nevertheless, because it does not look for their names.
    pub ignored_by_webui: Vec<String>,
}

/// How the changes of a network fit a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NetworkFit {
    /// The network.
    pub network: AdaptedNetwork,
    /// The number of modules that the LoRA changes.
    pub modules: usize,
    /// The number of those that fit.
    pub fit: usize,
    /// The number of those that the model lacks.
    pub missing: usize,
    /// The number of those that have another shape in the model.
    pub mismatched: usize,
    /// Whether the model has the network; `None` if its keys do not tell.
    pub is_in_model: Option<bool>,
}

/// A module that has another shape in the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ShapeMismatch {
    /// The module, in kohya's spelling.
    pub module: String,
    /// The key of the weight or the bias in the model.
    pub key: String,
    /// The dimensions of the change; for OFT, BOFT and IA3 the number of rows or columns alone.
    pub lora_shape: Vec<u64>,
    /// The dimensions in the model; `None` for a bias that it lacks.
    pub model_shape: Option<Vec<u64>>,
}

impl LoraFit {
    /// Checks a LoRA against a model. Reads no tensor.
    ///
    /// Fails if the file is not a LoRA.
    pub fn of(lora: &Checkpoint, model: &BaseModel) -> Result<Self> {
        let identity = Identity::of(lora.state_dict());
        if !identity.kind.is_adapter() {
            let found = format!("expected a LoRA to check against a model; the file is: {}", identity.to_text());
            return Err(Error::unsupported(found).in_file(lora.path()));
        }
        let names = LoraNames::of(lora.state_dict().keys());
        let (modules, _) = modules(lora);
        let places: Vec<Place<'_>> = modules.keys().map(|name| Place::of(name, identity.model, names)).collect();
        let found = model.find(modules.keys().map(String::as_str).zip(&places));
        let mut networks: BTreeMap<AdaptedNetwork, NetworkFit> = BTreeMap::new();
        let (mut missing, mut mismatched, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
        for (((name, parts), place), found) in modules.iter().zip(&places).zip(found) {
            let network = networks.entry(place.network).or_insert_with(|| NetworkFit::new(place.network, model));
            network.modules += 1;
            let Some(found) = found else {
                network.missing += 1;
                missing.push(name.clone());
                continue;
            };
            if let Some(mismatch) = mismatch(name, parts, &found) {
                network.mismatched += 1;
                mismatched.push(mismatch);
                continue;
            }
            network.fit += 1;
            ignored.extend((!found.is_in_webui).then(|| name.clone()));
        }
        // WebUI knows the names of Stable Diffusion alone.
        if model.architecture.is_none() {
            ignored.clear();
        }
        let all = modules.len();
        let fit = all - missing.len() - mismatched.len();
        Ok(LoraFit {
            model: model.path.clone(),
            fits: fit == all,
            verdict: verdict(fit, all, identity.model, model),
            networks: networks.into_values().collect(),
            missing,
            mismatched,
            ignored_by_webui: ignored,
        })
    }
}

impl NetworkFit {
    fn new(network: AdaptedNetwork, model: &BaseModel) -> Self {
        let is_in_model = model.has(network);
        NetworkFit { network, modules: 0, fit: 0, missing: 0, mismatched: 0, is_in_model }
    }
}

/// Returns how the shape of a change differs from that of its module.
fn mismatch(module: &str, parts: &Parts<'_>, found: &Found) -> Option<ShapeMismatch> {
    let mismatch = |key: &str, lora: Vec<u64>, model: Option<Vec<u64>>| {
        Some(ShapeMismatch { module: module.to_owned(), key: key.to_owned(), lora_shape: lora, model_shape: model })
    };
    if let Some(dims) = &found.dims {
        if let Some(extent) = Extent::of(parts).filter(|extent| !extent.fits(dims)) {
            return mismatch(&found.key, extent.to_dims(), Some(dims.clone()));
        }
        if let Some(magnitudes) = extent::wrong_magnitudes(parts, dims) {
            return mismatch(&found.key, magnitudes.to_vec(), Some(dims.clone()));
        }
    }
    let bias = extent::of_bias(parts)?;
    match &found.bias {
        None => mismatch(&format!("{}bias", found.key.trim_end_matches("weight")), bias.to_vec(), None),
        Some((key, dims)) if dims != bias => mismatch(key, bias.to_vec(), Some(dims.clone())),
        Some(_) => None,
    }
}

/// `fits except for 3 of 27 modules`.
fn verdict(fit: usize, all: usize, made_for: Option<Model>, model: &BaseModel) -> String {
    if fit == all {
        return "fits".to_owned();
    }
    if let (Some(made_for), Some(found)) = (made_for, model.identity.model)
        && !ClaimedFamily::can_be_same(made_for, found)
    {
        return format!("does not fit: made for {}, the model is {}", made_for.text(), found.text());
    }
    match (fit, model.text()) {
        (0, Some(text)) => format!("does not fit: {text} has none of its {all} modules in these shapes"),
        (0, None) => format!("does not fit: the model has none of its {all} modules in these shapes"),
        _ => format!("fits except for {} of {all} modules", all - fit),
    }
}
