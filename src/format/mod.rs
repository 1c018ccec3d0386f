//! Containers: what a file is, opening it, writing it. One folder each, the same file names in each.
//!
//! [`open()`] checks every fact and moves no tensor; [`write()`] knows every offset before the first byte.

mod contents;
pub mod diffusers;
mod frame;
mod payload;
pub mod safetensors;
mod sniff;
pub mod torch;
mod verify;
mod write;
pub(crate) mod zip;

use std::path::Path;

pub use contents::{Contents, Opaque, Unreadable};
pub(crate) use sniff::is_tar;
pub use sniff::sniff;
pub use write::{
    Target, WriteOptions, Written, check_folder, check_folder_destination, check_target, write, write_folder,
};

use crate::error::Result;
use crate::io::Source;

/// The containers this program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// safetensors: a JSON header, then the tensors.
    Safetensors,
    /// What `torch.save` writes since PyTorch 1.6: a zip with a pickle and one record per storage.
    TorchZip,
    /// What `torch.save` wrote before: five pickles, then the storages.
    TorchLegacy,
    /// A folder of diffusers, or the folder of one component.
    Diffusers,
}

impl Container {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Container::Safetensors => "safetensors",
            Container::TorchZip => "torch zip",
            Container::TorchLegacy => "torch legacy",
            Container::Diffusers => "diffusers folder",
        }
    }

    /// The name of the pickle that offsets of its names count in.
    pub fn pickle(self) -> &'static str {
        match self {
            Container::Safetensors => "none",
            Container::TorchZip | Container::Diffusers => "data.pkl",
            Container::TorchLegacy => "object pickle",
        }
    }
}

/// Opens a checkpoint of any container, found by its content, or a diffusers folder. Costs its headers, whatever its
/// size.
pub fn open(path: impl AsRef<Path>) -> Result<Contents> {
    let path = path.as_ref();
    if path.is_dir() { diffusers::read(path) } else { open_file(path) }
}

fn open_file(path: &Path) -> Result<Contents> {
    let source = Source::open(path)?;
    let contents = match sniff(&source)? {
        Container::Safetensors => safetensors::read(&source),
        Container::TorchZip => torch::read_zip(&source),
        Container::TorchLegacy => torch::read_legacy(&source),
        Container::Diffusers => diffusers::read(path),
    };
    contents.map_err(|error| error.in_file(path))
}
