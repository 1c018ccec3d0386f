//! Reads, merges, converts, scans and verifies Stable Diffusion checkpoints, without executing code from them.
//!
//! [`Checkpoint::open`] opens a `.safetensors` file, a PyTorch file of any age (`.ckpt .pt .pth .bin`) or a diffusers
//! folder. The content determines the format, not the name. Opening reads only headers, and the keys are LDM names
//! whatever the layout of the file:
//!
//! ```
//! use trinart_ckpt::Checkpoint;
//!
//! # fn main() -> trinart_ckpt::Result<()> {
//! let checkpoint = Checkpoint::open("fixtures/tiny-sd1.ckpt")?;
//! let tensor = checkpoint.state_dict().get("first_stage_model.encoder.conv_in.weight").unwrap();
//! assert_eq!(tensor.shape().dims().len(), 4);
//! # Ok(())
//! # }
//! ```
//!
//! A checkpoint whose pickle would run code when loaded with Python is an error. This library never executes it.
//! [`OpenOptions`] make exceptions explicit: take only the tensors, or open the file to report on it.
//!
//! ```
//! use trinart_ckpt::{Checkpoint, Hint, OpenOptions};
//!
//! # fn main() -> trinart_ckpt::Result<()> {
//! let path = "fixtures/hostile/calls-system.ckpt";
//! let error = Checkpoint::open(path).unwrap_err();
//! assert_eq!(error.hint(), Some(Hint::Sanitize));
//! let tensors_only = Checkpoint::open_with(path, &OpenOptions::new().sanitize())?;
//! assert!(tensors_only.metadata().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Operations are builders: [`MergeVae`], [`Convert`], [`Compare`], [`Scan`], [`Inspect`], [`HashCheckpoint`] and, with the feature
//! `render`, `RenderCheck`. Each returns the report that the program prints. `plan` is a dry run; `write` writes the
//! output whole or not at all, and reads it back.
//!
//! ```
//! use trinart_ckpt::{Checkpoint, MergeVae};
//!
//! # fn main() -> trinart_ckpt::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let output = folder.path().join("merged.safetensors");
//! let base = Checkpoint::open("fixtures/tiny-sd1.ckpt")?;
//! let vae = Checkpoint::open("fixtures/tiny-vae.vae.pt")?;
//! let merge = MergeVae::new(&base, &vae);
//! let planned = merge.plan(&output)?;
//! let report = merge.write(&output)?;
//! assert_eq!((report.tensors, report.verified), (planned.tensors, true));
//! # Ok(())
//! # }
//! ```
//!
//! An operation reports to a [`Progress`], which can also interrupt it:
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use trinart_ckpt::{Checkpoint, Convert, Progress};
//!
//! /// Prints how much is done, and stops after a limit.
//! struct Printer {
//!     done: AtomicU64,
//!     limit: u64,
//! }
//!
//! impl Progress for Printer {
//!     fn begin(&self, what: &'static str, bytes: u64) {
//!         println!("{what}: {bytes} bytes");
//!     }
//!
//!     // Several threads call this.
//!     fn advance(&self, bytes: u64) {
//!         let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
//!         println!("{done} bytes done");
//!     }
//!
//!     fn interrupted(&self) -> bool {
//!         self.done.load(Ordering::Relaxed) > self.limit
//!     }
//! }
//!
//! # fn main() -> trinart_ckpt::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let output = folder.path().join("model.safetensors");
//! let checkpoint = Checkpoint::open("fixtures/tiny-sd1.ckpt")?;
//! let patient = Printer { done: AtomicU64::new(0), limit: u64::MAX };
//! Convert::new(&checkpoint).progress(&patient).write(&output)?;
//! let impatient = Printer { done: AtomicU64::new(0), limit: 1000 };
//! let error = Convert::new(&checkpoint).progress(&impatient).overwrite(true).write(&output).unwrap_err();
//! assert_eq!(error.kind(), trinart_ckpt::Kind::Interrupted);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! - `cli` (default): the program. A library can do without it and its dependencies.
//! - `render` (default): `RenderCheck`, with candle.
//! - `remote` (default): [`remote`], which opens addresses in place of paths once [connected](remote::Network::connect).
//! - `cuda`: `RenderCheck` on NVIDIA GPUs. Experimental.
//!
//! # Crates
//!
//! The crates below are public as modules: [`formats`] knows files and no models, [`models`] knows architectures and
//! plans, and `render` draws pictures.

pub use trinart_ckpt_formats as formats;
pub use trinart_ckpt_models as models;
#[cfg(feature = "remote")]
pub use trinart_ckpt_remote as remote;
#[cfg(feature = "render")]
pub use trinart_ckpt_render as render;

#[cfg(feature = "cli")]
pub mod cli;
pub mod ops;
pub mod report;

#[cfg(feature = "render")]
pub use ops::RenderCheck;
pub use ops::{Compare, Convert, FolderOptions, HashCheckpoint, Inspect, MergeVae, Scan};
pub use trinart_ckpt_formats::containers::Target;
pub use trinart_ckpt_formats::error::{Error, Hint, Kind, Result};
pub use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};
pub use trinart_ckpt_formats::{
    Container, Dangers, Metadata, NoProgress, OpenOptions, Progress, StateDict, StoredCheckpoint,
};
pub use trinart_ckpt_models::family::Prediction;
pub use trinart_ckpt_models::plan::assemble::Parts;
pub use trinart_ckpt_models::plan::convert::Ema;
pub use trinart_ckpt_models::plan::merge_vae::VaeDtype;
pub use trinart_ckpt_models::plan::patterns::{Pattern, Renaming};
pub use trinart_ckpt_models::plan::{ComponentDtype, TextEncoder};
pub use trinart_ckpt_models::{Checkpoint, Component, Notice, NoticeCode};
#[cfg(feature = "render")]
pub use trinart_ckpt_render::job::Device;
#[cfg(feature = "render")]
pub use trinart_ckpt_render::settings::RenderOptions;
