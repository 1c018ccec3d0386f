//! The changes of a LoRA by module, whatever its names.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::read_small;
use trinart_ckpt_formats::metadata::PyValue;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};
use trinart_ckpt_formats::{Metadata, StateDict, limits};

use super::config;
use super::fields::{ADAPTER_CONFIG, ADAPTER_METADATA, BARE, NETWORK, RECORD, TEXT_MODEL};
use super::modules::{Module, Modules};
use super::names::split_key;
use super::spelling::{LoraNames, Spelling};

use crate::checkpoint::Checkpoint;
use crate::family::Architecture;
use crate::file_kind::{Identity, Model};
use crate::layout::Folder;

/// A tensor of a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    /// The key in the file.
    pub(crate) key: &'a str,
    pub(crate) tensor: &'a LazyTensor,
}

/// The change of a module.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) module: Module,
    /// The tensors by kohya's names, without alpha.
    pub(crate) parts: IndexMap<String, Part<'a>>,
    /// The tensor with alpha, if the file has one for the module.
    pub(crate) stored_alpha: Option<Part<'a>>,
    /// Alpha; `None` for that of the rank.
    pub(crate) alpha: Option<f64>,
}

impl Change<'_> {
    /// Returns the number of ranks. `None` for kinds without ranks.
    pub(crate) fn rank(&self) -> Option<u64> {
        let names = ["lora_down.weight", "hada_w1_b"];
        let part = names.iter().find_map(|name| self.parts.get(*name))?;
        part.tensor.shape().dims().first().copied()
    }

    /// Fails if one of the two matrices of a LoRA is missing.
    fn refuse_half(&self) -> Result<()> {
        let pair = ["lora_down.weight", "lora_up.weight"].map(|name| self.parts.get(name));
        match pair {
            [Some(only), None] | [None, Some(only)] => {
                Err(Error::missing("the module lacks the other matrix of its LoRA").in_tensor(only.key))
            }
            _ => Ok(()),
        }
    }
}

/// A LoRA.
pub(crate) struct Lora<'a> {
    pub(crate) architecture: Architecture,
    pub(crate) modules: Modules,
    /// Whose names the file has; `None` for mixed ones and those of early versions of diffusers.
    pub(crate) names: Option<LoraNames>,
    /// How a file in kohya's names spells them.
    pub(crate) spelling: Spelling,
    /// The text encoders that have their layers without `text_model.`, in this file or in the one that it once was. In
    /// transformers 5.6 and newer, the first one of SDXL has, and the second one has not.
    pub(crate) bare: Vec<Folder>,
    /// In the order of the file.
    pub(crate) changes: Vec<Change<'a>>,
    /// What an earlier conversion recorded.
    pub(crate) record: Map<String, Value>,
    /// The text of the configuration of a PEFT adapter.
    pub(crate) config: Option<String>,
    /// Whether the file is a PEFT adapter without its configuration: then the scale is assumed.
    pub(crate) lacks_config: bool,
}

impl<'a> Lora<'a> {
    /// Reads the names, the scales and the configuration of a LoRA.
    ///
    /// Fails if the file is not a LoRA, or if a name does not belong to a module of SD v1, SD v2 or SDXL.
    pub(crate) fn read(checkpoint: &'a Checkpoint) -> Result<Self> {
        let state_dict = checkpoint.state_dict();
        let identity = Identity::of(state_dict);
        if !identity.kind.is_adapter() {
            let found = format!("expected a LoRA; the file is: {}", identity.to_text());
            return Err(Error::unsupported(found));
        }
        let metadata = checkpoint.metadata();
        let names = LoraNames::of(state_dict.keys());
        let record = object(metadata, RECORD)?.unwrap_or_default();
        let is_second = is_for_second_text_encoder(checkpoint);
        let (architecture, modules) = architecture(state_dict, &identity, is_second)?;
        let mut spelling = Spelling::of(architecture);
        let recorded = record.get(BARE).and_then(Value::as_array).into_iter().flatten();
        let mut bare: Vec<Folder> = recorded.filter_map(|name| Folder::from_name(name.as_str()?)).collect();
        let mut by_module: IndexMap<Module, Change<'a>> = IndexMap::new();
        for (key, tensor) in state_dict.iter() {
            let (kohya, name) = split(key, is_second);
            let (module, is_ldm) = modules.find(&kohya).ok_or_else(|| no_module(&identity).in_tensor(key))?;
            match module.network {
                Folder::Unet if kohya.contains("_blocks_") => spelling.is_ldm = is_ldm,
                Folder::TextEncoder => spelling.is_numbered = kohya.starts_with("lora_te1_"),
                _ => {}
            }
            let is_dotted = matches!(names, Some(LoraNames::Diffusers | LoraNames::Peft));
            let is_bare = is_dotted && module.name.starts_with(TEXT_MODEL) && !key.contains(TEXT_MODEL);
            bare.extend((is_bare && !bare.contains(&module.network)).then_some(module.network));
            let change = by_module.entry(module.clone()).or_insert_with(|| Change {
                module: module.clone(),
                parts: IndexMap::new(),
                stored_alpha: None,
                alpha: None,
            });
            let part = Part { key, tensor };
            let other = match name.as_str() {
                "alpha" => {
                    change.alpha = Some(scalar(tensor).map_err(|error| error.in_tensor(key))?);
                    change.stored_alpha.replace(part)
                }
                _ => change.parts.insert(name, part),
            };
            if let Some(other) = other {
                let found = format!("is for the same tensor of the same module as {}", other.key);
                return Err(Error::conflict(found).in_tensor(key));
            }
        }
        for change in by_module.values() {
            change.refuse_half()?;
        }
        let mut lora = Lora {
            architecture,
            modules,
            names,
            spelling,
            bare,
            changes: by_module.into_values().collect(),
            record,
            config: None,
            lacks_config: false,
        };
        lora.read_scales(checkpoint)?;
        Ok(lora)
    }

