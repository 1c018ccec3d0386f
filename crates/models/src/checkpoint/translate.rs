//! Translates diffusers names into LDM names, so that all other code handles a single layout.

use std::collections::HashMap;

use trinart_ckpt_formats::containers::{Container, diffusers};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::metadata::PyValue;
use trinart_ckpt_formats::tensor::{LazyTensor, Overflow, Shape};
use trinart_ckpt_formats::{Metadata, StateDict, StoredCheckpoint};

use super::prefixes;
use crate::detection::{self, Detection, detect_by};
use crate::family::Architecture;
use crate::layout::{self, Folder, Layout, Mapped, Qkv, text_keys};
use crate::ledger::{Change, Disposition, DropReason, Ledger, LedgerLine, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::{position_ids, quantization};

/// The record of a translation. It maps a ledger of translated keys back to the keys in the file.
#[derive(Debug, Clone, Default)]
pub struct Translation {
    /// For each translated key, the keys in the file and the changes.
    names: HashMap<String, (Vec<String>, Vec<Change>)>,
    /// Whether a network has the names of diffusers.
    is_from_diffusers: bool,
    /// Keys of the file that are redundant constants.
    redundant: Vec<String>,
    /// Constants that were added by key, and the notices about them.
    added: HashMap<String, Notice>,
    /// Notices for any output. A plan includes them.
    pub notices: Vec<Notice>,
    /// The index of the notice about missing tensors of the VAE.
    vae_notice: Option<usize>,
    /// Notices that matter only if the output is a single file.
    single_file_notices: Vec<Notice>,
    /// The weights of the file that were dequantized first.
    dequantized: quantization::Record,
}

impl Translation {
    /// Returns the notices that matter only if the output is a single file with these tensors.
    pub fn single_file_notices(&self, output: &StateDict) -> Vec<Notice> {
        let added = output.keys().filter_map(|key| self.added.get(key));
        added.chain(&self.single_file_notices).cloned().collect()
    }

    /// The notices for an output whose VAE comes from elsewhere.
    pub(crate) fn notices_about_the_rest(&self) -> impl Iterator<Item = &Notice> {
        self.notices.iter().enumerate().filter(|(index, _)| Some(*index) != self.vae_notice).map(|(_, notice)| notice)
    }

    /// Returns the key in the file of a translated key; the first one if the tensor was joined from several. `None` if
    /// the key was not translated.
    pub(crate) fn stored_key(&self, key: &str) -> Option<&str> {
        self.names.get(key)?.0.first().map(String::as_str)
    }

    /// Returns whether a constant of a translated state dict is in no file.
    pub(crate) fn is_added(&self, key: &str) -> bool {
        self.added.contains_key(key)
    }

    /// Yields the keys of a translated state dict that the file has under other keys, with these keys.
    pub(crate) fn renamed_keys<'a>(
        &'a self,
        state_dict: &'a StateDict,
    ) -> impl Iterator<Item = (&'a str, &'a [String])> {
        let renamed = |key: &&str, stored: &[String]| !matches!(stored, [only] if only == key);
        let names = state_dict.keys().filter_map(|key| Some((key, self.names.get(key)?.0.as_slice())));
        names.filter(move |(key, stored)| renamed(key, stored))
    }

    /// Records that a key of the file was renamed.
    pub(super) fn renamed(&mut self, stored: &str, key: &str) {
        self.names.insert(key.to_owned(), (vec![stored.to_owned()], vec![Change::Renamed]));
    }

    /// Records the changes of a tensor of the file.
    pub(super) fn changed(&mut self, stored: &str, key: &str, changes: Vec<Change>) {
        self.names.insert(key.to_owned(), (vec![stored.to_owned()], changes));
    }

    /// Returns whether every tensor has the key that the file stores.
    pub fn is_identity(&self) -> bool {
        self.names.is_empty() && self.redundant.is_empty()
    }

    /// Returns whether the file may lack tensors that diffusers omits: it has a network under the names of diffusers.
    pub fn is_from_diffusers(&self) -> bool {
        self.is_from_diffusers
    }

    /// Adds a notice that matters only if the output is a single file.
    pub(super) fn note_single_file(&mut self, notice: Notice) {
        self.single_file_notices.push(notice);
    }

    /// Rewrites the lines of `origin` in terms of the keys in the file.
    pub(crate) fn trace_back(&self, origin: Origin, ledger: &mut Ledger) {
        if !self.names.is_empty() {
            self.trace_names_back(origin, ledger);
        }
        self.dequantized.trace_back(origin, ledger);
    }

    /// Records that weights of the file were dequantized before their names were translated.
    pub(super) fn after_dequantization(mut self, record: quantization::Record, notices: Vec<Notice>) -> Self {
        self.dequantized = record;
        self.notices.splice(0..0, notices);
        self
    }

    fn trace_names_back(&self, origin: Origin, ledger: &mut Ledger) {
        ledger.rewrite(|line| {
            if line.from != origin {
                return vec![line];
            }
            if self.added.contains_key(&line.input) {
                // An added constant is in no input: if the output lacks it too, it needs no line.
                let Disposition::Written { key, mut changes } = line.disposition else { return Vec::new() };
                changes.insert(0, Change::Inserted);
                let disposition = Disposition::Written { key, changes };
                return vec![LedgerLine { from: Origin::Program, input: line.input, disposition }];
            }
            let Some((inputs, changes)) = self.names.get(&line.input) else { return vec![line] };
            let lines = inputs.iter().map(|input| {
                let mut line = LedgerLine { input: input.clone(), ..line.clone() };
                if let Disposition::Written { changes: later, .. } = &mut line.disposition {
                    later.splice(0..0, changes.iter().cloned());
                    later.dedup();
                }
                line
            });
            lines.collect()
        });
        for key in &self.redundant {
            ledger.dropped(origin, key, DropReason::RedundantConstant);
        }
    }
}

