//! An opened checkpoint in LDM names, whatever its container and layout.

mod canonical;
mod networks;
mod prefixes;
mod single_file;
mod structure;
mod translate;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use trinart_ckpt_formats::containers::{Container, safetensors};
use trinart_ckpt_formats::io::{Progress, Source};
use trinart_ckpt_formats::tensor::Overflow;
use trinart_ckpt_formats::{Metadata, OpenOptions, Result, StateDict, StoredCheckpoint};

use crate::detection::Detection;
use crate::hash::{FileHashes, file_sha256};
use crate::hyperparameters::Hyperparameters;
use crate::parameterization::{self, Parameterization, SideYaml};
use crate::quantization::{self, Wanted};
use crate::vae;
pub use translate::Translation;
pub(crate) use translate::{MappedTensor, assemble};
use translate::{Translated, Unknown};

/// An opened checkpoint in LDM names (`model.diffusion_model.…`, `first_stage_model.…`), whatever its container and
/// layout. No tensor is read yet.
///
/// Opening fails if the file has a dangerous pickle, unless [`OpenOptions`] allow it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    stored: StoredCheckpoint,
    state_dict: StateDict,
    metadata: Metadata,
    translation: Arc<Translation>,
    /// Why a folder has no LDM names.
    unknown: Option<Arc<Unknown>>,
}

