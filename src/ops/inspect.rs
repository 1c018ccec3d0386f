use std::path::{Path, PathBuf};

use super::contents::Contents as Values;
use super::which_vae::{self, KnownVaes};
use crate::report::{Contents, Inspection, components};
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::Kind;
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_formats::{OpenOptions, Result, StoredCheckpoint};
use trinart_ckpt_models::file_kind::Identity;
use trinart_ckpt_models::plan::repair::{self, Repair};
use trinart_ckpt_models::plan::uses;
use trinart_ckpt_models::{Checkpoint, Component, parameterization, published, quantization};

/// The size of the largest file that is hashed to identify it. Hashing larger files would take seconds.
const HASHED_BYTES: u64 = 1 << 29;

/// Reports the contents of a file: container, architecture, components, dtypes, metadata, values that are not tensors.
///
/// Reads headers, position_ids and the marks of what the UNet predicts, and hashes files of up to 512 MiB that have the size of a published file. A dangerous
/// pickle is no error; the report lists it.
#[derive(Clone)]
pub struct Inspect<'a> {
    path: PathBuf,
    keys: bool,
    known_vaes: Option<&'a KnownVaes>,
    is_for_audit: bool,
    progress: &'a dyn Progress,
}

impl<'a> Inspect<'a> {
    /// Returns an inspection of a file or a diffusers folder.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Inspect {
            path: path.as_ref().to_owned(),
            keys: false,
            known_vaes: None,
            is_for_audit: false,
            progress: &NoProgress,
        }
    }

    /// Lists every tensor.
    #[must_use]
    pub fn keys(mut self, keys: bool) -> Self {
        self.keys = keys;
        self
    }

    /// Leaves out what the program can do with the file, which an audit does not report.
    pub(super) fn for_audit(mut self) -> Self {
        self.is_for_audit = true;
        self
    }

    /// Identifies the VAE with these files. Then the VAE is read.
    #[must_use]
    pub fn known_vaes(mut self, known: &'a KnownVaes) -> Self {
        self.known_vaes = Some(known);
        self
    }

    /// Reports progress to `progress`, which may also interrupt the work.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Inspects the file.
    pub fn run(&self) -> Result<Inspection> {
        let stored = StoredCheckpoint::open_with(&self.path, &OpenOptions::new().keep_dangers().keep_trailing_bytes())?;
        let is_hashed = stored.file_bytes() <= HASHED_BYTES && stored.container() != Container::Diffusers;
        let known = if is_hashed { published::find(&stored, self.progress)? } else { None };
        let detection = Checkpoint::detect(&stored);
        // Components are counted by LDM names. If a folder has keys without LDM names, all its keys are counted as stored.
        let translated = Checkpoint::from_stored(stored.clone());
        let state_dict = translated.as_ref().map_or_else(|_| stored.state_dict(), Checkpoint::state_dict);
        let pipeline = stored.configs().get("model_index").and_then(|index| index.get("_class_name")?.as_str());
        let identity = match pipeline {
            Some(class) => Identity::of(state_dict).in_folder_of(class),
            None => Identity::of(state_dict),
        };
        let metadata = translated.as_ref().map_or_else(|_| stored.metadata(), Checkpoint::metadata);
        let parameterization = parameterization::read(&stored, state_dict, metadata, &detection)?;
        let (repairs, unrepairable) = translated.as_ref().map_or_else(|_| Default::default(), repairs);
        let mut inspection = Inspection::new(
            &stored,
            Contents {
                uses: match &translated {
                    Ok(checkpoint) if !self.is_for_audit => uses::of(checkpoint, &parameterization),
                    _ => Vec::new(),
                },
                components: components(state_dict, identity.kind, detection.architecture()),
                quantization: quantization::Survey::of(state_dict).counts(),
                identity,
                detection,
                parameterization,
                repairs,
                unrepairable,
                published: known,
            },
            self.keys,
        );
        if let (Some(_), Ok(checkpoint)) = (self.known_vaes, &translated) {
            let (only, jobs) = (|component| component == Component::Vae, parallel::default_jobs());
            let values = Values::read_only(checkpoint, only, Dtype::F16, jobs, self.progress)?;
            inspection.which_vae = which_vae::identify(&self.path, &values, self.known_vaes);
        }
        Ok(inspection)
    }
}

/// Returns the repairs of a file, or the defect that cannot be repaired.
fn repairs(checkpoint: &Checkpoint) -> (Vec<Repair>, Option<String>) {
    // A file without tensors has nothing to repair, which its kind says.
    if checkpoint.state_dict().is_empty() {
        return Default::default();
    }
    match repair::plan(checkpoint) {
        Ok(repaired) => (repaired.repairs, None),
        Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Missing | Kind::Mismatch) => {
            let tensor = error.tensor().map_or_else(String::new, |key| format!("{key}: "));
            (Vec::new(), Some(format!("{tensor}{}", error.message())))
        }
        // Others are not about defects, such as a tensor that cannot be read.
        Err(_) => Default::default(),
    }
}
