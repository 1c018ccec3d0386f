use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use super::jobs::check_jobs;
use super::known_structures::{KnownStructures, Structure};
use super::run_methods::run_methods;
use super::which_vae::KnownVaes;
use crate::report::{Contents, Inspection, TensorTree};
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_formats::{OpenOptions, Result, StoredCheckpoint};
use trinart_ckpt_models::lora::{BaseModel, LoraFit, LoraReading, LoraSummary};
use trinart_ckpt_models::parameterization::SideYaml;
use trinart_ckpt_models::plan::uses;
use trinart_ckpt_models::statistics::statistics;
use trinart_ckpt_models::{Checkpoint, parameterization, published};

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
    statistics: bool,
    tree: Option<usize>,
    jobs: usize,
    known_vaes: Option<&'a KnownVaes>,
    hints_vae: bool,
    base_model: Option<&'a BaseModel>,
    known_structures: Option<&'a KnownStructures>,
    progress: &'a dyn Progress,
}

run_methods!(Inspect, jobs, progress);

impl<'a> Inspect<'a> {
    /// Returns an inspection of a file or a diffusers folder.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Inspect {
            path: path.as_ref().to_owned(),
            keys: false,
            statistics: false,
            tree: None,
            jobs: parallel::default_jobs(),
            known_vaes: None,
            hints_vae: true,
            base_model: None,
            known_structures: None,
            progress: &NoProgress,
        }
    }

    /// Lists every tensor.
    #[must_use]
    pub fn keys(mut self, keys: bool) -> Self {
        self.keys = keys;
        self
    }

    /// Lists every tensor with statistics of its values. Reads the whole file.
    #[must_use]
    pub fn statistics(mut self, statistics: bool) -> Self {
        self.statistics = statistics;
        self
    }

    /// Shows the names of the tensors as a tree of this depth.
    #[must_use]
    pub fn tree(mut self, depth: usize) -> Self {
        self.tree = Some(depth);
        self
    }

    /// Inspects the file for an audit: leaves out what the program can do with it, and looks only once at each structure.
    pub(super) fn for_audit(mut self, known: &'a KnownStructures) -> Self {
        self.known_structures = Some(known);
        self
    }

    /// Identifies the VAE with these files. Reads its small tensors, and all if they are those of a file.
    #[must_use]
    pub fn known_vaes(mut self, known: &'a KnownVaes) -> Self {
        self.known_vaes = Some(known);
        self
    }

    /// Sets whether a VAE that is equal to no known file is read for a hint which one it is. By default it is.
    #[must_use]
    pub fn hint_vae(mut self, hints: bool) -> Self {
        self.hints_vae = hints;
        self
    }

    /// Checks that the modules and shapes of a LoRA fit this model. Other files are errors then.
    #[must_use]
    pub fn base_model(mut self, model: &'a BaseModel) -> Self {
        self.base_model = Some(model);
        self
    }

    /// Inspects the file.
    pub fn run(&self) -> Result<Inspection> {
        check_jobs(self.jobs)?;
        let stored = StoredCheckpoint::open_with(&self.path, &OpenOptions::new().keep_dangers().keep_trailing_bytes())?;
        let is_remote = stored.sources().iter().any(|source| source.is_remote());
        let is_hashed =
            (is_remote || stored.file_bytes() <= HASHED_BYTES) && stored.container() != Container::Diffusers;
        let known = if is_hashed { published::find(&stored, self.progress)? } else { None };
        let translated = OnceCell::new();
        let translated = || translated.get_or_init(|| Checkpoint::from_stored(stored.clone()));
        let look = || Structure::of(&stored, translated());
        let structure = self.known_structures.map_or_else(look, |known| known.of(&stored, look));
        let in_ldm_names = if structure.is_as_stored { None } else { translated().as_ref().ok() };
        let state_dict = in_ldm_names.map_or_else(|| stored.state_dict(), Checkpoint::state_dict);
        let metadata = in_ldm_names.map_or_else(|| stored.metadata(), Checkpoint::metadata);
        let yaml = SideYaml::beside_here;
        let parameterization = parameterization::read(&stored, state_dict, metadata, &structure.detection, yaml)?;
        let uses = match self.known_structures {
            None => translated().as_ref().map_or_else(|_| Vec::new(), |it| uses::of(it, &parameterization)),
            // An audit does not report them.
            Some(_) => Vec::new(),
        };
        let lora = match (structure.identity.kind.is_adapter(), self.known_structures, translated()) {
            // An audit reads headers only.
            (true, None, Ok(checkpoint)) => {
                let reading = LoraReading {
                    // Each alpha would be a request of its own.
                    alphas: !is_remote || self.statistics,
                    modules: self.keys || self.statistics,
                    spectra: self.statistics,
                };
                let found = LoraSummary::read(checkpoint, structure.identity.model, reading, self.jobs, self.progress);
                Some(found.map_err(|error| error.in_file(&self.path))?)
            }
            _ => None,
        };
        let (repairs, unrepairable) = structure.defects.into_parts();
        let mut inspection = Inspection::new(
            &stored,
            Contents {
                uses,
                components: structure.components,
                quantization: structure.quantization,
                lora,
                identity: structure.identity,
                detection: structure.detection,
                parameterization,
                repairs,
                unrepairable,
                published: known,
            },
            self.keys || self.statistics,
        );
        inspection.tree = self.tree.map(|depth| TensorTree::of(stored.state_dict(), depth));
        if let Some(entries) = inspection.keys.as_mut().filter(|_| self.statistics) {
            let tensors: Vec<&LazyTensor> = stored.state_dict().iter().map(|(_, tensor)| tensor).collect();
            let found = statistics(&tensors, self.jobs, self.progress).map_err(|error| error.in_file(&self.path))?;
            entries.iter_mut().zip(found).for_each(|(entry, found)| entry.statistics = found);
        }
        if let Some(model) = self.base_model {
            inspection.lora_fit = Some(LoraFit::of(&Checkpoint::from_stored(stored.clone())?, model)?);
        }
        if let Some(known) = self.known_vaes
            && let Ok(checkpoint) = translated()
        {
            inspection.which_vae = known.identify(checkpoint, self.hints_vae, self.progress)?;
        }
        Ok(inspection)
    }
}