    /// Reads alphas from the configuration of PEFT, in the metadata or beside the file.
    fn read_scales(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let of_diffusers = object(checkpoint.metadata(), ADAPTER_METADATA)?;
        let of_peft = match self.names {
            Some(LoraNames::Peft) => beside(checkpoint.path())?,
            _ => None,
        };
        self.lacks_config = self.names == Some(LoraNames::Peft) && of_peft.is_none();
        if of_diffusers.is_none() && of_peft.is_none() {
            return Ok(());
        }
        let mut of_networks: BTreeMap<Folder, Map<String, Value>> = BTreeMap::new();
        for change in &mut self.changes {
            let network = change.module.network;
            let config = match (&of_peft, &of_diffusers) {
                (Some((_, config)), _) => Some(config),
                (None, Some(all)) => Some(&*of_networks.entry(network).or_insert_with(|| of_network(all, network))),
                (None, None) => None,
            };
            let (Some(config), Some(rank)) = (config, change.rank()) else { continue };
            let alpha = config::alpha(config, &change.module.name, rank)?;
            if let (Some(stored), Some(alpha)) = (change.stored_alpha, alpha)
                && change.alpha != Some(alpha)
            {
                let found = format!("differs from the alpha {alpha} of the configuration");
                return Err(Error::conflict(found).in_tensor(stored.key));
            }
            change.alpha = change.alpha.or(alpha);
        }
        self.config = of_peft.map(|(text, _)| text);
        Ok(())
    }
}

/// Returns the configuration of a network in the metadata of diffusers.
pub(crate) fn of_network(all: &Map<String, Value>, network: Folder) -> Map<String, Value> {
    let prefix = format!("{}.", network.name());
    let own = all.iter().filter_map(|(field, value)| Some((field.strip_prefix(&prefix)?.to_owned(), value.clone())));
    own.collect()
}

fn split(key: &str, is_second: bool) -> (String, String) {
    let (module, part) = split_key(key);
    (if is_second { of_second_text_encoder(module) } else { module }, part)
}

/// Returns the name of a module in the second text encoder, from that in the first one.
pub(super) fn of_second_text_encoder(module: String) -> String {
    module.strip_prefix("lora_te_").map(|rest| format!("lora_te2_{rest}")).unwrap_or(module)
}

/// Whether a file has more layers than any first text encoder, which has 24 at most.
fn has_many_layers(state_dict: &StateDict) -> bool {
    let layer = |key: &str| key.split_once(".encoder.layers.")?.1.split('.').next()?.parse::<u64>().ok();
    state_dict.keys().filter_map(layer).any(|layer| layer >= 24)
}

/// Whether a file is a PEFT adapter, which does not name its network, for the second text encoder.
pub(super) fn is_for_second_text_encoder(checkpoint: &Checkpoint) -> bool {
    let state_dict = checkpoint.state_dict();
    if LoraNames::of(state_dict.keys()) != Some(LoraNames::Peft) {
        return false;
    }
    let second = Folder::TextEncoder2.name();
    let record = object(checkpoint.metadata(), RECORD).ok().flatten().unwrap_or_default();
    let is_named = match record.get(NETWORK).and_then(Value::as_str) {
        Some(network) => network == second,
        None => checkpoint.path().parent().and_then(Path::file_name).is_some_and(|folder| folder == second),
    };
    is_named || has_many_layers(state_dict)
}

