use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use crate::danger::Finding;
use crate::format::Container;
use crate::io::Source;
use crate::metadata::Metadata;
use crate::pickle::GlobalUse;
use crate::state_dict::StateDict;

/// What was found in a file.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The file, or the folder.
    pub path: PathBuf,
    /// The files read: the one file, or the weights of a folder.
    pub sources: Vec<Arc<Source>>,
    /// Its container.
    pub container: Container,
    /// The tensors.
    pub state_dict: StateDict,
    /// Where in the file's object the tensors were found: `state_dict`, or nothing for the object itself.
    pub root: String,
    /// Plain values beside the tensors, in order.
    pub metadata: Metadata,
    /// The configurations of a folder: `model_index` and that of each component.
    pub configs: IndexMap<String, Value>,
    /// Values that are neither tensors nor plain. They are never written anywhere.
    pub opaque: Vec<Opaque>,
    /// Tensors of kinds that no output can hold.
    pub unreadable: Vec<Unreadable>,
    /// Dangerous names in its pickle: what loading it with Python could run.
    pub dangers: Vec<Finding>,
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
    /// An empty find in a file.
    pub(super) fn of_file(source: &Arc<Source>, container: Container) -> Self {
        let mut contents = Contents::new(source.path(), container);
        contents.sources.push(Arc::clone(source));
        contents
    }

    /// An empty find at `path`.
    pub(super) fn new(path: &Path, container: Container) -> Self {
        Contents {
            path: path.to_owned(),
            sources: Vec::new(),
            container,
            state_dict: StateDict::new(),
            root: String::new(),
            metadata: Metadata::new(),
            configs: IndexMap::new(),
            opaque: Vec::new(),
            unreadable: Vec::new(),
            dangers: Vec::new(),
            globals: Vec::new(),
        }
    }
}
