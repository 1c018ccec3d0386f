//! Plans the folder of an image encoder of CLIP that is alone in a file, in names of transformers or of OpenCLIP. ComfyUI
//! keeps such files for IP-Adapters.

use std::collections::HashMap;

use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::containers::diffusers::{SEPARATOR, write_json};
use trinart_ckpt_formats::error::{Error, Result};

use crate::FileKind;
use crate::layout::{self, Folder, IMAGE_ENCODER_PREFIX, Layout};
use crate::ledger::DropReason;
use crate::notice::{Notice, NoticeCode};
use crate::pipeline;
use crate::plan::folder_plan::FolderPlan;
use crate::plan::folder_tensors::{self, Destination, FolderTensor};
use crate::plan::{Account, Draft, Resolved};

/// How the names of transformers begin, but for the projection.
const MODEL: &str = "vision_model.";

/// The projection of an image encoder in names of transformers. Files of a CLIPVisionModel have none.
const PROJECTION: &str = "visual_projection.weight";

/// The constants that transformers before 4.31 saved.
const POSITION_IDS: &str = "vision_model.embeddings.position_ids";

/// How the names of OpenCLIP begin.
const VISUAL: &str = "visual.";

/// Returns whether a file is an image encoder of CLIP alone.
pub(super) fn is_alone(state_dict: &StateDict) -> bool {
    let is_of_checkpoint = |key: &str| key.starts_with("conditioner.") || key.starts_with("embedder.");
    let is_one = |key: &str| key.starts_with(VISUAL) || named(key).is_some();
    // Most files end the search at their first key. The kind needs all keys.
    state_dict.keys().all(|key| is_one(key) && !is_of_checkpoint(key))
        && FileKind::of(state_dict) == FileKind::ClipVision
}

/// Returns the name of transformers for a key of it, with or without `vision_model.`: newer versions leave that out.
fn named(key: &str) -> Option<String> {
    const BARE: [&str; 4] = ["embeddings.", "pre_layrnorm.", "encoder.layers.", "post_layernorm."];
    match key {
        _ if key == PROJECTION || key.starts_with(MODEL) => Some(key.to_owned()),
        _ if BARE.iter().any(|part| key.starts_with(part)) => Some(format!("{MODEL}{key}")),
        _ => None,
    }
}

/// Plans the folder. `own` are the configurations of the input, if it is a folder.
///
/// Fails if a tensor is missing, unknown, quantized or of another shape than the others tell, and for a ViT-L or a ViT-B in
/// names of OpenCLIP: those of OpenAI and of LAION have other activations, and the same shapes.
pub(super) fn plan(resolved: Resolved, own: Vec<(String, Vec<u8>)>, allow_loss: bool) -> Result<FolderPlan> {
    let Resolved { state_dict, metadata, ledger, mut notices, .. } = resolved;
    let account = Account::of_ledger(&ledger).allow_loss(allow_loss);
    folder_tensors::refuse_quantized(&state_dict)?;
    let is_open = state_dict.keys().all(|key| key.starts_with(VISUAL));
    let (tensors, destinations) = if is_open { from_open_clip(&state_dict)? } else { from_transformers(&state_dict) };
    let tensors = folder_tensors::in_order(tensors)?;
    let dims = |key: &str| {
        let tensor = tensors.get(&format!("{}{SEPARATOR}{key}", Folder::ImageEncoder.name()))?;
        Some(tensor.shape().dims().to_vec())
    };
    let layers = layout::count(|layer| dims(&format!("{MODEL}encoder.layers.{layer}.layer_norm1.weight")).is_some());
    check(&Layout::of_image_encoder(layers, &dims), &tensors, is_open)?;
    let is_small = layers <= SMALL;
    if is_small && is_open {
        let found = "a ViT-L or smaller in names of OpenCLIP: those of OpenAI and of LAION have other activations \
                     (quick_gelu and gelu), which no tensor shows; a folder records one";
        return Err(Error::unsupported(found));
    }
    let mut files = own;
    if files.is_empty() {
        if is_small {
            let text = "assumed quick_gelu, as of OpenAI's ViT-L: no tensor shows it, and that of LAION has gelu \
                        (hidden_act in config.json)";
            notices.push(Notice::new(NoticeCode::ActivationAssumed, text));
        }
        let config = pipeline::image_encoder(&dims, if is_small { "quick_gelu" } else { "gelu" });
        files.push(("config.json".to_owned(), write_json(&config).into_bytes()));
    }
    let ledger = folder_tensors::rename_outputs(ledger, &destinations);
    let resolved = Draft { state_dict: tensors, metadata, ledger, notices }.check(&account)?;
    Ok(FolderPlan { resolved, files })
}

