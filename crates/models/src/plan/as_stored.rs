//! Plans a folder whose keys are those of the input, a folder of an architecture without a key layout.

use serde_json::Value;
use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::containers::diffusers::{MODEL_INDEX, SEPARATOR, is_component, parse_json, write_json};
use trinart_ckpt_formats::error::{Error, Result};

use crate::parameterization::{Parameterization, Patch, patch_scheduler};
use crate::plan::folder_plan::FolderPlan;
use crate::plan::{Account, Draft, Resolved};
use crate::quantization;

/// Returns the component that a key of a folder begins with; `None` for LDM names.
fn component(key: &str) -> Option<&str> {
    let (component, _) = key.split_once(SEPARATOR)?;
    is_component(component).then_some(component)
}

/// Returns whether the keys are those that a folder stores.
pub(crate) fn is_stored(state_dict: &StateDict) -> bool {
    state_dict.keys().next().is_some_and(|key| component(key).is_some())
}

/// Plans a folder with the keys and the configurations of the input. See [`to_folder`](super::folders::to_folder).
pub(super) fn plan(
    resolved: Resolved,
    own: Vec<(String, Vec<u8>)>,
    wanted: &Parameterization,
    allow_loss: bool,
) -> Result<FolderPlan> {
    let Resolved { state_dict, metadata, ledger, notices, .. } = resolved;
    let account = Account::of_ledger(&ledger).allow_loss(allow_loss);
    let mut components: Vec<&str> = state_dict.keys().filter_map(component).collect();
    components.dedup();
    let is_pipeline = own.iter().any(|(path, _)| path == MODEL_INDEX);
    let only = match components.as_slice() {
        &[only] if is_pipeline && own.iter().filter(|(path, _)| path.ends_with("/config.json")).count() > 1 => {
            Some(only)
        }
        _ => None,
    };
    let mut files = Vec::new();
    for (path, content) in own.into_iter().map(quantization::without_config) {
        let path = match only {
            None => path,
            Some(only) => match path.strip_prefix(only).and_then(|path| path.strip_prefix(SEPARATOR)) {
                Some(path) => path.to_owned(),
                None => continue,
            },
        };
        files.push((path.clone(), patched(&path, content, wanted)?));
    }
    let mut tensors: Vec<_> = state_dict.iter().collect();
    // As the safetensors library orders them.
    tensors.sort_by_key(|(key, tensor)| {
        let position = components.iter().position(|it| component(key) == Some(*it));
        (position, std::cmp::Reverse(tensor.dtype().size()), *key)
    });
    let mut sorted = StateDict::new();
    for (key, tensor) in tensors {
        sorted.insert(key, tensor.clone())?;
    }
    let resolved = Draft { state_dict: sorted, metadata, ledger, notices }.check(&account)?;
    Ok(FolderPlan { resolved, files })
}

/// Corrects the configuration of the scheduler, if another prediction is wanted.
fn patched(path: &str, content: Vec<u8>, wanted: &Parameterization) -> Result<Vec<u8>> {
    if path != "scheduler/scheduler_config.json" {
        return Ok(content);
    }
    let config: Value = parse_json(&content).map_err(|error| error.in_record(path))?;
    match patch_scheduler(&config, wanted) {
        Patch::None => Ok(content),
        Patch::Fields(config) => Ok(write_json(&config).into_bytes()),
        Patch::Class => {
            let found = format!("the scheduler of this folder cannot be set to {}", wanted.prediction.text());
            Err(Error::unsupported(found).in_record(path))
        }
    }
}
