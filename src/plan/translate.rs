//! A diffusers folder as a checkpoint in LDM names, so that everything else need know one layout only.

use std::collections::HashMap;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::format::{Container, diffusers};
use crate::metadata::PyValue;
use crate::model::architecture::{Architecture, Detection, detect, detect_by};
use crate::model::layout::{self, Folder, Layout, Mapped, Third};
use crate::model::{Component, autoencoder, position_ids};
use crate::plan::folders::{TEXT_KEYS, TEXT_KEYS_BARE, is_bare_text_key};
use crate::plan::{Change, Ledger, Line, Origin, Outcome};
use crate::state_dict::StateDict;
use crate::tensor::{LazyTensor, Shape};

/// What a translation did, so that a ledger of the translated keys can be traced back to those in the file.
#[derive(Debug, Default)]
pub struct Translation {
    /// For each translated key: the keys in the file, and what was changed.
    names: HashMap<String, (Vec<String>, Vec<Change>)>,
    /// Keys of the file that have no place, and need none.
    redundant: Vec<String>,
    /// Keys that are in no file.
    added: Vec<String>,
    /// What the user should know.
    pub notices: Vec<String>,
    /// What the user should know unless the tensors go into a folder again: what only single files have.
    pub single_file_notices: Vec<String>,
}

impl Translation {
    /// Rewrites the lines of `origin` to speak of the keys in the file.
    pub fn trace_back(&self, origin: Origin, ledger: &mut Ledger) {
        if self.names.is_empty() {
            return;
        }
        ledger.rewrite(|line| {
            if line.from != origin {
                return vec![line];
            }
            if self.added.contains(&line.input) {
                return vec![Line { from: Origin::Program, ..line }];
            }
            let Some((inputs, changes)) = self.names.get(&line.input) else { return vec![line] };
            let lines = inputs.iter().map(|input| {
                let mut line = Line { input: input.clone(), ..line.clone() };
                if let Outcome::Written { changes: later, .. } = &mut line.outcome {
                    later.splice(0..0, changes.iter().cloned());
                    later.dedup();
                }
                line
            });
            lines.collect()
        });
        for key in &self.redundant {
            ledger.dropped(origin, key, "says nothing: a constant");
        }
    }
}

/// The checkpoint in LDM names: itself, unless it is a diffusers folder. A key without a place is an error.
pub fn to_ldm(checkpoint: Checkpoint) -> Result<(Checkpoint, Translation)> {
    if checkpoint.contents().container != Container::Diffusers {
        return Ok((checkpoint, Translation::default()));
    }
    let detection = detect_checkpoint(&checkpoint);
    let is_alone = |alone: Folder| folders(&checkpoint).all(|folder| folder == alone);
    let candidates = detection.candidates();
    let architecture = match candidates.as_slice() {
        [only] => *only,
        // The autoencoder has the same keys in all of them, and SDXL's first text encoder is that of SD v1.
        _ if is_alone(Folder::Vae) => Architecture::Sd1,
        [first, ..] if is_alone(Folder::TextEncoder) => *first,
        _ => {
            return Err(Error::unsupported("a folder of no known architecture; inspect shows what was seen")
                .in_file(checkpoint.path()));
        }
    };
    let keys = checkpoint.contents().state_dict.iter().map(|(key, tensor)| (split(key), key, tensor));
    let keys = keys.filter_map(|(place, key, tensor)| place.map(|(folder, name)| (folder, name, key, tensor)));
    let keys: Vec<_> = keys.collect();
    let (state_dict, translation) = translate(architecture, &keys).map_err(|error| error.in_file(checkpoint.path()))?;
    let is_bare = keys.iter().any(|(_, _, key, _)| is_bare_text_key(key));
    let noted = is_bare.then(|| (TEXT_KEYS.to_owned(), PyValue::Str(TEXT_KEYS_BARE.to_owned())));
    Ok((checkpoint.with_tensors(state_dict).with_metadata(noted), translation))
}

