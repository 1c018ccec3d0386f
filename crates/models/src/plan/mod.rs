//! Plans: what to do with each tensor, decided before anything is written. Planning reads no tensor data, except
//! position_ids that are to be fixed.

mod as_stored;
pub mod assemble;
pub mod carry;
mod cast;
mod chain;
pub mod convert;
mod convert_options;
mod drops;
pub mod express;
mod extract;
mod folder_files;
mod folder_plan;
mod folder_tensors;
pub mod folders;
mod guard;
pub mod lora;
pub mod merge_vae;
pub mod patterns;
pub mod record;
pub mod repair;
mod resolved;
mod spelling;
pub mod unrecorded;
pub mod uses;
mod video;
mod vision;

pub use cast::{Cast, ComponentDtype, ComponentDtypes};
pub use extract::TextEncoder;
pub(crate) use guard::Account;
pub(crate) use resolved::Draft;
pub use resolved::Resolved;
