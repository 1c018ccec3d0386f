//! Opens Stable Diffusion checkpoints safely: safetensors files, PyTorch files of any age, diffusers folders.

pub mod containers;
pub mod danger;
pub mod error;
pub mod io;
pub mod limits;
pub mod metadata;
pub mod pickle;
pub mod scan;
mod serialize;
pub mod state_dict;
pub mod tensor;

pub use containers::{Dangers, OpenOptions, StoredCheckpoint};
pub use error::{Error, Kind, Result};
pub use metadata::Metadata;
pub use state_dict::StateDict;
