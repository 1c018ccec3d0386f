use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use crate::danger::Finding;
use crate::containers::Container;
use crate::io::Source;
use crate::metadata::Metadata;
use crate::pickle::GlobalUse;
use crate::state_dict::StateDict;

/// The contents of a checkpoint: its tensors, which are not read yet, and everything else that was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Contents {
    /// The file or folder.
    pub path: PathBuf,
    /// The open files: one, or the weights of a folder.
    pub sources: Vec<Arc<Source>>,
    /// The container.
    pub container: Container,
    /// The tensors.
    pub state_dict: StateDict,
    /// The path of keys within a pickle at which the tensors were found, joined by dots: `state_dict`, or empty for the
    /// object itself.
    pub root: String,
    /// The plain values beside the tensors, in order.
    pub metadata: Metadata,
    /// The configurations of a folder by component, and `model_index`.
    pub configs: IndexMap<String, Value>,
    /// Values that are neither tensors nor plain. No output contains them.
    pub opaque: Vec<OpaqueValue>,
    /// Tensors of unsupported kinds. No output contains them.
    pub unreadable: Vec<UnreadableTensor>,
    /// Dangerous names in the pickle: what loading it with Python could execute.
    pub dangers: Vec<Finding>,
    /// The global names in the pickle, with their offsets.
    pub globals: Vec<GlobalUse>,
}

/// A value beside the tensors that is neither a tensor nor plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaqueValue {
    /// The path of dict keys to it, joined by dots.
    pub path: String,
    /// A description: `dict, 12 tensors, torch.optim.AdamW`.
    pub what: String,
}

/// A tensor of an unsupported kind: sparse, quantized, without data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableTensor {
    /// The key in the state dict.
    pub key: String,
    /// The reason why it is unsupported.
    pub reason: String,
}

impl Contents {
    /// Creates empty contents of a file.
    pub(super) fn for_source(source: &Arc<Source>, container: Container) -> Self {
        let mut contents = Contents::new(source.path(), container);
        contents.sources.push(Arc::clone(source));
        contents
    }

    /// Creates empty contents of a file or folder.
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
