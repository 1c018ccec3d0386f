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
    /// Dangerous names in its pickle: what loading it with Python could run.
    pub dangers: Vec<Danger>,
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

/// A name in a pickle that would let its author act on whoever loads it with Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Danger {
    /// Module and name.
    pub name: String,
    /// What it could do.
    pub reason: &'static str,
    /// Whether the pickle calls it, or only names it.
    pub is_called: bool,
    /// The offset of its first mention in the pickle.
    pub offset: u64,
}

impl Danger {
    /// `calls posix.system, which runs commands`.
    pub fn to_text(&self) -> String {
        let verb = if self.is_called { "calls" } else { "names" };
        format!("{verb} {}, which {}", self.name, self.reason)
    }
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
            dangers: Vec::new(),
            globals: Vec::new(),
        }
    }

    /// An error if the file was changed since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.source.check_unchanged()
    }
}
