//! An opened checkpoint in LDM names, whatever its container and layout.

mod prefixes;
mod single_file;
mod translate;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use trinart_ckpt_formats::containers::{Container, safetensors};
use trinart_ckpt_formats::io::{Progress, Source};
use trinart_ckpt_formats::tensor::Overflow;
use trinart_ckpt_formats::{Error, Metadata, OpenOptions, Result, StateDict, StoredCheckpoint};

use crate::detection::Detection;
use crate::hash::{FileHashes, file_sha256};
use crate::parameterization::{self, Parameterization};
use crate::quantization::{self, Wanted};
use crate::vae;
pub use translate::Translation;
pub(crate) use translate::{MappedTensor, assemble};

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
}

impl Checkpoint {
    /// Opens a checkpoint file of any container, or a diffusers folder. Reads only headers and pickles.
    ///
    /// Fails if the file is not a checkpoint, violates its format, exceeds a limit or has a dangerous pickle, and if a
    /// diffusers folder has an unknown architecture or unknown keys.
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
        let (state_dict, translation) = match stored.container() {
            Container::Diffusers => translate::folder_to_ldm(&stored, &mut metadata)?,
            _ => single_file::to_ldm(&stored).unwrap_or_else(|| (stored.state_dict().clone(), Translation::default())),
        };
        Ok(Checkpoint { stored, state_dict, metadata, translation: Arc::new(translation) })
    }

    /// Returns the checkpoint with these tensors in LDM names and this metadata instead of its own, as the output of a plan
    /// that another plan continues.
    pub(crate) fn with_tensors(&self, state_dict: StateDict, metadata: Metadata) -> Self {
        Checkpoint {
            stored: self.stored.with_tensors(state_dict.clone(), metadata.clone()),
            state_dict,
            metadata,
            translation: Arc::default(),
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
        parameterization::read(&self.stored, &self.state_dict, &self.metadata, &Self::detect(&self.stored))
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

    /// Returns the file that holds the VAE: the only file, or one file of a folder. Fails if the VAE is in several files.
    pub fn vae_file(&self) -> Result<&Arc<Source>> {
        let tensors = || self.state_dict.iter().filter(|(key, _)| vae::is_key(vae::bare_key(key)));
        let holds_vae = |file: &&Arc<Source>| {
            let mut storages = tensors().flat_map(|(_, tensor)| tensor.storages());
            storages.any(|storage| Arc::ptr_eq(storage.source(), file))
        };
        let files: Vec<_> = self.stored.sources().iter().filter(holds_vae).collect();
        match files.as_slice() {
            [file] => Ok(file),
            [] => self.file(),
            several => {
                let found = format!("the VAE is in {} files; convert it to a single file first", several.len());
                Err(Error::unsupported(found).in_file(self.path()))
            }
        }
    }

    /// Fails if the file has a tensor that cannot be read.
    pub fn refuse_unreadable(&self) -> Result<()> {
        self.stored.refuse_unreadable()
    }
}
