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
//! Operations are builders: [`MergeVae`], [`Convert`], [`Compare`], [`Scan`], [`Inspect`], [`Hash`] and, with the feature
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
//! The crates below are public as modules: [`formats`] knows files and no models, [`models`] knows architectures and
//! plans, and `render` draws pictures.

pub use trinart_ckpt_formats as formats;
pub use trinart_ckpt_models as models;
#[cfg(feature = "render")]
pub use trinart_ckpt_render as render;

pub mod cli;
pub mod ops;
pub mod report;

#[cfg(feature = "render")]
pub use ops::RenderCheck;
pub use ops::{Compare, Convert, FolderOptions, Hash, Inspect, MergeVae, Scan};
pub use trinart_ckpt_formats::containers::Target;
pub use trinart_ckpt_formats::error::{Error, Hint, Kind, Result};
pub use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};
pub use trinart_ckpt_formats::{Dangers, Metadata, OpenOptions, StateDict, StoredCheckpoint};
pub use trinart_ckpt_models::plan::convert::Ema;
pub use trinart_ckpt_models::plan::merge_vae::VaeDtype;
pub use trinart_ckpt_models::{Checkpoint, Component};
