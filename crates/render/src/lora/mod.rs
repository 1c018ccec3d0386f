//! LoRAs: changes of weights that a prompt loads by name, as WebUI applies them.

mod apply;
mod change;
mod file;
mod folder;
mod recipe;
mod request;

use std::path::PathBuf;
use std::sync::Arc;

use crate::checks::Check;
use crate::prompt::split_networks;
use apply::Targets;
use file::LoraFile;
use folder::LoraFolder;
pub(crate) use request::Lora;
use request::Request;
use trinart_ckpt_formats::error::{Error, Hint, Result};
use trinart_ckpt_formats::state_dict::StateDict;

/// Opens the LoRAs of a prompt, without reading their weights.
///
/// Fails for networks of other kinds, for unreadable multipliers, and if the folder has not exactly one LoRA of a name.
pub(crate) fn open(prompt: &str, folder: Option<&PathBuf>) -> Result<Vec<Lora>> {
    let (_, mentions) = split_networks(prompt);
    let requests = mentions.iter().map(Request::read).collect::<Result<Vec<_>>>()?;
    let Some(first) = requests.first() else { return Ok(Vec::new()) };
    let Some(folder) = folder else {
        let message = format!("the prompt loads the LoRA {:?}: name the folder with LoRAs", first.name);
        return Err(Error::usage(message).with_hint(Hint::LoraFolder));
    };
    let folder = LoraFolder::list(folder)?;
    let mut loras: Vec<Lora> = Vec::new();
    for request in &requests {
        // WebUI applies a network that is loaded twice twice, with the last multipliers.
        let last = requests.iter().rfind(|other| other.name == request.name).unwrap_or(request);
        let file = match loras.iter().find(|lora| lora.request.name == request.name) {
            Some(lora) => Arc::clone(&lora.file),
            None => Arc::new(LoraFile::open(&folder.find(&request.name)?)?),
        };
        loras.push(Lora { request: last.clone(), file });
    }
    Ok(loras)
}

/// Returns the state dict with LoRAs applied, in the order of the prompt, and what was applied. The weights are computed
/// when they are read.
///
/// Fails for a LoRA without a weight that fits, or with one that is not supported.
pub(crate) fn apply(state_dict: &Arc<StateDict>, loras: &[Lora]) -> Result<(Arc<StateDict>, Vec<Check>)> {
    if loras.is_empty() {
        return Ok((Arc::clone(state_dict), Vec::new()));
    }
    let mut targets = Targets::of(state_dict);
    let checks = loras.iter().map(|lora| targets.add(lora)).collect::<Result<Vec<_>>>()?;
    Ok((Arc::new(targets.into_state_dict(state_dict)?), checks.into_iter().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lora_needs_a_folder() {
        let error = open("a <lora:b:1>", None).unwrap_err();
        assert!(error.to_string().contains("LoRA \"b\""), "{error}");
        assert!(open("a < b", None).unwrap().is_empty());
    }

    #[test]
    fn each_kind_changes_weights_as_in_webui() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/render/networks");
        let expected = trinart_ckpt_formats::StoredCheckpoint::open(folder.join("kinds.expected.safetensors")).unwrap();
        let mut base = StateDict::new();
        for (key, tensor) in expected.state_dict().iter() {
            if let Some(key) = key.strip_prefix("base ") {
                base.insert(key, tensor.clone()).unwrap();
            }
        }
        let loras = open("<lora:kinds:0.5:0.75>", Some(&folder)).unwrap();
        let (changed, checks) = apply(&Arc::new(base), &loras).unwrap();
        assert_eq!(checks.len(), 1, "{checks:?}");
        let mut compared = 0;
        for (key, tensor) in expected.state_dict().iter().filter(|(key, _)| !key.starts_with("base ")) {
            let values = |tensor: &trinart_ckpt_formats::LazyTensor| -> Vec<f32> {
                tensor.to_bytes().unwrap().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            };
            let (found, expected) = (values(changed.get(key).unwrap()), values(tensor));
            let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 1e-5, "{key}: {largest:e}");
            compared += 1;
        }
        assert_eq!(compared, 15);
    }

    /// Writes a LoRA of rank 1 with these modules, for layers of width 4.
    fn write(path: &std::path::Path, modules: &[&str]) {
        let mut header = serde_json::Map::new();
        for (name, shape) in modules.iter().flat_map(|module| {
            [(format!("{module}.lora_down.weight"), [1, 4]), (format!("{module}.lora_up.weight"), [4, 1])]
        }) {
            let begin = header.len() * 16;
            header
                .insert(name, serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + 16]}));
        }
        let data = [0, 0, 128, 63].repeat(4 * header.len());
        let header = serde_json::to_vec(&header).unwrap();
        std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()).unwrap();
    }

    #[test]
    fn an_attention_layer_of_openclip_needs_all_projections_as_in_webui() {
        use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};
        let attention = "cond_stage_model.model.transformer.resblocks.0.attn";
        let mut base = StateDict::new();
        for (name, rows) in [("in_proj_weight", 12), ("out_proj.weight", 4)] {
            let tensor = LazyTensor::owned(Dtype::F32, Shape::new([rows, 4]).unwrap(), vec![0; 16 * rows as usize]);
            base.insert(format!("{attention}.{name}"), tensor.unwrap()).unwrap();
        }
        let base = Arc::new(base);
        let folder = tempfile::tempdir().unwrap();
        let layer = "lora_te_text_model_encoder_layers_0_self_attn";
        let modules = ["q_proj", "k_proj", "v_proj", "out_proj"].map(|part| format!("{layer}_{part}"));
        let modules = modules.each_ref().map(String::as_str);
        write(&folder.path().join("whole.safetensors"), &modules);
        write(&folder.path().join("part.safetensors"), &modules[..3]);
        let applied = |name: &str| {
            let loras = open(&format!("<lora:{name}:1>"), Some(&folder.path().to_owned())).unwrap();
            apply(&base, &loras).map(|(changed, _)| changed)
        };
        let changed = applied("whole").unwrap();
        assert!(
            changed.iter().all(|(_, tensor)| tensor
                .to_bytes()
                .unwrap()
                .chunks_exact(4)
                .all(|it| it == [0, 0, 128, 63]))
        );
        let error = applied("part").unwrap_err();
        assert!(error.to_string().contains("no change in it fits"), "{error}");
    }
}