/// The most layers of an image encoder of OpenAI. ViT-H and larger are OpenCLIP's, with another activation.
const SMALL: usize = 24;

type Renamed = (Vec<FolderTensor>, HashMap<String, Destination>);

/// Gives the tensors the names of a folder, from those of transformers.
fn from_transformers(state_dict: &StateDict) -> Renamed {
    let (mut tensors, mut destinations) = (Vec::new(), HashMap::new());
    for (key, tensor) in state_dict.iter() {
        let name = named(key).unwrap_or_else(|| key.to_owned());
        let destination = if name == POSITION_IDS {
            Destination::None(DropReason::RedundantConstant)
        } else {
            let name = format!("{}{SEPARATOR}{name}", Folder::ImageEncoder.name());
            tensors.push((Folder::ImageEncoder, name.clone(), tensor.clone()));
            Destination::Keys(vec![(name, Vec::new())])
        };
        destinations.insert(key.to_owned(), destination);
    }
    (tensors, destinations)
}

/// Gives the tensors the names and the shapes of a folder, from those of OpenCLIP.
fn from_open_clip(state_dict: &StateDict) -> Result<Renamed> {
    let resblock = |layer: &usize| state_dict.contains(&format!("{VISUAL}transformer.resblocks.{layer}.ln_1.weight"));
    let layout = Layout::of_image_encoder(layout::count(resblock), &|_| None);
    let mut full = StateDict::new();
    for (key, tensor) in state_dict.iter() {
        full.insert(format!("{IMAGE_ENCODER_PREFIX}{key}"), tensor.clone())?;
    }
    let (tensors, found) = folder_tensors::rename(&layout, &full, &[Folder::ImageEncoder], false)?;
    let bare = |key: String| key.strip_prefix(IMAGE_ENCODER_PREFIX).unwrap_or(&key).to_owned();
    Ok((tensors, found.into_iter().map(|(key, destination)| (bare(key), destination)).collect()))
}

/// Fails if the image encoder lacks a tensor, has another one, or has one of another shape.
fn check(layout: &Layout, tensors: &StateDict, is_open: bool) -> Result<()> {
    let prefix = format!("{}{SEPARATOR}", Folder::ImageEncoder.name());
    let mut expected: HashMap<&str, &[u64]> = HashMap::new();
    for tensor in layout.diffusers_schema(Folder::ImageEncoder) {
        let is_there = tensors.contains(&format!("{prefix}{}", tensor.key));
        if !is_there && (is_open || tensor.key != PROJECTION) {
            return Err(Error::missing("missing; an image encoder needs it").in_tensor(tensor.key.as_str()));
        }
        expected.insert(&tensor.key, &tensor.dims);
    }
    for (key, tensor) in tensors.iter() {
        let name = key.strip_prefix(&prefix).unwrap_or(key);
        let Some(dims) = expected.get(name) else {
            return Err(Error::mismatch("unknown key: an image encoder of CLIP has no such tensor").in_tensor(name));
        };
        if tensor.shape().dims() != *dims {
            let found = format!("shape {}, expected {dims:?}", tensor.shape());
            return Err(Error::mismatch(found).in_tensor(name));
        }
    }
    Ok(())
}
