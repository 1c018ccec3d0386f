//! What is inside a Stable Diffusion checkpoint, and plans that merge or convert it.
//!
//! This crate builds on [`formats`], which reads and writes files and knows no model. It reads tensors only to hash and to
//! compare them. Plans read no tensor data, except position_ids that are to be fixed.
//!
//! # Open a checkpoint
//!
//! [`Checkpoint::open`] opens a safetensors file, a PyTorch file or a diffusers folder. Whatever the layout of the file,
//! the keys are LDM names, those of the original Latent Diffusion code: `model.diffusion_model.*` is the UNet,
//! `first_stage_model.*` the VAE, and `cond_stage_model.*` the text encoder.
//!
//! ```
//! use trinart_ckpt_models::Checkpoint;
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let file = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let folder = Checkpoint::open("../../fixtures/diffusers/sd1")?;
//! for checkpoint in [&file, &folder] {
//!     assert!(checkpoint.state_dict().contains("first_stage_model.encoder.conv_in.weight"));
//! }
//! // The keys as the folder stores them:
//! assert!(folder.stored().state_dict().contains("vae/encoder.conv_in.weight"));
//! # Ok(())
//! # }
//! ```
//!
//! # Detect the architecture
//!
//! [`detection::detect`] derives the architecture from keys and shapes, and lists the evidence. If the evidence allows
//! several architectures or none, the answer is `None`.
//!
//! ```
//! use trinart_ckpt_models::Checkpoint;
//! use trinart_ckpt_models::detection::detect;
//! use trinart_ckpt_models::family::{Architecture, Task};
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let checkpoint = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let detection = detect(checkpoint.state_dict());
//! assert_eq!(detection.architecture(), Some(Architecture::Sd1));
//! assert_eq!(detection.task, Some(Task::TextToImage));
//! for evidence in &detection.evidence {
//!     println!("{} {:?}: {}", evidence.key, evidence.dims, evidence.finding);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # List the components
//!
//! The key of a tensor determines its [`Component`]. [`completeness`](completeness::completeness) lists the keys that a
//! component lacks, and those that its architecture does not have.
//!
//! ```
//! use trinart_ckpt_models::completeness::completeness;
//! use trinart_ckpt_models::family::Architecture;
//! use trinart_ckpt_models::{Checkpoint, Component};
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let checkpoint = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let state_dict = checkpoint.state_dict();
//! for &component in Component::ALL {
//!     let tensors = state_dict.keys().filter(|key| Component::from_key(key) == component).count();
//!     println!("{}: {tensors} tensors", component.text());
//! }
//! let vae = completeness(state_dict, Component::Vae, Some(Architecture::Sd1)).unwrap();
//! assert!(vae.missing.is_empty() && vae.extra.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Plan a merge or a conversion
//!
//! A plan returns a [`Resolved`](plan::Resolved): the state dict of the output, whose tensors are still in the input files,
//! and a [`Ledger`](ledger::Ledger) with one line for each key of each input.
//!
//! ```
//! use trinart_ckpt_models::ledger::{Disposition, Origin};
//! use trinart_ckpt_models::plan::merge_vae::{self, MergeVaeOptions};
//! use trinart_ckpt_models::Checkpoint;
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let base = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let vae = Checkpoint::open("../../fixtures/tiny-vae.vae.pt")?;
//! let resolved = merge_vae::plan(&base, &vae, &MergeVaeOptions::default())?;
//! // The merge replaces the 248 tensors of the VAE, and keeps the keys and their order.
//! assert!(resolved.state_dict.keys().eq(base.state_dict().keys()));
//! let lines = resolved.ledger.lines().iter();
//! let from_vae = lines.filter(|line| line.from == Origin::Vae);
//! let written = from_vae.filter(|line| matches!(line.disposition, Disposition::Written { .. }));
//! assert_eq!(written.count(), 248);
//! # Ok(())
//! # }
//! ```
//!
//! A conversion casts, prunes, or extracts a component. The ledger records why a tensor is not in the output.
//!
//! ```
//! use trinart_ckpt_models::formats::tensor::{Dtype, Overflow};
//! use trinart_ckpt_models::plan::Cast;
//! use trinart_ckpt_models::plan::convert::{self, ConvertOptions};
//! use trinart_ckpt_models::{Checkpoint, Component};
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let checkpoint = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let cast = Cast { to: Dtype::F16, overflow: Overflow::Refuse };
//! let options = ConvertOptions::default().component(Component::Vae).cast(cast);
//! let resolved = convert::plan(&checkpoint, &options)?;
//! assert_eq!(resolved.state_dict.len(), 248);
//! for (origin, disposition, count) in resolved.ledger.summary() {
//!     println!("{} {count} {disposition}", origin.text());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`trinart_ckpt_formats::containers::write`](trinart_ckpt_formats::containers::write()) writes the result to a file.
//!
//! # Hash a component
//!
//! A [`content_hash`](hash::content_hash) depends on keys, dtypes, shapes and values, and neither on the container nor on
//! the order. With canonical keys, the VAE in a checkpoint has the same hash as the VAE file that was merged into it.
//!
//! ```
//! use trinart_ckpt_models::formats::StateDict;
//! use trinart_ckpt_models::formats::io::NoProgress;
//! use trinart_ckpt_models::hash::content_hash;
//! use trinart_ckpt_models::plan::merge_vae::{self, MergeVaeOptions};
//! use trinart_ckpt_models::{Checkpoint, vae};
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let vae_hash = |state_dict: &StateDict| {
//!     let tensors = state_dict.iter().map(|(key, tensor)| (vae::canonical_key(key), tensor));
//!     content_hash(tensors.filter(|(key, _)| vae::is_checkpoint_key(key)), 2, &NoProgress)
//! };
//! let base = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let vae = Checkpoint::open("../../fixtures/tiny-vae.vae.pt")?;
//! let merged = merge_vae::plan(&base, &vae, &MergeVaeOptions::default())?.state_dict;
//! assert_ne!(vae_hash(base.state_dict())?, vae_hash(vae.state_dict())?);
//! assert_eq!(vae_hash(&merged)?, vae_hash(vae.state_dict())?);
//! # Ok(())
//! # }
//! ```
//!
//! # Compare
//!
//! [`compare::pair_up`] pairs the tensors of two state dicts by key. [`compare::compare`] compares two tensors, also
//! of different dtypes.
//!
//! ```
//! use trinart_ckpt_models::compare::{TensorComparison, compare, pair_up};
//! use trinart_ckpt_models::formats::io::NoProgress;
//! use trinart_ckpt_models::{Checkpoint, vae};
//!
//! # fn main() -> trinart_ckpt_models::formats::Result<()> {
//! let a = Checkpoint::open("../../fixtures/tiny-sd1.ckpt")?;
//! let b = Checkpoint::open("../../fixtures/tiny-sd1.safetensors")?;
//! for (key, a, b) in pair_up(a.state_dict(), b.state_dict(), |key| vae::canonical_key(key).into_owned()) {
//!     let (Some(a), Some(b)) = (a, b) else { panic!("only one file has {key}") };
//!     assert_eq!(compare(a, b, &NoProgress)?, TensorComparison::Equal);
//! }
//! # Ok(())
//! # }
//! ```

pub use trinart_ckpt_formats as formats;

pub mod checkpoint;
mod claimed_family;
pub mod compare;
pub mod completeness;
pub mod component;
pub mod constants;
pub mod detection;
mod ema;
pub mod family;
pub mod file_kind;
pub mod hash;
pub mod hyperparameters;
pub mod layout;
pub mod ledger;
mod lone;
pub mod lora;
pub mod measures;
mod notice;
mod numbers;
pub mod parameterization;
mod pipeline;
pub mod plan;
pub mod position_ids;
pub mod published;
pub mod quantization;
pub mod renderable;
mod serialize;
pub mod sidecar;
pub mod statistics;
pub mod toolkit;
pub mod vae;
mod vae_schema;
pub mod vocabulary;

pub use checkpoint::Checkpoint;
pub use component::Component;
pub use file_kind::FileKind;
pub use lone::Components;
pub use notice::{Notice, NoticeCode};