/// An autoencoder in diffusers' names in a file of its own, in LDM names; anything else as it is.
pub fn autoencoder_to_ldm(checkpoint: Checkpoint) -> Result<(Checkpoint, Translation)> {
    let (checkpoint, translation) = to_ldm(checkpoint)?;
    if !checkpoint.contents().state_dict.keys().any(autoencoder::is_diffusers_key) {
        return Ok((checkpoint, translation));
    }
    let keys: Vec<_> =
        checkpoint.contents().state_dict.iter().map(|(key, tensor)| (Folder::Vae, key, key, tensor)).collect();
    let (state_dict, translation) =
        translate(Architecture::Sd1, &keys).map_err(|error| error.in_file(checkpoint.path()))?;
    Ok((checkpoint.with_tensors(state_dict), translation))
}

/// What architecture a checkpoint shows; of a folder, its components together.
pub fn detect_checkpoint(checkpoint: &Checkpoint) -> Detection {
    let state_dict = &checkpoint.contents().state_dict;
    if checkpoint.contents().container != Container::Diffusers {
        return detect(state_dict);
    }
    let look = |folder: Folder| {
        let place = |key: &str| format!("{}{}{key}", folder.name(), diffusers::SEPARATOR);
        detect_by(&|key| state_dict.get(&place(key)).map(|tensor| tensor.shape().dims().to_vec()))
    };
    Folder::ALL.iter().map(|&folder| look(folder)).reduce(Detection::and).unwrap_or_else(|| detect_by(&|_| None))
}

/// Whether a diffusers folder can hold the tensor of this key in LDM names.
pub fn has_place_in_folders(key: &str) -> bool {
    let is_held = |architecture: &Architecture| {
        let layout = Layout::of(*architecture);
        let mut places = layout.to_diffusers(key).peekable();
        places.peek().is_some() && places.any(|place| place.in_folder)
    };
    // A key that no layout knows is one that a folder might have: it is compared.
    let is_known =
        Architecture::ALL.iter().any(|&architecture| Layout::of(architecture).to_diffusers(key).next().is_some());
    match Component::of_key(key) {
        Component::Schedule | Component::Ema | Component::TrainingResidue => false,
        _ => !is_known || Architecture::ALL.iter().any(is_held),
    }
}

fn folders(checkpoint: &Checkpoint) -> impl Iterator<Item = Folder> {
    checkpoint.contents().state_dict.keys().filter_map(|key| Some(split(key)?.0))
}

fn split(key: &str) -> Option<(Folder, &str)> {
    let (folder, name) = key.split_once(diffusers::SEPARATOR)?;
    Some((Folder::from_name(folder)?, name))
}

/// A tensor of a folder: its component, its key there, its key in the file.
type Placed<'a> = (Folder, &'a str, &'a str, &'a LazyTensor);

fn translate(architecture: Architecture, keys: &[Placed<'_>]) -> Result<(StateDict, Translation)> {
    let layout = Layout::of(architecture);
    let mut translation = Translation::default();
    let mut parts: HashMap<&str, Vec<Part<'_>>> = HashMap::new();
    for &(folder, name, key, tensor) in keys {
        match layout.to_ldm(folder, name) {
            Some(mapped) => parts.entry(mapped.key).or_default().push(Part { mapped, key, tensor }),
            None if layout.is_redundant(folder, name) => translation.redundant.push(key.to_owned()),
            None => {
                let found = format!("a key that the {} of {} does not have", folder.name(), architecture.name());
                return Err(Error::unsupported(found).in_tensor(key));
            }
        }
    }
    let mut state_dict = StateDict::new();
    for pair in layout.pairs() {
        let key = pair.ldm.key.as_str();
        let embedding = position_ids::embedding_beside(key);
        let embedding = embedding.and_then(|embedding| parts.get(embedding.as_str())?.first().map(|part| part.tensor));
        if let Some(embedding) = embedding.filter(|_| !parts.contains_key(key)) {
            // Folders of today have no position_ids; a checkpoint does.
            let positions = embedding.shape().dims().first().copied().unwrap_or_default();
            state_dict.insert(key, position_ids::right(positions)?)?;
            translation.added.push(key.to_owned());
            let last = positions.saturating_sub(1);
            translation.single_file_notices.push(format!("{key} is not in the folder; it is I64, 0 to {last}"));
        }
        if let Some(parts) = parts.remove(key) {
            let inputs = parts.iter().map(|part| part.key.to_owned()).collect();
            let first = parts.first().map(|part| part.key).unwrap_or_default();
            let (tensor, mut changes) = assemble(parts).map_err(|error| error.in_tensor(first))?;
            changes.insert(0, Change::Renamed);
            state_dict.insert(key, tensor)?;
            translation.names.insert(key.to_owned(), (inputs, changes));
        }
    }
    note_missing(layout, keys, &state_dict, &mut translation);
    Ok((state_dict, translation))
}

/// One tensor of the file on its way to a key in LDM names.
struct Part<'a> {
    mapped: Mapped<'a>,
    key: &'a str,
    tensor: &'a LazyTensor,
}

