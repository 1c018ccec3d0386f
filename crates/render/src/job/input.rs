//! The input of a render: a checkpoint, with its name and hash.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::checks::{Check, Verdict};
use crate::pipeline::Model;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::{NoProgress, Source};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::hash::{file_sha256, legacy_hash};
use trinart_ckpt_models::hyperparameters::Hyperparameters;
use trinart_ckpt_models::parameterization::Parameterization;
use trinart_ckpt_models::position_ids::{self, State};

/// Hexadecimal digits of a sha256 in a picture's parameters, as in WebUI.
const HASH_DIGITS: usize = 10;

/// A checkpoint in LDM names, with the name and the hash for a picture's parameters.
#[derive(Clone)]
pub struct RenderInput {
    state_dict: Arc<StateDict>,
    path: PathBuf,
    hash: ModelHash,
    parameterization: Option<Arc<Parameterization>>,
    hyperparameters: Arc<Hyperparameters>,
    vae: Option<(String, Option<String>)>,
}

#[derive(Clone)]
enum ModelHash {
    /// A folder, or a state dict without a file.
    None,
    Known(String),
    /// The hash of this file, computed during the render.
    File(Arc<Source>),
}

impl RenderInput {
    /// Returns an input without a hash. `path` names the checkpoint in errors and captions; parameters contain its file
    /// stem.
    pub fn new(path: impl Into<PathBuf>, state_dict: Arc<StateDict>) -> Self {
        RenderInput {
            state_dict,
            path: path.into(),
            hash: ModelHash::None,
            parameterization: None,
            hyperparameters: Arc::default(),
            vae: None,
        }
    }

    /// Sets the sha256 of the checkpoint's file, in hexadecimal.
    #[must_use]
    pub fn with_hash(self, sha256: &str) -> Self {
        RenderInput { hash: ModelHash::Known(short_hash(sha256)), ..self }
    }

    /// Hashes this file in the background during the render. Reading it also fills the page cache for the render.
    #[must_use]
    pub fn with_file(self, file: Arc<Source>) -> Self {
        RenderInput { hash: ModelHash::File(file), ..self }
    }

    /// Replaces the state dict with one that has another VAE. `name` and `sha256` are those of the VAE file.
    #[must_use]
    pub fn with_vae(self, state_dict: Arc<StateDict>, name: &str, sha256: Option<&str>) -> Self {
        RenderInput { state_dict, vae: Some((name.to_owned(), sha256.map(short_hash))), ..self }
    }

    /// Sets what the UNet predicts and the constants of the VAE. By default, tensors that are marks tell, or else those of
    /// the published models of the architecture are taken.
    #[must_use]
    pub fn with_parameterization(self, parameterization: Parameterization) -> Self {
        RenderInput { parameterization: Some(Arc::new(parameterization)), ..self }
    }

    /// Sets what the tensors do not show. By default, it is that of the published models.
    #[must_use]
    pub fn with_hyperparameters(self, hyperparameters: Hyperparameters) -> Self {
        RenderInput { hyperparameters: Arc::new(hyperparameters), ..self }
    }

    /// Returns the model.
    ///
    /// Fails for models that cannot be rendered.
    pub fn model(&self) -> Result<Model> {
        let state_dict = Arc::clone(&self.state_dict);
        let model = match &self.parameterization {
            Some(parameterization) => Model::with_parameterization(state_dict, parameterization),
            None => Model::new(state_dict),
        };
        Ok(model?.with_hyperparameters(Arc::clone(&self.hyperparameters)))
    }

    /// Replaces the state dict with one that has other weights.
    #[must_use]
    pub(super) fn with_weights(self, state_dict: Arc<StateDict>) -> Self {
        RenderInput { state_dict, ..self }
    }

    /// The tensors, in LDM names.
    pub fn state_dict(&self) -> &Arc<StateDict> {
        &self.state_dict
    }

    /// The path of the checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name in a picture's parameters: the file name without its extension. Empty for a path without a file name,
    /// such as `..`.
    pub fn name(&self) -> String {
        self.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    }

    /// The name and the hash of a VAE that replaced the checkpoint's.
    pub fn vae(&self) -> Option<(&str, Option<&str>)> {
        self.vae.as_ref().map(|(name, hash)| (name.as_str(), hash.as_deref()))
    }

    /// The hash, if it is available without reading the file.
    pub(super) fn known_hash(&self) -> Option<&str> {
        match &self.hash {
            ModelHash::Known(hash) => Some(hash),
            ModelHash::None | ModelHash::File(_) => None,
        }
    }

    /// The model hash of WebUI before January 2023. `None` without a file. Reads 64 KiB.
    pub(super) fn legacy_hash(&self) -> Result<Option<String>> {
        match &self.hash {
            ModelHash::File(file) => legacy_hash(file).map(Some),
            ModelHash::Known(_) | ModelHash::None => Ok(None),
        }
    }

    /// Starts hashing the file in a thread, or hashes it at once if not `in_background`.
    pub(super) fn start_hash(&self, in_background: bool) -> Result<PendingHash> {
        Ok(match self.hash.clone() {
            ModelHash::None => PendingHash::Ready(None),
            ModelHash::Known(hash) => PendingHash::Ready(Some(hash)),
            ModelHash::File(file) if in_background => {
                let source = Arc::clone(&file);
                let thread = std::thread::Builder::new().spawn(move || file_sha256(&source, &NoProgress));
                match thread {
                    Ok(thread) => PendingHash::Thread(thread),
                    // The system allows no further thread.
                    Err(_) => PendingHash::Ready(Some(short_hash(&file_sha256(&file, &NoProgress)?))),
                }
            }
            ModelHash::File(file) => PendingHash::Ready(Some(short_hash(&file_sha256(&file, &NoProgress)?))),
        })
    }

    /// Checks `position_ids`, the constant 0 to 76. A render always uses the correct values. WebUI uses the stored
    /// ones, and renders a different picture if they are wrong.
    pub(super) fn position_ids_checks(&self) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        for (key, tensor) in self.state_dict.iter().filter(|(key, _)| position_ids::is_key(key)) {
            let state = position_ids::check(tensor, position_ids::positions(&self.state_dict, key));
            let found = match state.map_err(|error| error.in_tensor(key))? {
                State::Correct => continue,
                State::WrongDtype => format!("correct values, but dtype {}; rendered with I64", tensor.dtype()),
                State::WrongValues => format!("wrong values, dtype {}; rendered with the correct ones", tensor.dtype()),
            };
            let expected = "I64, 0 to 76: WebUI uses the stored values; a conversion can fix them".to_owned();
            checks.push(Check { name: "position_ids", verdict: Verdict::Repaired, found, expected });
        }
        Ok(checks)
    }
}

/// A hash that a thread may still be computing.
pub(super) enum PendingHash {
    Ready(Option<String>),
    Thread(JoinHandle<Result<String>>),
}

impl PendingHash {
    /// Waits for the hash.
    pub(super) fn wait(self) -> Result<Option<String>> {
        match self {
            PendingHash::Ready(hash) => Ok(hash),
            PendingHash::Thread(thread) => {
                let sha256 =
                    thread.join().map_err(|_| Error::internal("the thread that hashes the file panicked"))??;
                Ok(Some(short_hash(&sha256)))
            }
        }
    }
}

fn short_hash(sha256: &str) -> String {
    sha256.chars().take(HASH_DIGITS).collect()
}