/// Returns the architecture that has all modules: the one that the file is named for, or the first one.
fn architecture(state_dict: &StateDict, identity: &Identity, is_second: bool) -> Result<(Architecture, Modules)> {
    let named = match identity.model {
        Some(Model::Sd1) => Some(Architecture::Sd1),
        Some(Model::Sd2) => Some(Architecture::Sd2),
        Some(Model::SdxlBase) => Some(Architecture::SdxlBase),
        _ => None,
    };
    let known = [Architecture::Sd1, Architecture::Sd2, Architecture::SdxlBase];
    let is_whole = |modules: &Modules| state_dict.keys().all(|key| modules.find(&split(key, is_second).0).is_some());
    let mut possible = named.into_iter().chain(known).map(|architecture| (architecture, Modules::of(architecture)));
    let found = possible.find(|(_, modules)| is_whole(modules));
    found.map_or_else(
        || {
            let modules = Modules::of(named.unwrap_or(Architecture::Sd1));
            let stray = state_dict.keys().find(|key| modules.find(&split(key, is_second).0).is_none());
            Err(stray.map_or_else(|| no_module(identity), |key| no_module(identity).in_tensor(key)))
        },
        Ok,
    )
}

fn no_module(identity: &Identity) -> Error {
    let known = "this program converts the names of LoRAs for SD v1, SD v2 and SDXL";
    Error::unsupported(format!("is for no module of a known model; {known}, and the file is: {}", identity.to_text()))
}

/// Reads the number in a tensor of one element.
pub(crate) fn scalar(tensor: &LazyTensor) -> Result<f64> {
    let wrong = || Error::unsupported(format!("{} {}, expected one number", tensor.dtype(), tensor.shape()));
    if tensor.shape().elements() != 1 {
        return Err(wrong());
    }
    let value = match tensor.dtype() {
        Dtype::F64 => f64::from_le_bytes(tensor.to_bytes()?.as_slice().try_into().map_err(|_| wrong())?),
        dtype if dtype.is_float() => {
            let bytes = tensor.clone().cast(Dtype::F32, Overflow::Refuse)?.to_bytes()?;
            let single = f32::from_le_bytes(bytes.as_slice().try_into().map_err(|_| wrong())?);
            // The shortest number that rounds to it: 0.1, not 0.10000000149011612.
            single.to_string().parse().unwrap_or(f64::from(single))
        }
        Dtype::I64 => {
            let value = i64::from_le_bytes(tensor.to_bytes()?.as_slice().try_into().map_err(|_| wrong())?);
            // Alphas are small.
            i32::try_from(value).map_err(|_| wrong())?.into()
        }
        Dtype::I32 => i32::from_le_bytes(tensor.to_bytes()?.as_slice().try_into().map_err(|_| wrong())?).into(),
        _ => return Err(wrong()),
    };
    match value.is_finite() {
        true => Ok(value),
        false => Err(Error::unsupported(format!("the value {value}, expected a finite number"))),
    }
}

/// Parses a JSON object in the metadata. `None` without the field.
fn object(metadata: &Metadata, field: &str) -> Result<Option<Map<String, Value>>> {
    let Some(text) = metadata.get(field).map(PyValue::to_text) else { return Ok(None) };
    let parsed = if text.len() as u64 <= limits::CONFIG_FILE { serde_json::from_str(&text).ok() } else { None };
    match parsed {
        Some(Value::Object(object)) => Ok(Some(object)),
        _ => Err(Error::malformed(format!("the metadata field {field} is not a JSON object"))),
    }
}

/// Reads the configuration beside a PEFT adapter. Returns `None` if the file does not exist.
fn beside(path: &Path) -> Result<Option<(String, Map<String, Value>)>> {
    let path = path.with_file_name(ADAPTER_CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8(read_small(&path, "a configuration", limits::CONFIG_FILE)?).ok();
    match text.and_then(|text| Some((serde_json::from_str(&text).ok()?, text))) {
        Some((config, text)) => Ok(Some((text, config))),
        None => Err(Error::malformed("not a JSON object, as the configuration of an adapter is").in_file(path)),
    }
}
