//! A checkpoint in LDM names as a diffusers folder: every tensor under its key there, and the files beside them.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};
use crate::format::diffusers::{MODEL_INDEX, SEPARATOR};
use crate::metadata::{Metadata, PyValue};
use crate::model::architecture::{Architecture, Detection, Prediction, Task, detect};
use crate::model::layout::{self, Folder, Layout, Mapped};
use crate::model::pipeline::Pipeline;
use crate::model::{Component, autoencoder, position_ids};
use crate::plan::{Change, Ledger, Line, Origin, Outcome, Resolved};
use crate::state_dict::StateDict;
use crate::tensor::{LazyTensor, Shape};

/// The key that marks models whose schedule ends in pure noise.
const ZERO_TERMINAL_SNR_MARK: &str = "ztsnr";

/// A folder as it will be: the tensors, with keys as in `unet/conv_in.weight`, and the other files.
#[derive(Debug, Clone)]
pub struct FolderPlan {
    /// The tensors, their account and the metadata.
    pub resolved: Resolved,
    /// The other files: their paths in the folder, and their texts.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Plans the folder of a checkpoint, or of the one component that it has.
///
/// `own` are the files that the input brings, itself a folder; they are taken before those that are made. A component
/// that is incomplete, and components without the others that a picture needs, are errors.
pub fn to_folder(
    resolved: Resolved,
    own: Vec<(String, Vec<u8>)>,
    prediction: Option<Prediction>,
) -> Result<FolderPlan> {
    let Resolved { state_dict, metadata, ledger, mut notices } = resolved;
    let detection = detect(&state_dict);
    let folders = folders_of(&state_dict);
    let architecture = architecture(&detection, &folders)?;
    let layout = Layout::of(architecture);
    let is_bare = is_text_bare(&metadata, &ledger);
    let (tensors, fates) = rename(layout, &state_dict, is_bare)?;
    let tensors = in_order(tensors)?;
    for &folder in &folders {
        refuse_incomplete(layout, folder, &tensors)?;
    }
    let guessed = guess(architecture, &detection, &metadata);
    let is_asked = folders.contains(&Folder::Unet) && !own.iter().any(|(path, _)| path.starts_with("scheduler/"));
    if guessed == Prediction::Unknown && prediction.is_none() && is_asked {
        notices.push("nothing in it tells what SD v2 predicts; v-prediction is assumed; see --prediction".into());
    }
    let pipeline = Pipeline {
        architecture,
        task: detection.task.unwrap_or(Task::TextToImage),
        prediction: prediction.unwrap_or(guessed),
        zero_terminal_snr: state_dict.contains(ZERO_TERMINAL_SNR_MARK),
    };
    let files = files(&pipeline, &folders, &tensors, own)?;
    let homeless = fates.values().filter(|fate| matches!(fate, Fate::Homeless(HOMELESS))).count();
    if homeless > 0 {
        notices.push(format!("{homeless} tensors have no place in a folder and are left out; --dry-run lists them"));
    }
    let mut metadata = metadata;
    metadata.shift_remove(TEXT_KEYS);
    let ledger = rename_outputs(ledger, &fates);
    Ok(FolderPlan { resolved: Resolved { state_dict: tensors, metadata, ledger, notices }, files })
}

/// Why a key that no layout knows is left out.
const HOMELESS: &str = "a folder has no place for it";

/// A tensor of a folder: its component, its key, itself.
type Placed = (Folder, String, LazyTensor);

/// What becomes of a key in LDM names.
enum Fate {
    /// It goes there, after these changes.
    Placed(Vec<(String, Vec<Change>)>),
    /// It goes nowhere, for this reason.
    Homeless(&'static str),
}

/// The components whose tensors a state dict has.
fn folders_of(state_dict: &StateDict) -> Vec<Folder> {
    let has = |prefixes: &[&str]| state_dict.keys().any(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    let of_folder = |folder: Folder| match folder {
        Folder::Unet => has(&["model.diffusion_model."]),
        Folder::Vae => state_dict.keys().any(|key| Component::of_key(key) == Component::Autoencoder),
        Folder::TextEncoder => has(&["cond_stage_model.", "conditioner.embedders.0.transformer."]),
        Folder::TextEncoder2 => has(&["conditioner.embedders.1.model.", "conditioner.embedders.0.model."]),
    };
    Folder::ALL.iter().copied().filter(|&folder| of_folder(folder)).collect()
}

fn architecture(detection: &Detection, folders: &[Folder]) -> Result<Architecture> {
    match (detection.candidates().as_slice(), folders) {
        (&[only], _) => Ok(only),
        // The autoencoder is the same in all of them, and so is each of the text encoders.
        (_, [Folder::Vae]) => Ok(Architecture::Sd1),
        (&[first, ..], [Folder::TextEncoder | Folder::TextEncoder2]) => Ok(first),
        _ => Err(Error::unsupported(
            "of no known architecture, so no folder can be made of it; inspect shows what was seen",
        )),
    }
}

/// Whether the text encoder of SD v1, or the first one of SDXL, came from a folder without `text_model.` in its keys:
/// it gets them back, so that a folder that was taken apart and put together again has the same bytes.
fn is_text_bare(metadata: &Metadata, ledger: &Ledger) -> bool {
    let is_noted = metadata.get(TEXT_KEYS).is_some_and(|noted| noted.to_text() == TEXT_KEYS_BARE);
    is_noted || ledger.lines().iter().any(|line| is_bare_text_key(&line.input))
}

/// Whether this is a key of a text encoder in a folder, as transformers 5.6 and newer spell it.
pub(super) fn is_bare_text_key(key: &str) -> bool {
    key.split_once(SEPARATOR).is_some_and(|(folder, name)| {
        folder == Folder::TextEncoder.name() && ["embeddings.", "encoder."].iter().any(|it| name.starts_with(it))
    })
}

/// The metadata field of a single file that notes how the keys of its text encoder were spelled in the folder it came
/// from, and what it says where they were spelled without `text_model.`.
pub(super) const TEXT_KEYS: &str = "trinart_ckpt.text_encoder_keys";
pub(super) const TEXT_KEYS_BARE: &str = "without text_model.";

fn rename(layout: &Layout, state_dict: &StateDict, is_bare: bool) -> Result<(Vec<Placed>, HashMap<String, Fate>)> {
    let mut tensors = Vec::new();
    let mut fates = HashMap::new();
    for (key, tensor) in state_dict.iter() {
        let canonical = autoencoder::canonical_key(key);
        let places: Vec<Mapped<'_>> = layout.to_diffusers(&canonical).collect();
        let fate = match places.as_slice() {
            [] => Fate::Homeless(reason(key)),
            [first, ..] if !first.in_folder => Fate::Homeless(reason(key)),
            places => {
                let mut written = Vec::new();
                for place in places {
                    let (moved, change) = fit(place, tensor).map_err(|error| error.in_tensor(key))?;
                    let key = match place.key.strip_prefix("text_model.") {
                        Some(bare) if is_bare && place.folder == Folder::TextEncoder => bare,
                        _ => place.key,
                    };
                    let name = format!("{}{SEPARATOR}{key}", place.folder.name());
                    tensors.push((place.folder, name.clone(), moved));
                    written.push((name, change.into_iter().collect()));
                }
                Fate::Placed(written)
            }
        };
        fates.insert(key.to_owned(), fate);
    }
    Ok((tensors, fates))
}

/// Why a key has no place in a folder.
fn reason(key: &str) -> &'static str {
    match Component::of_key(key) {
        Component::Ema => "average of the weights; a folder has no place for it",
        Component::Schedule => "schedule buffer; a folder's scheduler computes it",
        Component::TrainingResidue => "training residue; a folder has no place for it",
        Component::TextEncoder if position_ids::is_key(key) => "says nothing: a constant",
        Component::TextEncoder => "folders do not have it, and pictures do not need it",
        _ => HOMELESS,
    }
}

/// A tensor as its place in a folder has it.
fn fit(place: &Mapped<'_>, tensor: &LazyTensor) -> Result<(LazyTensor, Option<Change>)> {
    let dims = tensor.shape().dims();
    let fitted = place.fit(dims).ok_or_else(|| {
        Error::mismatch(format!("shape {} does not fit its place, which has {:?}", tensor.shape(), place.dims))
    })?;
    let is_reshaped = fitted != dims;
    match place.change {
        layout::Change::None => {
            let reshaped = tensor.clone().reshape(Shape::new(fitted)?)?;
            Ok((reshaped, is_reshaped.then_some(Change::Reshaped)))
        }
        layout::Change::Transpose => Ok((tensor.clone().transpose()?, Some(Change::Transposed))),
        layout::Change::Split(third) => {
            let rows = fitted.first().copied().unwrap_or_default();
            Ok((tensor.clone().rows(third.index() * rows, rows)?, Some(Change::Split)))
        }
        layout::Change::Join(_) => Err(Error::unsupported("a part of a tensor of the folder")),
    }
}

/// Components in their order, in each the order of the safetensors library: so that its files and ours are the same.
fn in_order(mut tensors: Vec<Placed>) -> Result<StateDict> {
    tensors.sort_by(|(folder, key, tensor), (other_folder, other_key, other)| {
        let by_size = other.dtype().size().cmp(&tensor.dtype().size());
        folder.cmp(other_folder).then(by_size).then_with(|| key.cmp(other_key))
    });
    let mut state_dict = StateDict::new();
    for (_, key, tensor) in tensors {
        state_dict.insert(key, tensor)?;
    }
    Ok(state_dict)
}

/// A tensor of a folder by its key in its component, with or without `text_model.`.
fn find<'a>(tensors: &'a StateDict, folder: Folder, key: &str) -> Option<&'a LazyTensor> {
    let at = |key: &str| tensors.get(&format!("{}{SEPARATOR}{key}", folder.name()));
    at(key).or_else(|| at(key.strip_prefix("text_model.")?))
}

