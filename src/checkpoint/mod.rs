//! A checkpoint: what a file holds, and the hashes by which it is known.

pub mod compare;
pub mod hash;

use std::path::Path;
use std::sync::Arc;

use self::hash::FileHashes;
use crate::error::{Error, Result};
use crate::format::{self, Container, Contents, OpaqueValue};
use crate::io::{Progress, Source};
use crate::metadata::PyValue;
use crate::state_dict::StateDict;

/// An opened checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    contents: Contents,
}

impl Checkpoint {
    /// Opens a checkpoint of any container. Costs its headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Checkpoint { contents: format::open(path)? })
    }

    /// The checkpoint reduced to its tensors, if its pickle names something dangerous; else as it is.
    #[must_use]
    pub fn sanitized(mut self) -> Self {
        if self.contents.dangers.is_empty() {
            return self;
        }
        let left = |(name, _)| OpaqueValue { path: name, what: "left behind with the dangerous names".into() };
        let metadata = std::mem::take(&mut self.contents.metadata);
        self.contents.opaque.extend(metadata.into_iter().map(left));
        let dangers = self.contents.dangers.iter();
        let named = dangers
            .map(|danger| OpaqueValue { path: danger.name.clone(), what: format!("DANGEROUS: {}", danger.reason) });
        self.contents.opaque.extend(named);
        self
    }

    /// The same file with other tensors in it: the same ones under other names.
    #[must_use]
    pub fn with_tensors(mut self, state_dict: StateDict) -> Self {
        self.contents.state_dict = state_dict;
        self
    }

    /// The same file with this metadata besides its own.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl IntoIterator<Item = (String, PyValue)>) -> Self {
        self.contents.metadata.extend(metadata);
        self
    }

    /// What the file holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.contents.path
    }

    /// The file's name without its folders.
    pub fn file_name(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Bytes of the file, or of a folder's weights.
    pub fn file_bytes(&self) -> u64 {
        self.contents.sources.iter().map(|source| source.len()).sum()
    }

    /// The one file of a checkpoint that is one.
    pub fn file(&self) -> Result<&Arc<Source>> {
        match self.contents.sources.as_slice() {
            [source] => Ok(source),
            _ => Err(Error::unsupported("a folder has no hash of its own; its files have").in_file(self.path())),
        }
    }

    /// The sha256 of the whole file, in hexadecimal; WebUI shows its first ten digits. Reads all of it.
    pub fn sha256(&self, progress: &dyn Progress) -> Result<String> {
        hash::file_sha256(self.file()?, progress)
    }

    /// An error if the file's pickle names something dangerous. Nothing of it was or will be run here; but who keeps
    /// such a file will want to know before anything is made of it.
    pub fn refuse_dangers(&self) -> Result<()> {
        let Some(danger) = self.contents.dangers.first() else { return Ok(()) };
        let more = match self.contents.dangers.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let text = danger.to_text();
        let found = format!("{text}{more}; nothing was executed. --sanitize takes the tensors and leaves the rest");
        Err(Error::unsupported(found)
            .at(danger.offset)
            .in_record(self.contents.container.pickle())
            .in_file(self.path()))
    }

    /// The one file that all tensors with such a key lie in; of several, an error.
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

    /// All hashes of the whole file that model pages and pictures show. Reads it once or twice.
    pub fn file_hashes(&self, jobs: usize, progress: &dyn Progress) -> Result<FileHashes> {
        let source = self.file()?;
        let data = match self.contents.container {
            Container::Safetensors => Some(format::safetensors::data_offset(source)?),
            Container::TorchZip | Container::TorchLegacy | Container::Diffusers => None,
        };
        FileHashes::new(source, data, jobs, progress)
    }

    /// An error if a tensor of the file cannot be taken into an output, or into a comparison.
    pub fn refuse_unreadable(&self) -> Result<()> {
        match self.contents.unreadable.first() {
            Some(unreadable) => Err(self.unreadable_error(&unreadable.key, &unreadable.reason)),
            None => Ok(()),
        }
    }

    /// The error of a tensor that is in the file but cannot be taken into an output.
    pub fn unreadable_error(&self, key: &str, reason: &str) -> Error {
        Error::unsupported(reason).in_tensor(key).in_file(self.path())
    }
}