impl Part<'_> {
    fn third(&self) -> Option<Third> {
        match self.mapped.change {
            layout::Change::Join(third) => Some(third),
            _ => None,
        }
    }
}

/// The tensor in LDM names of its parts: one, or query, key and value.
fn assemble(mut parts: Vec<Part<'_>>) -> Result<(LazyTensor, Vec<Change>)> {
    parts.sort_by_key(Part::third);
    if let [only] = parts.as_slice() {
        let (mapped, tensor) = (&only.mapped, only.tensor.clone());
        if only.third().is_some() {
            return Err(Error::missing("the other two of query, key and value are not in the folder"));
        }
        let dims = mapped.fit(tensor.shape().dims()).ok_or_else(|| {
            Error::mismatch(format!("shape {} does not fit its place, which has {:?}", tensor.shape(), mapped.dims))
        })?;
        if mapped.change == layout::Change::Transpose {
            return Ok((tensor.transpose()?, vec![Change::Transposed]));
        }
        let is_reshaped = dims != tensor.shape().dims();
        let tensor = tensor.reshape(Shape::new(dims)?)?;
        return Ok((tensor, is_reshaped.then_some(Change::Reshaped).into_iter().collect()));
    }
    let thirds: Vec<Option<Third>> = parts.iter().map(Part::third).collect();
    if thirds != Third::ALL.map(Some) {
        return Err(Error::conflict("the folder has this tensor twice, under two names"));
    }
    let joined = LazyTensor::join(parts.into_iter().map(|part| part.tensor.clone()).collect())?;
    Ok((joined, vec![Change::Joined]))
}

/// Says what the components of the folder lack. Some models have fewer tensors than the published ones, so this is no
/// error; but nothing is missing in silence.
fn note_missing(layout: &Layout, keys: &[Placed<'_>], state_dict: &StateDict, translation: &mut Translation) {
    for folder in Folder::ALL {
        if keys.iter().all(|(found, ..)| found != folder) {
            continue;
        }
        let dims = |key: &str| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec());
        let is_missing = |key: &str| !state_dict.contains(key) && layout::is_needed(key, &dims);
        let pairs = layout.pairs().iter().filter(|pair| pair.folder == *folder && is_missing(&pair.ldm.key));
        let (should, need_not): (Vec<_>, Vec<_>) = pairs.partition(|pair| pair.in_folder);
        if let Some(first) = should.first() {
            let (count, name) = (should.len(), folder.name());
            let first = &first.diffusers.key;
            translation
                .notices
                .push(format!("{name} lacks {count} tensors that published models have, {first} the first"));
        }
        let need_not = need_not.iter().filter(|pair| !position_ids::is_key(&pair.ldm.key)).count();
        if need_not > 0 {
            let name = folder.name();
            translation.single_file_notices.push(format!(
                "{need_not} tensors of {name} that folders do not have, and pictures do not need, are missing"
            ));
        }
    }
}
