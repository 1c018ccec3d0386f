//! Opened checkpoints, their hashes, and the comparison of tensors.


use std::path::Path;
use std::sync::Arc;

use crate::hash::FileHashes;
use formats::error::{Error, Hint, Result};
use formats::containers::{self, Container, Contents, OpaqueValue};
use formats::io::{Progress, Source};
use formats::metadata::PyValue;
use formats::state_dict::StateDict;

/// An opened checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    contents: Contents,
}

impl Checkpoint {
    /// Opens a checkpoint of any container. Reads only headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Checkpoint { contents: containers::open(path)? })
    }

    /// Drops everything but the tensors if the pickle is dangerous. Otherwise returns the checkpoint unchanged.
    #[must_use]
    pub fn sanitized(mut self) -> Self {
        if self.contents.dangers.is_empty() {
            return self;
        }
        let dropped = |(name, _)| OpaqueValue { path: name, what: "dropped because the pickle is dangerous".into() };
        let metadata = std::mem::take(&mut self.contents.metadata);
        self.contents.opaque.extend(metadata.into_iter().map(dropped));
        let dangers = self.contents.dangers.iter();
        let named = dangers
            .map(|danger| OpaqueValue { path: danger.name.clone(), what: format!("DANGEROUS: {}", danger.reason) });
        self.contents.opaque.extend(named);
        self
    }

    /// Replaces the state dict, such as by one with the same tensors under other keys.
    #[must_use]
    pub fn with_tensors(mut self, state_dict: StateDict) -> Self {
        self.contents.state_dict = state_dict;
        self
    }

    /// Adds metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl IntoIterator<Item = (String, PyValue)>) -> Self {
        self.contents.metadata.extend(metadata);
        self
    }

    /// The contents of the file.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.contents.path
    }

    /// The file name, or the whole path if it has none.
    pub fn file_name(&self) -> String {
        self.path().file_name().unwrap_or(self.path().as_os_str()).to_string_lossy().into_owned()
    }

    /// The size in bytes of the file, or of all weight files of a folder.
    pub fn file_bytes(&self) -> u64 {
        self.contents.sources.iter().map(|source| source.len()).sum()
    }

    /// Returns the file. Fails for a folder.
    pub fn file(&self) -> Result<&Arc<Source>> {
        match self.contents.sources.as_slice() {
            [source] => Ok(source),
            _ => Err(Error::unsupported("a folder has no file hash").in_file(self.path())),
        }
    }

    /// Returns the sha256 of the file, hexadecimal. Reads the whole file. Fails for a folder.
    pub fn sha256(&self, progress: &dyn Progress) -> Result<String> {
        crate::hash::file_sha256(self.file()?, progress)
    }

    /// Fails if the pickle of the file is dangerous. Nothing in it is ever executed here, but its output would hide the
    /// danger.
    pub fn refuse_dangers(&self) -> Result<()> {
        let Some(danger) = self.contents.dangers.first() else { return Ok(()) };
        let more = match self.contents.dangers.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let text = danger.to_text();
        let found = format!("{text}{more}; nothing was executed");
        Err(Error::unsupported(found)
            .with_hint(Hint::Sanitize)
            .at(danger.offset)
            .in_record(self.contents.container.pickle())
            .in_file(self.path()))
    }

    /// Returns the file that holds all tensors with a wanted key. Fails if there are several files.
    pub fn file_of(&self, is_wanted: impl Fn(&str) -> bool) -> Result<&Arc<Source>> {
        let tensors = self.contents.state_dict.iter().filter(|(key, _)| is_wanted(key));
        let mut sources = tensors.flat_map(|(_, tensor)| tensor.storages()).map(|storage| storage.source());
        let first = sources.next();
        match first.filter(|first| sources.all(|other| Arc::ptr_eq(first, other))) {
            Some(source) => {
                self.contents.sources.iter().find(|known| Arc::ptr_eq(known, source)).map_or_else(|| self.file(), Ok)
            }
            None => self.file(),
        }
    }

    /// Returns the file hashes of model pages and pictures. Reads the file once, or twice for safetensors. Fails for a
    /// folder.
    pub fn file_hashes(&self, jobs: usize, progress: &dyn Progress) -> Result<FileHashes> {
        let source = self.file()?;
        let data = match self.contents.container {
            Container::Safetensors => Some(containers::safetensors::data_offset(source)?),
            Container::TorchZip | Container::TorchLegacy | Container::Diffusers => None,
        };
        FileHashes::new(source, data, jobs, progress)
    }

    /// Fails if the file has a tensor that cannot be read.
    pub fn refuse_unreadable(&self) -> Result<()> {
        match self.contents.unreadable.first() {
            Some(unreadable) => Err(self.unreadable_error(&unreadable.key, &unreadable.reason)),
            None => Ok(()),
        }
    }

    /// Returns the error for a tensor that cannot be read.
    pub fn unreadable_error(&self, key: &str, reason: &str) -> Error {
        Error::unsupported(reason).in_tensor(key).in_file(self.path())
    }
}
