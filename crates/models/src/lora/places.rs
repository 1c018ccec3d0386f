//! Which weights of a model the modules of LoRAs belong to, as WebUI finds them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::candidates::candidates;
use trinart_ckpt_formats::state_dict::StateDict;

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

/// Where a change belongs in a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoraPlace {
    /// The key of the weight.
    pub key: String,
    /// The key of the bias; `None` for a module without one.
    pub bias: Option<String>,
    /// The rows of the weight that change: `in_proj_weight` joins three weights. All rows if `None`.
    pub rows: Option<Range<usize>>,
    /// WebUI's name of the module.
    name: String,
}

impl LoraPlace {
    /// Returns whether WebUI counts the module as one of a text encoder, which has a multiplier of its own.
    pub fn is_in_text_encoder(&self) -> bool {
        self.name.get(..self.name.len().min(20)).is_some_and(|begin| begin.contains("transformer"))
    }
}

/// A module of a model.
#[derive(Debug)]
struct Module {
    /// The key of the weight or the joined weights.
    key: String,
    bias: Option<String>,
    /// The number of rows of a tensor that joins three weights.
    joined_rows: Option<usize>,
}

/// The modules of a model, by the names under which WebUI looks for them.
#[derive(Debug)]
pub struct LoraPlaces {
    modules: HashMap<String, Module>,
    is_openclip: bool,
}

impl LoraPlaces {
    /// Returns the modules of a model in LDM names.
    pub fn of(state_dict: &StateDict) -> Self {
        let mut modules = HashMap::new();
        for (key, tensor) in state_dict.iter() {
            let whole = key.strip_suffix(".weight").map(|module| (module, false));
            let found = whole.or_else(|| key.strip_suffix(JOINED).map(|module| (module, true)));
            let Some((module, is_joined)) = found else { continue };
            let name = PREFIXES.iter().find_map(|(prefix, name)| Some((name, module.strip_prefix(prefix)?)));
            let Some((prefix, rest)) = name else { continue };
            let rows = || tensor.shape().dims().first().and_then(|rows| usize::try_from(*rows).ok()).unwrap_or(0);
            let bias = format!("{module}.bias");
            let module = Module {
                key: key.to_owned(),
                bias: (!is_joined && state_dict.contains(&bias)).then_some(bias),
                joined_rows: is_joined.then(rows),
            };
            modules.insert(format!("{prefix}{}", rest.replace('.', "_")), module);
        }
        let is_openclip = state_dict.keys().any(|key| key.starts_with("cond_stage_model.model."));
        LoraPlaces { modules, is_openclip }
    }

    /// Returns the places of all modules of a LoRA, by kohya's names. `None` for those that WebUI ignores: modules that the
    /// model lacks, and changes of an attention layer of OpenCLIP without those of its other projections.
    pub fn find<'m>(&self, modules: impl Iterator<Item = &'m str>) -> Vec<Option<LoraPlace>> {
        let find = |name| candidates(name, self.is_openclip).into_iter().find_map(|wanted| self.find_named(wanted));
        let mut found: Vec<Option<LoraPlace>> = modules.map(find).collect();
        let names: HashSet<String> = found.iter().flatten().map(|place| place.name.clone()).collect();
        found.iter_mut().for_each(|place| *place = place.take().filter(|place| self.is_whole(&place.name, &names)));
        found
    }

    /// Whether a change of an attention layer of OpenCLIP comes with those of its other projections.
    fn is_whole(&self, wanted: &str, names: &HashSet<String>) -> bool {
        let layer = PROJECTIONS.iter().find_map(|suffix| wanted.strip_suffix(suffix));
        let joined = layer.filter(|layer| self.modules.get(*layer).is_some_and(|module| module.joined_rows.is_some()));
        joined.is_none_or(|layer| PROJECTIONS.iter().all(|suffix| names.contains(&format!("{layer}{suffix}"))))
    }

    /// Finds a module by WebUI's name.
    fn find_named(&self, wanted: String) -> Option<LoraPlace> {
        if let Some(module) = self.modules.get(&wanted).filter(|module| module.joined_rows.is_none()) {
            let (key, bias) = (module.key.clone(), module.bias.clone());
            return Some(LoraPlace { key, bias, rows: None, name: wanted });
        }
        let mut joined = PROJECTIONS.iter().take(3).enumerate();
        let (index, name) = joined.find_map(|(index, suffix)| Some((index, wanted.strip_suffix(suffix)?)))?;
        let module = self.modules.get(name)?;
        let rows = module.joined_rows? / 3;
        let rows = Some(index * rows..(index + 1) * rows);
        Some(LoraPlace { key: module.key.clone(), bias: None, rows, name: wanted })
    }
}
