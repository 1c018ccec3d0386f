//! Checkpoints, ready to be rendered.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::hash::file_sha256;
use crate::cli::terminal::Terminal;
use crate::error::{Error, Result};
use crate::io::{NoProgress, Source};
use crate::model::position_ids::{self, State};
use crate::plan::{merge_vae, translate};
use crate::render::checks::{Check, Verdict};
use crate::state_dict::StateDict;

/// A checkpoint that can be rendered.
pub(super) struct Model {
    pub(super) state_dict: Arc<StateDict>,
    pub(super) name: String,
    file: Option<Arc<Source>>,
}

/// The first ten digits of a file's sha256, as WebUI shows them, on their way: reading gigabytes once more goes on beside
/// the render, and brings them into the system's memory for it.
pub(super) struct Hash(Option<JoinHandle<Result<String>>>);

impl Hash {
    /// Waits for them. A folder has none.
    pub(super) fn digits(self) -> Result<Option<String>> {
        let Some(thread) = self.0 else { return Ok(None) };
        let sha256 = thread.join().map_err(|_| Error::usage("the hash could not be computed"))??;
        Ok(Some(sha256.chars().take(10).collect()))
    }
}

impl Model {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.refuse_dangers()?;
        let file = checkpoint.file().ok().map(Arc::clone);
        let (checkpoint, _) = translate::to_ldm(checkpoint)?;
        checkpoint.refuse_unreadable()?;
        Ok(Model { state_dict: Arc::new(checkpoint.contents().state_dict.clone()), name: stem(path), file })
    }

    /// Begins to hash the file.
    pub(super) fn hash(&self) -> Hash {
        let hash = |file: Arc<Source>| std::thread::spawn(move || file_sha256(&file, &NoProgress));
        Hash(self.file.clone().map(hash))
    }

    /// The same with another autoencoder, whose name and hash come back.
    pub(super) fn with_autoencoder(
        self,
        base: &Path,
        path: &Path,
        terminal: &Terminal,
    ) -> Result<(Self, String, String)> {
        let vae = Checkpoint::open(path)?;
        vae.refuse_dangers()?;
        let (vae, _) = translate::vae_to_ldm(vae)?;
        let (base, _) = translate::to_ldm(Checkpoint::open(base)?)?;
        let options = merge_vae::Options::default();
        let resolved = merge_vae::plan(&base, &vae, &options)?;
        let hash = match path.is_dir() {
            true => String::new(),
            false => vae.sha256(terminal)?.chars().take(10).collect(),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((Model { state_dict: Arc::new(resolved.state_dict), ..self }, name, hash))
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers of the positions are a constant, which the render knows; where a checkpoint has other ones, WebUI draws
/// another picture.
pub(super) fn judge_position_ids(state_dict: &StateDict) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (key, tensor) in state_dict.iter().filter(|(key, _)| position_ids::is_key(key)) {
        let state = position_ids::check(tensor, position_ids::positions(state_dict, key));
        let found = match state.map_err(|error| error.in_tensor(key))? {
            State::Correct => continue,
            State::WrongDtype => format!("the right numbers, but {}; rendered with I64", tensor.dtype()),
            State::WrongValues => format!("wrong numbers, {}; rendered with the right ones", tensor.dtype()),
        };
        let expected = "I64, 0 to 76: WebUI takes them as they are; convert --fix-position-ids mends them".to_owned();
        checks.push(Check { name: "position_ids", verdict: Verdict::Repaired, found, expected });
    }
    Ok(checks)
}