/// An error if diffusers would make up a tensor of this component. Text encoders may have fewer layers than published.
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
            let found = format!("missing, and the {} of a folder needs it", folder.name());
            Err(Error::missing(found).in_tensor(ldm))
        }
        None => Ok(()),
    }
}

/// What a model predicts whose user did not say; unknown for SD v2 without a mark.
fn guess(architecture: Architecture, detection: &Detection, metadata: &Metadata) -> Prediction {
    let says = metadata.get("modelspec.prediction_type").map(PyValue::to_text).unwrap_or_default();
    match architecture {
        _ if detection.prediction == Prediction::Velocity || says.starts_with('v') => Prediction::Velocity,
        Architecture::Sd2 if !says.starts_with("eps") => Prediction::Unknown,
        _ => Prediction::Epsilon,
    }
}

fn files(
    pipeline: &Pipeline,
    folders: &[Folder],
    tensors: &StateDict,
    own: Vec<(String, Vec<u8>)>,
) -> Result<Vec<(String, Vec<u8>)>> {
    let dims = |folder: Folder, key: &str| find(tensors, folder, key).map(|tensor| tensor.shape().dims().to_vec());
    let is_pipeline = own.iter().any(|(path, _)| path == MODEL_INDEX);
    let (own, made) = if let &[only] = folders {
        let config = pipeline.config(only, &|key| dims(only, key));
        let prefix = if is_pipeline { format!("{}{SEPARATOR}", only.name()) } else { String::new() };
        let of_component = |(path, text): (String, _)| Some((path.strip_prefix(&prefix)?.to_owned(), text));
        let own: Vec<_> = own.into_iter().filter_map(of_component).collect();
        (own, vec![("config.json".to_owned(), format!("{config:#}\n"))])
    } else {
        let lacking = Folder::of(pipeline.architecture).iter().find(|folder| !folders.contains(folder));
        if let Some(lacking) = lacking {
            let found = format!(
                "no {} in it, which a folder of {} needs; --component takes one component alone",
                lacking.name(),
                pipeline.architecture.name()
            );
            return Err(Error::missing(found));
        }
        let made = pipeline.files(&dims).ok_or_else(|| {
            let (architecture, task) = (pipeline.architecture.name(), pipeline.task.name());
            Error::unsupported(format!("diffusers has no pipeline of {architecture} for {task}"))
        })?;
        if is_pipeline {
            // The input names its parts, and has them; a configuration may be missing.
            (own, made.into_iter().filter(|(path, _)| path.ends_with("/config.json")).collect())
        } else {
            (Vec::new(), made)
        }
    };
    let is_own = |path: &str| own.iter().any(|(own, _)| own == path);
    let made: Vec<_> =
        made.into_iter().filter(|(path, _)| !is_own(path)).map(|(path, text)| (path, text.into_bytes())).collect();
    Ok(own.into_iter().chain(made).collect())
}

