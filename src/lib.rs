//! Stable Diffusion checkpoints: read, merged, converted and verified without running anything in their pickles.

pub use formats;
pub use models;
#[cfg(feature = "render")]
pub use render;

pub mod cli;
pub mod ops;
pub mod report;

pub use formats::{Error, Kind, Metadata, Result, StateDict};
