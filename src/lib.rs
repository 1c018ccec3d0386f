//! Stable Diffusion checkpoints: read, merged, converted and verified without running a line of their pickles.

pub mod error;
pub mod format;
pub mod io;
pub mod limits;
pub mod metadata;
pub mod pickle;
pub mod state_dict;
pub mod tensor;

pub use error::{Error, Kind, Result};
pub use metadata::{Metadata, Plain};
pub use state_dict::StateDict;
