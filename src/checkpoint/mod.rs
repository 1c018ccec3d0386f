//! A checkpoint: what a file holds, and the hashes by which it is known.

pub mod hash;

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::{self, Contents};
use crate::io::Progress;

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

    /// What the file holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.contents.source.path()
    }

    /// The file's name without its folders.
    pub fn file_name(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.contents.source.len()
    }

    /// The sha256 of the whole file, in hexadecimal; WebUI shows its first ten digits. Reads all of it.
    pub fn sha256(&self, progress: &dyn Progress) -> Result<String> {
        hash::file_sha256(&self.contents.source, progress)
    }

    /// The error of a tensor that is in the file but cannot be taken into an output.
    pub fn unreadable_error(&self, key: &str, reason: &str) -> Error {
        Error::unsupported(reason).in_tensor(key).in_file(self.path())
    }
}
