use std::path::{Path, PathBuf};

use super::jobs::check_jobs;
use crate::report::{Hashes, LeftOut};
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::hash::read_content;
use trinart_ckpt_models::{Checkpoint, Component, Components, published, vae};

/// Hashes a file as WebUI and model pages do, and the content of each component.
///
/// A content hash does not depend on the container or on the order of tensors, so it identifies the VAE inside a
/// checkpoint.
#[derive(Clone)]
pub struct HashCheckpoint<'a> {
    path: PathBuf,
    jobs: usize,
    progress: &'a dyn Progress,
}

impl<'a> HashCheckpoint<'a> {
    /// Returns an operation that hashes a file or a diffusers folder.
    pub fn new(path: impl AsRef<Path>) -> Self {
        HashCheckpoint { path: path.as_ref().to_owned(), jobs: parallel::default_jobs(), progress: &NoProgress }
    }

    /// Sets the number of threads, at least 1. By default two per CPU, at most eight.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs;
        self
    }

    /// Reports progress to `progress`, which may also interrupt the work.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Reads the whole file and hashes it. Lists tensors that cannot be read; the hashes of components leave them out.
    pub fn run(&self) -> Result<Hashes> {
        check_jobs(self.jobs)?;
        let checkpoint = Checkpoint::open_with(&self.path, &OpenOptions::new().keep_dangers())?;
        let file = match checkpoint.container() {
            Container::Diffusers => None,
            _ => Some(checkpoint.file_hashes(self.jobs, self.progress)?),
        };
        let known = file.as_ref().and_then(|file| published::identify(checkpoint.file_bytes(), &file.sha256));
        let named = checkpoint.in_ldm_names();
        let of = Components::of(named.state_dict());
        let (mut components, mut non_finite) = (Vec::new(), Vec::new());
        for &component in Component::ALL {
            let tensors = || named.state_dict().iter().filter(|(key, _)| of.of_key(key) == component);
            if tensors().next().is_none() {
                continue;
            }
            // The hash of a VAE file uses the keys that the VAE has in a checkpoint.
            let canonical = tensors().map(|(key, tensor)| match component {
                Component::Vae => (vae::canonical_key(key), tensor),
                _ => (key.into(), tensor),
            });
            let found = read_content(canonical, self.jobs, self.progress);
            let found = found.map_err(|error| error.in_file(&self.path))?;
            non_finite.extend(found.non_finite);
            components.push((component, found.hash));
        }
        let unreadable = LeftOut::unreadable(checkpoint.stored());
        Ok(Hashes::new(&self.path, file, known, components, unreadable, non_finite))
    }
}
