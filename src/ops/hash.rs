use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::jobs::check_jobs;
use super::run_methods::run_methods;
use super::which_vae::{self, KnownVaes};
use crate::report::{Hashes, LeftOut};
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::{Checkpoint, published};

/// Hashes a file as WebUI and model pages do, and the content of each component.
///
/// A content hash does not depend on the container or on the order of tensors, so it identifies the VAE inside a
/// checkpoint.
#[derive(Clone)]
pub struct HashCheckpoint<'a> {
    path: PathBuf,
    known_vaes: Option<&'a KnownVaes>,
    jobs: usize,
    progress: &'a dyn Progress,
}

run_methods!(HashCheckpoint, jobs, progress);

impl<'a> HashCheckpoint<'a> {
    /// Returns an operation that hashes a file or a diffusers folder.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let (path, jobs) = (path.as_ref().to_owned(), parallel::default_jobs());
        HashCheckpoint { path, known_vaes: None, jobs, progress: &NoProgress }
    }

    /// Identifies the VAE with these files.
    #[must_use]
    pub fn known_vaes(mut self, known: &'a KnownVaes) -> Self {
        self.known_vaes = Some(known);
        self
    }

    /// Reads the whole file and hashes it. Lists tensors that cannot be read; the hashes of components leave them out.
    pub fn run(&self) -> Result<Hashes> {
        check_jobs(self.jobs)?;
        let checkpoint = Checkpoint::open_with(&self.path, &OpenOptions::new().keep_dangers())?;
        let named = checkpoint.in_ldm_names();
        let contents = Contents::read(&checkpoint, named.state_dict(), self.jobs, self.progress)?;
        let file = contents.file.clone();
        let known = file.as_ref().and_then(|file| published::identify(checkpoint.file_bytes(), &file.sha256));
        let components = contents.components().map(|component| (component, contents.exact(component))).collect();
        let unreadable = LeftOut::unreadable(checkpoint.stored());
        let mut hashes = Hashes::new(&self.path, file, known, components, unreadable, contents.non_finite());
        let rounded = contents.components().filter_map(|component| Some((component, contents.rounded(component)?)));
        hashes.rounded = rounded.collect();
        hashes.toolkit =
            Some(contents.sums().to_text()).filter(|text| text.contains(|letter: char| letter.is_ascii_digit()));
        hashes.which_vae = which_vae::identify(&self.path, &contents, self.known_vaes, self.progress);
        hashes.which_text_encoder = contents
            .sums()
            .text_encoder_name()
            .map(|name| format!("like {name}, by model-toolkit's number; perhaps not equal"));
        Ok(hashes)
    }
}
