//! Stable Diffusion checkpoints: read, merged, converted and verified without running a line of their pickles.
//!
//! The way of the data: [`checkpoint::Checkpoint::open`] finds the tensors of a file, [`plan`] decides what becomes of
//! each, [`format::write`] writes the result and holds it against the plan. A tensor stays in its file until its bytes
//! are moved.
//!
//! ```no_run
//! use trinart_ckpt::checkpoint::Checkpoint;
//! use trinart_ckpt::format::{self, Target, WriteOptions};
//! use trinart_ckpt::plan::{Resolved, convert};
//!
//! # fn main() -> trinart_ckpt::Result<()> {
//! let checkpoint = Checkpoint::open("model.ckpt")?;
//! let resolved = convert::plan(&checkpoint, &convert::Options::default())?;
//! let Resolved { state_dict, metadata, .. } = &resolved;
//! format::write("model.safetensors".as_ref(), Target::Safetensors, state_dict, metadata, &WriteOptions::default())?;
//! # Ok(())
//! # }
//! ```

pub mod checkpoint;
pub mod cli;
pub mod danger;
pub mod error;
pub mod format;
pub mod io;
pub mod limits;
pub mod metadata;
pub mod model;
pub mod ops;
pub mod pickle;
pub mod plan;
#[cfg(feature = "render")]
pub mod render;
pub mod report;
pub mod scan;
pub mod state_dict;
pub mod tensor;

pub use error::{Error, Kind, Result};
pub use metadata::{Metadata, PyValue};
pub use state_dict::StateDict;
