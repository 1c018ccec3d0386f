//! Plans: what to do with each tensor, decided before anything is written. Planning reads no tensor data, except
//! position_ids that are to be fixed.

mod cast;
pub mod convert;
pub mod express;
pub mod folders;
pub mod merge_vae;
mod resolved;

pub use cast::{Cast, ComponentDtype, ComponentDtypes};
pub use resolved::Resolved;