/// A folder in LDM names, or with the names that it stores.
pub(super) enum Translated {
    /// In LDM names.
    Ldm(StateDict, Translation),
    /// As stored: the architecture has no key layout, or not these keys.
    Stored(StateDict, Translation, Unknown),
}

/// Why a folder has no LDM names.
#[derive(Debug, Clone)]
pub(super) struct Unknown {
    found: String,
    tensor: Option<String>,
}

impl Unknown {
    /// The error of an operation that needs LDM names.
    pub(super) fn to_error(&self) -> Error {
        let error = Error::unsupported(self.found.as_str());
        match &self.tensor {
            Some(key) => error.in_tensor(key.as_str()),
            None => error,
        }
    }
}

/// Translates a diffusers folder into LDM names, if its architecture has a key layout with all its keys. Fails if a shape
/// does not fit.
///
/// Dequantizes quantized weights, because their companions have no LDM names.
pub(super) fn folder_to_ldm(stored: &StoredCheckpoint, metadata: &mut Metadata) -> Result<Translated> {
    let values = |_: &str| quantization::Wanted::Values;
    let dequantized = quantization::dequantize(stored.state_dict(), metadata, &values, Overflow::Refuse);
    match dequantized.map_err(|error| error.in_file(stored.path()))? {
        Some(dequantized) => {
            *metadata = dequantized.metadata;
            let (record, notices) = (dequantized.record, dequantized.notices);
            Ok(match names_to_ldm(stored, &dequantized.state_dict, metadata)? {
                Translated::Ldm(state_dict, translation) => {
                    Translated::Ldm(state_dict, translation.after_dequantization(record, notices))
                }
                Translated::Stored(state_dict, translation, unknown) => {
                    Translated::Stored(state_dict, translation.after_dequantization(record, notices), unknown)
                }
            })
        }
        None => names_to_ldm(stored, stored.state_dict(), metadata),
    }
}

/// A tensor of the last layer of OpenCLIP ViT-H, which smaller image encoders lack.
const LAST_OF_VIT_H: &str = "image_encoder/vision_model.encoder.layers.31.layer_norm1.weight";

fn names_to_ldm(stored: &StoredCheckpoint, state_dict: &StateDict, metadata: &mut Metadata) -> Result<Translated> {
    let unknown = |found: String, tensor: Option<&str>| {
        let unknown = Unknown { found, tensor: tensor.map(str::to_owned) };
        Ok(Translated::Stored(state_dict.clone(), Translation::default(), unknown))
    };
    let detection = detect_in_folders(state_dict, &folder_prefix);
    let is_alone = |alone: Folder| folders(stored).all(|folder| folder == alone);
    if let Some(key) = state_dict.keys().find(|key| split(key).is_none()) {
        let component = key.split(diffusers::SEPARATOR).next().unwrap_or(key);
        let found = format!("a folder of unknown architecture (with the component {component}): stays a folder only");
        return unknown(found, None);
    }
    let candidates = detection.candidates();
    let architecture = match candidates.as_slice() {
        [only] => *only,
        // The VAE has the same keys in all architectures, and SDXL's first text encoder is that of SD v1.
        _ if is_alone(Folder::Vae) => Architecture::Sd1,
        [first, ..] if is_alone(Folder::TextEncoder) => *first,
        _ if is_alone(Folder::ImageEncoder) && state_dict.contains(LAST_OF_VIT_H) => Architecture::StableVideo,
        _ => return unknown(format!("a folder of unknown architecture ({})", detection.doubt()), None),
    };
    let layout = Layout::of(architecture);
    let keys = folder_tensors(state_dict);
    let has_unet = keys.iter().any(|(folder, ..)| *folder == Folder::Unet);
    if has_unet && !layout.has_blocks_of(&dims_under(state_dict, folder_prefix(Folder::Unet))) {
        let blocks = format!("other numbers of residual blocks than {}", architecture.text());
        return unknown(format!("the UNet has {blocks}: it stays a folder only"), None);
    }
    if let Some((folder, name, key, _)) = keys.iter().find(|(folder, name, ..)| !layout.has_place(*folder, name)) {
        let (part, architecture) = (folder.name(), architecture.text());
        let found = match name.starts_with("class_embedding.") {
            true => "the UNet of unCLIP or of an upscaler, which stays a folder: no names for a single file are known"
                .into(),
            false => format!("unknown key: the {part} of {architecture} has no such tensor"),
        };
        return unknown(found, Some(key));
    }
    let (translated, translation) = translate(layout, &keys).map_err(|error| error.in_file(stored.path()))?;
    if keys.iter().any(|(_, _, key, _)| text_keys::is_bare(key)) {
        metadata.insert(text_keys::FIELD.to_owned(), PyValue::Str(text_keys::BARE.to_owned()));
    }
    Ok(Translated::Ldm(translated, translation))
}