impl Checkpoint {
    /// Opens a checkpoint file of any container, or a diffusers folder. Reads only headers and pickles.
    ///
    /// Fails if the file is not a checkpoint, violates its format, exceeds a limit or has a dangerous pickle.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// Opens a checkpoint as [`Self::open`], with options.
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Self::from_stored(StoredCheckpoint::open_with(path, options)?)
    }

    /// Translates an opened checkpoint into LDM names. A single file in diffusers names (`unet.…`, `vae.…`) is translated
    /// if all its keys are known, otherwise it keeps its names.
    pub fn from_stored(stored: StoredCheckpoint) -> Result<Self> {
        let mut metadata = stored.metadata().clone();
        let (state_dict, translation, unknown) = match stored.container() {
            Container::Diffusers => match translate::folder_to_ldm(&stored, &mut metadata)? {
                Translated::Ldm(state_dict, translation) => (state_dict, translation, None),
                Translated::Stored(state_dict, translation, unknown) => (state_dict, translation, Some(unknown)),
            },
            _ => {
                let translated = single_file::to_ldm(&stored);
                let (state_dict, translation) =
                    translated.unwrap_or_else(|| (stored.state_dict().clone(), Translation::default()));
                (state_dict, translation, None)
            }
        };
        let (translation, unknown) = (Arc::new(translation), unknown.map(Arc::new));
        Ok(Checkpoint { stored, state_dict, metadata, translation, unknown })
    }

    /// Returns the checkpoint with these tensors in LDM names and this metadata instead of its own, as the output of a plan
    /// that another plan continues.
    pub(crate) fn with_tensors(&self, state_dict: StateDict, metadata: Metadata) -> Self {
        Checkpoint {
            stored: self.stored.with_tensors(state_dict.clone(), metadata.clone()),
            state_dict,
            metadata,
            translation: Arc::default(),
            unknown: self.unknown.clone(),
        }
    }

    /// Returns the checkpoint with this metadata.
    #[must_use]
    pub fn with_metadata(&self, metadata: Metadata) -> Self {
        Checkpoint { metadata, ..self.clone() }
    }

    /// Dequantizes the weights whose values are wanted, by key. Returns other checkpoints unchanged. A folder is dequantized
    /// when it is opened.
    ///
    /// Fails if the values of a wanted tensor cannot be known.
    pub(crate) fn dequantized(&self, wanted: &dyn Fn(&str) -> Wanted, overflow: Overflow) -> Result<Cow<'_, Self>> {
        let dequantized = quantization::dequantize(&self.state_dict, &self.metadata, wanted, overflow);
        let Some(dequantized) = dequantized.map_err(|error| error.in_file(self.path()))? else {
            return Ok(Cow::Borrowed(self));
        };
        let translation = Translation::clone(&self.translation);
        let translation = translation.after_dequantization(dequantized.record, dequantized.notices);
        Ok(Cow::Owned(Checkpoint {
            stored: self.stored.clone(),
            state_dict: dequantized.state_dict,
            metadata: dequantized.metadata,
            translation: Arc::new(translation),
            unknown: self.unknown.clone(),
        }))
    }

    /// Detects the architecture of a checkpoint from its keys and shapes, or of all components of a folder together.
    pub fn detect(stored: &StoredCheckpoint) -> Detection {
        translate::detect(stored)
    }

    /// Returns what the model predicts, its noise schedule and the constants of its VAE, with the evidence.
    ///
    /// Reads small tensors, the configurations of a folder, and the `.yaml` beside a file; see
    /// [`parameterization::read`].
    pub fn parameterization(&self) -> Result<Parameterization> {
        let detection = Self::detect(&self.stored);
        parameterization::read(&self.stored, &self.state_dict, &self.metadata, &detection, SideYaml::beside)
    }

    /// Returns the hyperparameters of the networks that their tensors do not show, as the configurations of a folder have
    /// them.
    ///
    /// Fails if a configuration describes another network than those of Stable Diffusion.
    pub fn hyperparameters(&self) -> Result<Hyperparameters> {
        Hyperparameters::read(&self.stored).map_err(|error| error.in_file(self.path()))
    }

    /// Returns the checkpoint with its networks under the keys that they have in a whole checkpoint in LDM names, such as
    /// `model.diffusion_model.…` for a UNet alone in diffusers names. Unchanged for folders, and for files of unknown
    /// architecture. A file with a network alone keeps its keys on opening, because other programs look for them.
    pub fn in_ldm_names(&self) -> Cow<'_, Self> {
        if self.container() == Container::Diffusers || !self.translation.is_identity() {
            return Cow::Borrowed(self);
        }
        match canonical::to_ldm(&self.state_dict) {
            None => Cow::Borrowed(self),
            Some((state_dict, translation)) => {
                Cow::Owned(Checkpoint { state_dict, translation: Arc::new(translation), ..self.clone() })
            }
        }
    }

    /// Returns the tensors in LDM names, also those of a folder whose UNet has other numbers of blocks than published models,
    /// to render it. No program reads a single file with such a UNet, so [`Self::state_dict`] keeps the names of the folder.
    ///
    /// Fails if a network of such a folder has tensors that Stable Diffusion lacks.
    pub fn to_render(&self) -> Result<Cow<'_, StateDict>> {
        let translated = match &self.unknown {
            Some(_) => structure::to_ldm(&self.state_dict).map_err(|error| error.in_file(self.path()))?,
            None => None,
        };
        Ok(translated.map_or(Cow::Borrowed(&self.state_dict), Cow::Owned))
    }

    /// Fails if this is a folder whose tensors have no LDM names: its architecture has no key layout, or not these keys.
    /// [`Self::state_dict`] then has the keys that the folder stores, such as `transformer/proj_out.bias`.
    pub fn require_ldm_names(&self) -> Result<()> {
        match &self.unknown {
            Some(unknown) => Err(unknown.to_error().in_file(self.path())),
            None => Ok(()),
        }
    }

    /// Returns whether the tensors have LDM names, or are those of a single file.
    pub fn has_ldm_names(&self) -> bool {
        self.unknown.is_none()
    }

    /// The tensors in LDM names.
    pub fn state_dict(&self) -> &StateDict {
        &self.state_dict
    }

    /// The plain values beside the tensors, in order.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The checkpoint under the names that its file stores.
    pub fn stored(&self) -> &StoredCheckpoint {
        &self.stored
    }

    /// How the names of the file became LDM names.
    pub fn translation(&self) -> &Translation {
        &self.translation
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        self.stored.path()
    }

    /// The file name, or the whole path if it has none.
    pub fn file_name(&self) -> String {
        self.stored.file_name()
    }

    /// The size in bytes of the file, or of all weight files of a folder.
    pub fn file_bytes(&self) -> u64 {
        self.stored.file_bytes()
    }

    /// The container.
    pub fn container(&self) -> Container {
        self.stored.container()
    }

    /// Returns the file. Fails for a folder.
    pub fn file(&self) -> Result<&Arc<Source>> {
        self.stored.file()
    }

    /// Returns the sha256 of the file, hexadecimal. Reads the whole file. Fails for a folder.
    pub fn sha256(&self, progress: &dyn Progress) -> Result<String> {
        file_sha256(self.file()?, progress)
    }

    /// Returns the file hashes of model pages and pictures. Reads the file once, or twice for safetensors. Fails for a
    /// folder.
    pub fn file_hashes(&self, jobs: usize, progress: &dyn Progress) -> Result<FileHashes> {
        let source = self.file()?;
        let data = match self.container() {
            Container::Safetensors => Some(safetensors::data_offset(source)?),
            _ => None,
        };
        FileHashes::new(source, data, jobs, progress)
    }

    /// Returns the files that hold the VAE: the only file, or some of a folder. A folder can have it in shards.
    pub fn vae_files(&self) -> Result<Vec<&Arc<Source>>> {
        let tensors = || self.state_dict.iter().filter(|(key, _)| vae::is_key(vae::bare_key(key)));
        let holds_vae = |file: &&Arc<Source>| {
            let mut storages = tensors().flat_map(|(_, tensor)| tensor.storages());
            storages.any(|storage| Arc::ptr_eq(storage.source(), file))
        };
        let files: Vec<_> = self.stored.sources().iter().filter(holds_vae).collect();
        if files.is_empty() { Ok(vec![self.file()?]) } else { Ok(files) }
    }

    /// Fails if the file has a tensor that cannot be read.
    pub fn refuse_unreadable(&self) -> Result<()> {
        self.stored.refuse_unreadable()
    }
}
