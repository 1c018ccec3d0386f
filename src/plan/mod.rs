//! What is to be done to a checkpoint, decided before anything is done. Reads no tensor and writes nothing.

mod cast;
pub mod convert;
pub mod folders;
mod ledger;
pub mod merge_vae;
pub mod sidecar_name;
pub mod translate;

pub use cast::Cast;
pub use ledger::{Change, Ledger, Line, Origin, Outcome};

use crate::metadata::Metadata;
use crate::state_dict::StateDict;

/// A plan carried out as far as it can be without moving a byte: an ordinary state dict, and the account of it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The tensors of the output.
    pub state_dict: StateDict,
    /// The metadata of the output.
    pub metadata: Metadata,
    /// What became of every key.
    pub ledger: Ledger,
    /// What the user should know besides.
    pub notices: Vec<String>,
}
