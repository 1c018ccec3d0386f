//! Operations on checkpoints: what the commands of the program do, as a library.
//!
//! Each operation is a builder. It starts from opened checkpoints (or, for [`Scan`], [`Inspect`] and [`HashCheckpoint`], from
//! paths), has a method for each option, and returns the report that the program prints.
//!
//! `plan` is a dry run: it reports what the operation would do, and fails where the operation would fail because of
//! headers or options. It reads no tensor, except that a [`Convert`] that corrects position_ids reads these, and that
//! [`MergeVae`] hashes the file of the VAE and the VAE of the checkpoint, because its report contains the hashes.
//! [`Inspect`] and [`HashCheckpoint`] write nothing and have no plan.

mod audit;
mod batch;
mod compare;
mod compare_folders;
mod contents;
mod contradictions;
mod convert;
mod folder_options;
mod hash;
mod inputs;
mod inspect;
mod jobs;
mod known_structures;
mod merge_vae;
mod metadata_edits;
mod output;
mod output_methods;
mod parts;
mod pipeline_parts;
#[cfg(feature = "render")]
mod render_check;
#[cfg(feature = "render")]
mod render_sheet;
mod repairable;
mod run_methods;
mod scan;
mod side_file;
mod staging;
mod structure;
mod vae_file;
mod webui;
mod which_vae;

pub use audit::{Audit, Memory};
pub use batch::{Batch, Destination, Existing, output_in, resolve_output, version_of};
pub use compare::{Compare, CompareOptions, ComparePlan, Ignored};
pub use compare_folders::CompareFolders;
pub use convert::Convert;
pub use folder_options::FolderOptions;
pub use hash::HashCheckpoint;
pub use inputs::{Input, Inputs};
pub use inspect::Inspect;
pub use merge_vae::MergeVae;
#[cfg(feature = "render")]
pub use render_check::RenderCheck;
#[cfg(feature = "render")]
pub use render_sheet::RenderSheet;
pub use scan::Scan;
pub use webui::vae_folder_of;
pub use which_vae::KnownVaes;
