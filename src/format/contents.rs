use std::sync::Arc;

use crate::error::Result;
use crate::format::Container;
use crate::io::Source;
use crate::metadata::Metadata;
use crate::pickle::GlobalUse;
use crate::state_dict::StateDict;

/// What was found in a file.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The file.
    pub source: Arc<Source>,
    /// Its container.
    pub container: Container,
    /// The tensors.
    pub state_dict: StateDict,
    /// Where in the file's object the tensors were found: `state_dict`, or nothing for the object itself.
    pub root: String,
    /// Plain values beside the tensors, in order.
    pub metadata: Metadata,
    /// Values that are neither tensors nor plain. They are never written anywhere.
    pub opaque: Vec<Opaque>,
    /// Tensors of kinds that no output can hold.
    pub unreadable: Vec<Unreadable>,
    /// The global names its pickle mentions, with their offsets.
    pub globals: Vec<GlobalUse>,
}

/// A value that is left where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    /// Its path of dict keys, joined by dots.
    pub path: String,
    /// What it is, for people: "dict with 12 tensors, torch.optim.AdamW".
    pub what: String,
}

/// A tensor that is there but cannot be taken: sparse, quantized, without data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key in the state dict.
    pub key: String,
    /// Why.
    pub reason: String,
}

impl Contents {
    /// An empty find in `source`.
    pub(super) fn new(source: &Arc<Source>, container: Container) -> Self {
        Contents {
            source: Arc::clone(source),
            container,
            state_dict: StateDict::new(),
            root: String::new(),
            metadata: Metadata::new(),
            opaque: Vec::new(),
            unreadable: Vec::new(),
            globals: Vec::new(),
        }
    }

    /// An error if the file was changed since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.source.check_unchanged()
    }
}
