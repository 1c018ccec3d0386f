//! Plans a diffusers folder from a checkpoint in LDM names: the tensors with their diffusers keys, and all other files.

use std::collections::BTreeSet;

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::{Metadata, StateDict};

use crate::component::CONTROL_DIFFERENCE;
use crate::detection::{Detection, detect};
use crate::family::{Architecture, Task};
use crate::file_kind::{self, Identity, Model};
use crate::layout::{self, Folder, IMAGE_ENCODER_PREFIX, Layout, shapes, text_keys};
use crate::ledger::{DropReason, Ledger};
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::Parameterization;
use crate::pipeline::Pipeline;
use crate::plan::folder_files::{self, check_prediction, find};
pub use crate::plan::folder_plan::FolderPlan;
use crate::plan::folder_tensors::{Destination, in_order, rename, rename_outputs};
use crate::plan::{Account, Draft, Resolved, as_stored, carry, express, folder_tensors, video, vision};
use crate::{Component, FileKind, quantization};

/// Plans the folder of a checkpoint, or of its only component.
///
/// `own` are the configuration files of the input, if it is a folder; they take precedence over generated ones.
/// `wanted` is what the model predicts, and the constants of its VAE: the configurations record it. Fails if a component is
/// incomplete, if a pipeline would lack a component, if diffusers has no scheduler for what the UNet predicts, or if folders
/// have no place for a tensor, unless `allow_loss` is set.
pub fn to_folder(
    resolved: Resolved,
    own: Vec<(String, Vec<u8>)>,
    wanted: &Parameterization,
    allow_loss: bool,
) -> Result<FolderPlan> {
    if as_stored::is_stored(&resolved.state_dict) {
        return as_stored::plan(resolved, own, wanted, allow_loss);
    }
    if vision::is_alone(&resolved.state_dict) {
        return vision::plan(resolved, own, allow_loss);
    }
    let mut resolved = resolved;
    video::for_folder(&mut resolved)?;
    let Resolved { state_dict, metadata, ledger, mut notices, .. } = resolved;
    let account = Account::of_ledger(&ledger).allow_loss(allow_loss);
    folder_tensors::refuse_quantized(&state_dict)?;
    let own: Vec<_> = own.into_iter().map(quantization::without_config).collect();
    let detection = detect(&state_dict);
    let folders = folders_of(&state_dict, &detection);
    if let Some(key) = state_dict.keys().find(|key| folders.len() > 1 && key.starts_with("embedder.model.")) {
        let found = "the unCLIP pipeline of SD v2 needs an image_encoder, a feature_extractor and an image_normalizer, \
                     which this program cannot make from embedder.*";
        return Err(Error::unsupported(found).in_tensor(key));
    }
    if state_dict.contains(CONTROL_DIFFERENCE) && FileKind::of(&state_dict) == FileKind::ControlNet {
        let found =
            "a ControlNet of differences to the weights of its base model; a folder needs the weights themselves";
        return Err(Error::unsupported(found).in_tensor(CONTROL_DIFFERENCE));
    }
    if is_other(&state_dict, &folders) {
        let found = format!("a folder cannot hold this file: {}", file_kind::describe(&state_dict));
        return Err(Error::unsupported(found));
    }
    let architecture = architecture(&detection, &folders, wanted).map_err(|doubt| {
        let what = file_kind::describe(&state_dict);
        Error::unsupported(format!("a folder cannot hold this file: {what}; {doubt}"))
    })?;
    let layout = Layout::of(architecture);
    let is_bare = is_text_bare(&metadata, &ledger);
    let (tensors, destinations) = rename(layout, &state_dict, &folders, is_bare)?;
    let tensors = in_order(tensors)?;
    for &folder in &folders {
        refuse_incomplete(layout, folder, &tensors)?;
    }
    shapes::check(architecture, &state_dict)?;
    let has_scheduler = folders.len() > 1 && folders.contains(&Folder::Unet);
    let has_own_scheduler = own.iter().any(|(path, _)| path.starts_with("scheduler/"));
    if has_scheduler && !has_own_scheduler {
        notices.extend(check_prediction(wanted)?);
    }
    if folders == [Folder::Vae] && wanted.vae_is_assumed() && own.is_empty() {
        let factor = wanted.vae.scaling_factor;
        let text =
            format!("assumed scaling_factor {factor}, that of SD v1 and v2: a VAE alone does not show its model");
        notices.push(Notice::new(NoticeCode::VaeConstantsAssumed, text));
    }
    // The text encoder may have got the names of SD v2 before.
    let mut inputs = ledger.lines().iter().map(|line| line.input.as_str());
    let is_turbo = architecture == Architecture::Sd2
        && (state_dict.keys().any(|key| key.starts_with(TURBO)) || inputs.any(|key| key.starts_with(TURBO)));
    let task = detection.task.unwrap_or(Task::TextToImage);
    let pipeline = Pipeline { architecture, is_turbo, task, parameterization: wanted };
    if architecture == Architecture::StableVideo
        && has_scheduler
        && own.is_empty()
        && !carry::has(&metadata, Folder::Unet)
    {
        notices.push(video::frames_assumed());
    }
    let files = folder_files::files(&pipeline, &folders, &tensors, own, &metadata)?;
    let not_in_folders =
        destinations.values().filter(|it| matches!(it, Destination::None(DropReason::NotInFolders))).count();
    if not_in_folders > 0 {
        let text = format!("left out {not_in_folders} tensors that folders have no place for");
        notices.push(Notice::new(NoticeCode::NotInFolders, text));
    }
    let mut metadata = metadata;
    metadata.shift_remove(text_keys::FIELD);
    metadata.shift_remove(carry::FIELD);
    let is_recorded = folders.contains(&Folder::Unet);
    notices.extend(express::in_folder(&mut metadata, wanted, has_scheduler, is_recorded));
    let ledger = rename_outputs(ledger, &destinations);
    let resolved = Draft { state_dict: tensors, metadata, ledger, notices }.check(&account)?;
    Ok(FolderPlan { resolved, files })
}