/// Detects the architecture of a checkpoint, or of all components in diffusers names together.
pub(super) fn detect(stored: &StoredCheckpoint) -> Detection {
    let state_dict = stored.state_dict();
    if stored.container() == Container::Diffusers {
        return detect_in_folders(state_dict, &folder_prefix);
    }
    match prefixes::wrapper(state_dict) {
        Some(wrapper) => detect_in_folders(state_dict, &|folder| prefixes::prefix(wrapper, folder)),
        None => detection::detect(state_dict),
    }
}

/// The prefix of a component's keys in a diffusers folder.
fn folder_prefix(folder: Folder) -> String {
    format!("{}{}", folder.name(), diffusers::SEPARATOR)
}

/// Detects the architecture of components whose keys have the prefix that `prefix` returns.
fn detect_in_folders(state_dict: &StateDict, prefix: &dyn Fn(Folder) -> String) -> Detection {
    let detect_in = |folder: Folder| detect_by(&dims_under(state_dict, prefix(folder)));
    Folder::ALL.iter().map(|&folder| detect_in(folder)).reduce(Detection::and).unwrap_or_else(|| detect_by(&|_| None))
}

/// The dimensions of the tensors whose keys have a prefix, by the rest of the key.
fn dims_under(state_dict: &StateDict, prefix: String) -> impl Fn(&str) -> Option<Vec<u64>> {
    move |key| state_dict.get(&format!("{prefix}{key}")).map(|tensor| tensor.shape().dims().to_vec())
}

/// The component of each tensor in a folder.
fn folders(stored: &StoredCheckpoint) -> impl Iterator<Item = Folder> {
    stored.state_dict().keys().filter_map(|key| Some(split(key)?.0))
}

/// Lists the tensors of a folder's components.
pub(super) fn folder_tensors(state_dict: &StateDict) -> Vec<FolderTensor<'_>> {
    let keys = state_dict.iter().map(|(key, tensor)| (split(key), key, tensor));
    keys.filter_map(|(parts, key, tensor)| parts.map(|(folder, name)| (folder, name, key, tensor))).collect()
}

/// Splits the key of a folder into the component and the key in it.
fn split(key: &str) -> Option<(Folder, &str)> {
    let (folder, name) = key.split_once(diffusers::SEPARATOR)?;
    Some((Folder::from_name(folder)?, name))
}

/// A tensor of a folder: its component, its key in the component, its full key, and the tensor.
pub(super) type FolderTensor<'a> = (Folder, &'a str, &'a str, &'a LazyTensor);

