//! Plans: what to do with each tensor, decided before anything is written. Planning reads no tensor data, except
//! position_ids that are to be fixed.

mod cast;
pub mod convert;
pub mod folders;
mod ledger;
pub mod merge_vae;
mod resolved;
pub mod sidecar_name;
pub mod translate;

pub use cast::Cast;
pub use ledger::{Change, Disposition, DropReason, Ledger, Line, Origin};
pub use resolved::{Notice, NoticeCode, Resolved};