/// Returns whether a diffusers folder can hold the tensor with this key in LDM names. True for unknown keys, so that they
/// are compared.
pub fn has_place(key: &str) -> bool {
    if let Component::Schedule | Component::Ema | Component::TrainingResidue = Component::from_key(key) {
        return false;
    }
    let mapped = Architecture::ALL.iter().flat_map(|&architecture| Layout::of(architecture).to_diffusers(key));
    let in_folder: Vec<bool> = mapped.map(|mapped| mapped.in_folder).collect();
    in_folder.is_empty() || in_folder.contains(&true)
}

/// The prefix of the text encoder of the refiner, and of SD-Turbo among the models of SD v2.
const TURBO: &str = "conditioner.embedders.0.model.";

/// Returns the components that a state dict has tensors of.
fn folders_of(state_dict: &StateDict, detection: &Detection) -> Vec<Folder> {
    let is_v2 = detection.candidates() == [Architecture::Sd2];
    let has = |prefixes: &[&str]| state_dict.keys().any(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    let of_folder = |folder: Folder| match folder {
        Folder::Unet => has(&["model.diffusion_model."]),
        Folder::Vae => state_dict.keys().any(|key| Component::from_key(key) == Component::Vae),
        Folder::TextEncoder => {
            has(&["cond_stage_model.", "conditioner.embedders.0.transformer."]) || is_v2 && has(&[TURBO])
        }
        Folder::TextEncoder2 => has(&["conditioner.embedders.1.model."]) || !is_v2 && has(&[TURBO]),
        Folder::ImageEncoder => has(&[IMAGE_ENCODER_PREFIX]),
        // One beside the UNet that it steers has no place in the folder of a checkpoint.
        Folder::ControlNet => {
            state_dict.keys().all(|key| matches!(Component::from_key(key), Component::ControlNet | Component::Other))
                && has(&["control_model."])
        }
    };
    Folder::ALL.iter().copied().filter(|&folder| of_folder(folder)).collect()
}

/// Returns whether a file is a network that no folder of Stable Diffusion has. Some have an `encoder` and a `decoder` like a VAE.
fn is_other(state_dict: &StateDict, folders: &[Folder]) -> bool {
    let identity = Identity::of(state_dict);
    let is_vae = identity.kind == FileKind::Vae || identity.model == Some(Model::StableVideo);
    match folders {
        _ if identity.kind == FileKind::Unknown => false,
        [] => true,
        [Folder::Vae] => !is_vae,
        _ => false,
    }
}

/// Returns the architecture of a folder, or why it is unknown.
fn architecture(
    detection: &Detection,
    folders: &[Folder],
    wanted: &Parameterization,
) -> std::result::Result<Architecture, String> {
    match (detection.candidates().as_slice(), folders) {
        (&[only], _) => Ok(only),
        // The VAE is the same in all architectures, and so is each text encoder.
        (_, [Folder::Vae]) => Ok(wanted.architecture.unwrap_or(Architecture::Sd1)),
        (&[first, ..], [Folder::TextEncoder | Folder::TextEncoder2]) => Ok(first),
        (_, [Folder::ImageEncoder]) => Ok(Architecture::StableVideo),
        _ => Err(format!("unknown architecture ({})", detection.doubt())),
    }
}

/// Returns whether the first text encoder came from a folder without `text_model.` in its keys. Then the new folder omits
/// it too, so that a round trip gives the same bytes.
fn is_text_bare(metadata: &Metadata, ledger: &Ledger) -> bool {
    let is_noted = metadata.get(text_keys::FIELD).is_some_and(|noted| noted.to_text() == text_keys::BARE);
    is_noted || ledger.lines().iter().any(|line| text_keys::is_bare(&line.input))
}

/// Fails if the component lacks a tensor, which diffusers would initialize randomly. Text encoders may have fewer layers
/// than the published ones.
fn refuse_incomplete(layout: &Layout, folder: Folder, tensors: &StateDict) -> Result<()> {
    let has = |key: &str| find(tensors, folder, key).is_some();
    let layer_of = |key: &str| key.split_once("encoder.layers.")?.1.split('.').next()?.parse::<usize>().ok();
    let layers: BTreeSet<usize> = layout
        .diffusers_schema(folder)
        .filter(|tensor| has(&tensor.key))
        .filter_map(|tensor| layer_of(&tensor.key))
        .collect();
    let dims = |key: &str| find(tensors, folder, key).map(|tensor| tensor.shape().dims().to_vec());
    let is_needed = |key: &str| {
        let has_layer = layer_of(key).is_none_or(|layer| layers.last().is_some_and(|&last| layer <= last));
        has_layer && layout::is_needed(key, &dims)
    };
    let mut missing = layout.diffusers_schema(folder).filter(|tensor| !has(&tensor.key));
    match missing.find(|tensor| is_needed(&tensor.key)) {
        Some(tensor) => {
            let ldm = layout.to_ldm(folder, &tensor.key).map_or(tensor.key.as_str(), |mapped| mapped.key);
            let found = format!("missing; the {} of a folder needs it", folder.name());
            Err(Error::missing(found).in_tensor(ldm))
        }
        None => Ok(()),
    }
}