/// Translates tensors in diffusers names. Fails if the layout has no such key, or if a shape does not fit.
pub(super) fn translate(layout: &Layout, keys: &[FolderTensor<'_>]) -> Result<(StateDict, Translation)> {
    let architecture = layout.architecture();
    let mut translation = Translation { is_from_diffusers: !keys.is_empty(), ..Translation::default() };
    let mut parts: HashMap<&str, Vec<MappedTensor<'_>>> = HashMap::new();
    for &(folder, name, key, tensor) in keys {
        match layout.to_ldm(folder, name) {
            Some(mapped) => parts.entry(mapped.key).or_default().push(MappedTensor { mapped, key, tensor }),
            None if layout.is_redundant(folder, name) => translation.redundant.push(key.to_owned()),
            None => {
                let found = format!("unknown key: the {} of {} has no such tensor", folder.name(), architecture.text());
                return Err(Error::unsupported(found).in_tensor(key));
            }
        }
    }
    let mut state_dict = StateDict::new();
    for pair in layout.pairs() {
        let key = pair.ldm.key.as_str();
        let embedding = position_ids::embedding_beside(key);
        let embedding = embedding.and_then(|embedding| parts.get(embedding.as_str())?.first().map(|part| part.tensor));
        let positions = embedding.and_then(|embedding| embedding.shape().dims().first().copied());
        if let Some(positions) = positions.filter(|_| !parts.contains_key(key)) {
            // Newer folders have no position_ids; checkpoints do.
            state_dict.insert(key, position_ids::correct(positions)?)?;
            let text = format!("added {key}, which folders omit: {}", position_ids::describe(positions));
            translation.added.insert(key.to_owned(), Notice::new(NoticeCode::PositionIdsAdded, text));
        }
        if let Some(parts) = parts.remove(key) {
            let inputs = parts.iter().map(|part| part.key.to_owned()).collect();
            let first = parts.first().or_internal("a translated key has no tensor in the file")?.key;
            let (tensor, mut changes) = assemble(parts).map_err(|error| error.in_tensor(first))?;
            changes.insert(0, Change::Renamed);
            state_dict.insert(key, tensor)?;
            translation.names.insert(key.to_owned(), (inputs, changes));
        }
    }
    note_missing(layout, keys, &state_dict, &mut translation);
    Ok((state_dict, translation))
}

/// A tensor of the file, and its mapping to LDM names.
pub(crate) struct MappedTensor<'a> {
    pub(crate) mapped: Mapped<'a>,
    pub(crate) key: &'a str,
    pub(crate) tensor: &'a LazyTensor,
}

impl MappedTensor<'_> {
    /// The part of a fused projection that this tensor is, if it is one.
    fn qkv(&self) -> Option<Qkv> {
        match self.mapped.transform {
            layout::Transform::Join(part) => Some(part),
            _ => None,
        }
    }
}

/// Makes a tensor in LDM names from its parts: one tensor, or query, key and value.
pub(crate) fn assemble(mut parts: Vec<MappedTensor<'_>>) -> Result<(LazyTensor, Vec<Change>)> {
    parts.sort_by_key(MappedTensor::qkv);
    if let [only] = parts.as_slice() {
        let (mapped, tensor) = (&only.mapped, only.tensor.clone());
        if only.qkv().is_some() {
            return Err(Error::missing("some of query, key and value of this attention are missing"));
        }
        let dims = mapped
            .fit(tensor.shape().dims())
            .ok_or_else(|| Error::mismatch(format!("shape {}, expected one like {:?}", tensor.shape(), mapped.dims)))?;
        if mapped.transform == layout::Transform::Transpose {
            return Ok((tensor.transpose()?, vec![Change::Transposed]));
        }
        let is_reshaped = dims != tensor.shape().dims();
        let tensor = tensor.reshape(Shape::new(dims)?)?;
        return Ok((tensor, is_reshaped.then_some(Change::Reshaped).into_iter().collect()));
    }
    let found: Vec<Option<Qkv>> = parts.iter().map(MappedTensor::qkv).collect();
    if found != Qkv::ALL.map(Some) {
        return Err(Error::conflict("this tensor occurs under several names"));
    }
    let joined = LazyTensor::join(parts.into_iter().map(|part| part.tensor.clone()).collect())?;
    Ok((joined, vec![Change::Joined]))
}

/// Adds notices about missing tensors. They are no errors, because some models have fewer tensors than published ones.
fn note_missing(layout: &Layout, keys: &[FolderTensor<'_>], state_dict: &StateDict, translation: &mut Translation) {
    for folder in Folder::ALL {
        if keys.iter().all(|(found, ..)| found != folder) {
            continue;
        }
        let dims = |key: &str| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec());
        let is_missing = |key: &str| !state_dict.contains(key) && layout::is_needed(key, &dims);
        let pairs = layout.pairs().iter().filter(|pair| pair.folder == *folder && is_missing(&pair.ldm.key));
        let (expected, optional): (Vec<_>, Vec<_>) = pairs.partition(|pair| pair.in_folder);
        let name = folder.name();
        if let Some(first) = expected.first() {
            let text = format!(
                "{name} lacks {} tensors of the published model, such as {}",
                expected.len(),
                first.diffusers.key
            );
            if *folder == Folder::Vae {
                translation.vae_notice = Some(translation.notices.len());
            }
            translation.notices.push(Notice::new(NoticeCode::Incomplete, text));
        }
        let optional = optional.iter().filter(|pair| !position_ids::is_key(&pair.ldm.key)).count();
        if optional > 0 {
            let text = format!("{name} lacks {optional} tensors that folders omit and rendering does not use");
            translation.single_file_notices.push(Notice::new(NoticeCode::Incomplete, text));
        }
    }
}