/// The ledger with the keys of the folder in the place of those in LDM names.
fn rename_outputs(mut ledger: Ledger, fates: &HashMap<String, Fate>) -> Ledger {
    ledger.rewrite(|line| {
        let Outcome::Written { key, changes } = &line.outcome else { return vec![line] };
        let placed = match fates.get(key) {
            // What this program put in, it may take out again.
            Some(Fate::Homeless(_)) if line.from == Origin::Program => return Vec::new(),
            Some(Fate::Homeless(reason)) => {
                return vec![Line { outcome: Outcome::Dropped { reason: (*reason).into() }, ..line }];
            }
            Some(Fate::Placed(placed)) => placed,
            None => return vec![line],
        };
        let is_of_layout = |change: &Change| {
            matches!(change, Change::Renamed | Change::Reshaped | Change::Transposed | Change::Joined | Change::Split)
        };
        let outcome = if placed.iter().any(|(name, _)| *name == line.input) {
            // There and back again.
            let changes = changes.iter().filter(|change| !is_of_layout(change)).cloned().collect();
            Outcome::Written { key: line.input.clone(), changes }
        } else {
            let mut changes = changes.clone();
            changes.push(Change::Renamed);
            changes.extend(placed.iter().flat_map(|(_, changes)| changes).cloned());
            changes.dedup();
            let mut keys = placed.iter().map(|(name, _)| name.clone());
            match (keys.next(), keys.next()) {
                (Some(key), None) => Outcome::Written { key, changes },
                _ => Outcome::Split { keys: placed.iter().map(|(name, _)| name.clone()).collect(), changes },
            }
        };
        vec![Line { outcome, ..line }]
    });
    ledger
}
