//! The configurations of diffusers and PEFT for a LoRA.

use indexmap::IndexMap;
use serde_json::{Map, Value};
use trinart_ckpt_formats::error::{Error, Result};

use crate::layout::Folder;
use crate::lora::{self, Adapter, DORA_SCALE, Lora, MAGNITUDE, Scale};

/// Returns the kind of the adapter of a network, and the scale of each module.
fn adapter(lora: &Lora<'_>, network: Folder) -> Result<(Adapter, Vec<Scale>)> {
    let changes = lora.changes.iter().filter(|change| change.module.network == network);
    let mut scales = Vec::new();
    let mut kinds: IndexMap<[bool; 4], &str> = IndexMap::new();
    for change in changes {
        let key = change.parts.values().next().map_or("", |part| part.key);
        let rank = change.rank().ok_or_else(|| Error::missing("the module has no lora_down.weight").in_tensor(key))?;
        let alpha = change.alpha.unwrap_or(rank as f64);
        scales.push(Scale { module: change.module.name.clone(), rank, alpha });
        let has = |name: &str| change.parts.contains_key(name);
        let is_dora = has(DORA_SCALE) || has(MAGNITUDE);
        kinds.entry([has("hada_w1_a"), is_dora, has("lora_up.bias"), has("hada_t1")]).or_insert(key);
    }
    // The order of the modules in a file depends on their names there.
    scales.sort_by(|a: &Scale, b: &Scale| a.module.cmp(&b.module));
    // Only convolutions have a core.
    let kinds_of = |index: usize| kinds.keys().filter_map(move |kind| kind.get(index).copied());
    let mixed = (0..3).find(|&index| kinds_of(index).any(|is| is) && kinds_of(index).any(|is| !is));
    if let (Some(_), Some((_, key))) = (mixed, kinds.get_index(1)) {
        let found = "is of another kind than the changes before; an adapter of PEFT has one kind for all modules";
        return Err(Error::unsupported(found).in_tensor(*key));
    }
    let any = |index: usize| kinds_of(index).any(|is| is);
    let adapter = match any(0) {
        true => Adapter::Loha { has_core: any(3) },
        false => Adapter::Lora { is_dora: any(1), has_bias: any(2) },
    };
    Ok((adapter, scales))
}

/// Returns the text of the configurations of all networks, as diffusers has them in its metadata.
pub(super) fn metadata(lora: &Lora<'_>, networks: &[Folder]) -> Result<String> {
    let mut all = Map::new();
    for &network in networks {
        let (adapter, scales) = adapter(lora, network)?;
        let mut config = lora::to_config(adapter, &scales);
        config.shift_remove("peft_type");
        all.extend(config.into_iter().map(|(field, value)| (format!("{}.{field}", network.name()), value)));
    }
    Ok(Value::Object(all).to_string())
}

/// Returns the text of the configuration of a network, as PEFT has it in a file.
pub(super) fn config(lora: &Lora<'_>, network: Folder) -> Result<String> {
    let (adapter, scales) = adapter(lora, network)?;
    let mut config = lora::to_config(adapter, &scales);
    // PEFT's own configurations have these fields for every adapter.
    for field in ["auto_mapping", "base_model_name_or_path", "revision", "task_type"] {
        config.insert(field.to_owned(), Value::Null);
    }
    config.insert("inference_mode".to_owned(), true.into());
    config.sort_keys();
    Ok(format!("{:#}\n", Value::Object(config)))
}

/// Returns whether a text in the metadata is what this program writes for the LoRA.
pub(super) fn is_own_metadata(lora: &Lora<'_>, networks: &[Folder], text: &str) -> bool {
    metadata(lora, networks).is_ok_and(|own| own == text)
}

/// Returns whether a configuration is what this program writes for the LoRA.
pub(super) fn is_own_config(lora: &Lora<'_>, networks: &[Folder], text: &str) -> bool {
    networks.iter().any(|&network| config(lora, network).is_ok_and(|own| own == text))
}

/// Returns whether a text in the metadata has the scales of all networks.
pub(super) fn agrees(lora: &Lora<'_>, networks: &[Folder], text: &str) -> bool {
    let has_all = |all| networks.iter().all(|&network| has_scales(lora, network, &lora::of_network(&all, network)));
    object(text).is_some_and(has_all)
}

/// Returns whether a configuration has the scales of a network.
pub(super) fn config_agrees(lora: &Lora<'_>, network: Folder, text: &str) -> bool {
    object(text).is_some_and(|config| has_scales(lora, network, &config))
}

fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn has_scales(lora: &Lora<'_>, network: Folder, config: &Map<String, Value>) -> bool {
    adapter(lora, network).is_ok_and(|(_, scales)| lora::agrees(config, &scales))
}
