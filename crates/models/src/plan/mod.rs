//! Plans: what to do with each tensor, decided before anything is written. Planning reads no tensor data, except
//! position_ids that are to be fixed.

pub mod assemble;
mod cast;
mod chain;
pub mod convert;
mod convert_options;
mod drops;
pub mod express;
pub mod folders;
mod guard;
pub mod merge_vae;
mod metadata_edits;
pub mod record;
pub mod repair;
mod resolved;
mod spelling;

pub use cast::{Cast, ComponentDtype, ComponentDtypes};
pub(crate) use guard::Account;
pub use metadata_edits::MetadataEdits;
pub(crate) use resolved::Draft;
pub use resolved::Resolved;
