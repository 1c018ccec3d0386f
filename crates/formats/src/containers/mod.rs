//! Containers: detects, opens and writes checkpoint files. Each container has a folder of its name.
//!
//! [`StoredCheckpoint::open`] checks all headers and reads no tensor. [`write()`] computes every offset before it writes the
//! first byte.

mod copy;
pub mod diffusers;
mod file_hash;
mod file_layout;
mod payload;
pub mod safetensors;
mod sniff;
mod stored_checkpoint;
mod structure;
mod target;
mod torch;
mod verify;
mod write;
mod write_options;
pub(crate) mod zip;

use std::path::Path;

pub(crate) use sniff::{is_safetensors, is_tar, sniff};
pub use stored_checkpoint::{Dangers, OpaqueValue, OpenOptions, StoredCheckpoint, TrailingBytes, UnreadableTensor};
pub use structure::{Nesting, Step, Structure};
pub use target::Target;
pub(crate) use torch::{StorageSize, storage_sizes};
pub use write::{check_folder, check_folder_destination, check_target, write, write_folder};
pub use write_options::{WriteOptions, Written};

use crate::error::Result;
use crate::io::{Source, is_dir};

/// The containers that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Container {
    /// A safetensors file: a JSON header, then the tensors.
    Safetensors,
    /// The format of `torch.save` since PyTorch 1.6: a zip of a pickle and one record per storage.
    TorchZip,
    /// The format of `torch.save` before PyTorch 1.6: five pickles, then the storages.
    TorchLegacy,
    /// A diffusers folder, or the folder of one component.
    Diffusers,
}

impl Container {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Container::Safetensors => "safetensors",
            Container::TorchZip => "torch-zip",
            Container::TorchLegacy => "torch-legacy",
            Container::Diffusers => "diffusers-folder",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Container::Safetensors => "safetensors",
            Container::TorchZip => "torch zip",
            Container::TorchLegacy => "torch legacy",
            Container::Diffusers => "diffusers folder",
        }
    }

    /// The name of the pickle that offsets of global names are relative to; "none" for a container without pickles.
    pub fn pickle(self) -> &'static str {
        match self {
            Container::Safetensors => "none",
            Container::TorchZip | Container::Diffusers => "data.pkl",
            Container::TorchLegacy => "object pickle",
        }
    }
}

/// Reads the headers and pickles of a file or folder, but no tensor. Accepts dangerous pickles.
pub(crate) fn read(path: &Path) -> Result<StoredCheckpoint> {
    if is_dir(path) { diffusers::read(path) } else { open_file(path) }
}

fn open_file(path: &Path) -> Result<StoredCheckpoint> {
    let source = Source::open(path)?;
    let contents = match sniff(&source)? {
        Container::Safetensors => safetensors::read(&source),
        Container::TorchZip => torch::read_zip(&source),
        Container::TorchLegacy => torch::read_legacy(&source),
        Container::Diffusers => diffusers::read(path),
    };
    contents.map_err(|error| error.in_file(path))
}
