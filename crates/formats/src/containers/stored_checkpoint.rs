use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use crate::containers::diffusers::Part;
use crate::containers::structure::Structure;
use crate::containers::{self, Container};
use crate::danger::Finding;
use crate::error::{Error, Hint, Result};
use crate::io::Source;
use crate::metadata::Metadata;
use crate::pickle::GlobalUse;
use crate::state_dict::StateDict;

/// An opened checkpoint with the keys that its file stores: tensors, which are read on demand, and the values beside them.
///
/// The keys of a diffusers folder begin with the component, such as `unet/conv_in.weight`.
#[derive(Debug, Clone)]
pub struct StoredCheckpoint {
    pub(super) path: PathBuf,
    pub(super) sources: Vec<Arc<Source>>,
    pub(super) container: Container,
    pub(super) state_dict: StateDict,
    pub(super) root: String,
    pub(super) structure: Structure,
    pub(super) metadata: Metadata,
    pub(super) configs: IndexMap<String, Value>,
    pub(super) parts: Vec<Part>,
    pub(super) opaque: Vec<OpaqueValue>,
    pub(super) unreadable: Vec<UnreadableTensor>,
    pub(super) trailing: Vec<TrailingBytes>,
    pub(super) dangers: Vec<Finding>,
    pub(super) globals: Vec<GlobalUse>,
}

/// A value that is neither a tensor nor of a built-in type, such as the state of an optimizer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpaqueValue {
    /// The path of dict keys to it, joined by dots.
    pub path: String,
    /// A description: `dict, 12 tensors, torch.optim.AdamW`.
    pub what: String,
}

/// A tensor of an unsupported kind: sparse, quantized, without data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableTensor {
    /// The key in the state dict.
    pub key: String,
    /// The reason why it is unsupported.
    pub reason: String,
}

/// Bytes behind the end of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrailingBytes {
    /// The file.
    pub file: PathBuf,
    /// The container of the file.
    pub container: Container,
    /// Where they begin.
    pub offset: u64,
    /// Their number.
    pub bytes: u64,
}

impl TrailingBytes {
    /// Whether the library of the container refuses the file: that of safetensors does, `torch.load` does not.
    fn is_refused(&self) -> bool {
        self.container == Container::Safetensors
    }
}

/// How to open a checkpoint.
///
/// By default a checkpoint with a dangerous pickle is an error. Nothing in a pickle is ever executed here; the danger is
/// for programs that load the file with Python.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// How to treat a dangerous pickle.
    pub dangers: Dangers,
    /// Opens a file with bytes behind its tensors, in order to repair it or to report on it. By default it is an error
    /// where the library of the container refuses the file.
    pub keep_trailing_bytes: bool,
}

/// How to treat a checkpoint whose pickle names something dangerous.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dangers {
    /// Fail to open it.
    #[default]
    Refuse,
    /// Take its tensors and drop everything else.
    Sanitize,
    /// Open it anyway. [`StoredCheckpoint::dangers`] lists what was found.
    Keep,
}

impl OpenOptions {
    /// The default options: refuse dangerous pickles.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes only the tensors of a checkpoint with a dangerous pickle.
    #[must_use]
    pub fn sanitize(mut self) -> Self {
        self.dangers = Dangers::Sanitize;
        self
    }

    /// Opens files with bytes behind their tensors.
    #[must_use]
    pub fn keep_trailing_bytes(mut self) -> Self {
        self.keep_trailing_bytes = true;
        self
    }

    /// Opens checkpoints with dangerous pickles, in order to report on them.
    #[must_use]
    pub fn keep_dangers(mut self) -> Self {
        self.dangers = Dangers::Keep;
        self
    }
}

impl StoredCheckpoint {
    /// Opens a checkpoint file of any container, or a diffusers folder. Reads only headers and pickles, whatever the
    /// size.
    ///
    /// Detects the container by content. Fails if the file is not a checkpoint, violates its format, exceeds a limit, or
    /// has a dangerous pickle.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// Opens a checkpoint as [`Self::open`], with options.
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let checkpoint = containers::read(path.as_ref())?;
        if !options.keep_trailing_bytes {
            checkpoint.refuse_trailing_bytes()?;
        }
        match options.dangers {
            Dangers::Refuse => checkpoint.refuse_dangers().map(|()| checkpoint),
            Dangers::Sanitize => Ok(checkpoint.sanitized()),
            Dangers::Keep => Ok(checkpoint),
        }
    }

    /// Creates an empty checkpoint of a file.
    pub(super) fn for_source(source: &Arc<Source>, container: Container) -> Self {
        let mut checkpoint = StoredCheckpoint::new(source.path(), container);
        checkpoint.sources.push(Arc::clone(source));
        checkpoint
    }

    /// Creates an empty checkpoint of a file or folder.
    pub(super) fn new(path: &Path, container: Container) -> Self {
        StoredCheckpoint {
            path: path.to_owned(),
            sources: Vec::new(),
            container,
            state_dict: StateDict::new(),
            root: String::new(),
            structure: Structure::default(),
            metadata: Metadata::new(),
            configs: IndexMap::new(),
            parts: Vec::new(),
            opaque: Vec::new(),
            unreadable: Vec::new(),
            trailing: Vec::new(),
            dangers: Vec::new(),
            globals: Vec::new(),
        }
    }

    /// Returns the checkpoint of a single file with these tensors and this metadata instead of its own. The path and the
    /// configurations stay.
    #[must_use]
    pub fn with_tensors(&self, state_dict: StateDict, metadata: Metadata) -> Self {
        let container = match self.container {
            Container::Diffusers => Container::Safetensors,
            file => file,
        };
        StoredCheckpoint { state_dict, metadata, container, unreadable: Vec::new(), ..self.clone() }
    }

    /// Returns the checkpoint with these of its tensors, under the keys that it stores, and without those that cannot be read.
    #[must_use]
    pub fn with_selection(&self, state_dict: StateDict, metadata: Metadata) -> Self {
        StoredCheckpoint { state_dict, metadata, unreadable: Vec::new(), ..self.clone() }
    }

    /// Fails if a file has bytes behind its tensors that the library of its container refuses.
    pub(crate) fn refuse_trailing_bytes(&self) -> Result<()> {
        match self.trailing.iter().find(|trailing| trailing.is_refused()) {
            Some(trailing) => {
                let found = format!("extra bytes were appended behind the tensors: {}", trailing.bytes);
                Err(Error::malformed(found).with_hint(Hint::Repair).at(trailing.offset).in_file(&trailing.file))
            }
            None => Ok(()),
        }
    }

    fn refuse_dangers(&self) -> Result<()> {
        let Some(danger) = self.dangers.first() else { return Ok(()) };
        let more = match self.dangers.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let found = format!("{}{more}; nothing was executed", danger.to_text());
        Err(Error::unsupported(found)
            .with_hint(Hint::Sanitize)
            .at(danger.offset)
            .in_record(self.container.pickle())
            .in_file(&self.path))
    }

    /// Drops everything but the tensors if the pickle is dangerous.
    fn sanitized(mut self) -> Self {
        if self.dangers.is_empty() {
            return self;
        }
        let dropped = |(name, _)| OpaqueValue { path: name, what: "dropped because the pickle is dangerous".into() };
        self.opaque.extend(std::mem::take(&mut self.metadata).into_iter().map(dropped));
        let named = self
            .dangers
            .iter()
            .map(|danger| OpaqueValue { path: danger.name.clone(), what: format!("DANGEROUS: {}", danger.reason) });
        self.opaque.extend(named);
        self
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file name, or the whole path if it has none.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The size in bytes of the file, or of all weight files of a folder. At most [`u64::MAX`]: sparse files can claim more
    /// together.
    pub fn file_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.len()).fold(0, u64::saturating_add)
    }

    /// The container.
    pub fn container(&self) -> Container {
        self.container
    }

    /// The tensors under the keys that the file stores.
    pub fn state_dict(&self) -> &StateDict {
        &self.state_dict
    }

    /// The path of keys within a pickle at which the tensors were found, joined by dots: `state_dict`, or empty for the
    /// object itself.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Where the tensors are in the object of a PyTorch file. The default for other containers.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// The values of built-in types beside the tensors, in order.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The configurations of a folder by component, and those of `model_index` and `scheduler`.
    pub fn configs(&self) -> &IndexMap<String, Value> {
        &self.configs
    }

    /// The parts of a pipeline that are copied as they are, in the order of their names.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Values that are neither tensors nor metadata. No output contains them.
    pub fn opaque(&self) -> &[OpaqueValue] {
        &self.opaque
    }

    /// Tensors of unsupported kinds. No output contains them.
    pub fn unreadable(&self) -> &[UnreadableTensor] {
        &self.unreadable
    }

    /// Bytes behind the content of the files. No output contains them.
    pub fn trailing_bytes(&self) -> &[TrailingBytes] {
        &self.trailing
    }

    /// Dangerous names in the pickle: what loading it with Python could execute.
    pub fn dangers(&self) -> &[Finding] {
        &self.dangers
    }

    /// The global names in the pickle, with their offsets.
    pub fn globals(&self) -> &[GlobalUse] {
        &self.globals
    }

    /// The open files: one, or the weights of a folder.
    pub fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// Returns the file. Fails for a folder.
    pub fn file(&self) -> Result<&Arc<Source>> {
        match self.sources.as_slice() {
            [source] => Ok(source),
            _ => Err(Error::unsupported("a folder has no file hash").in_file(&self.path)),
        }
    }

    /// Returns the error for a tensor that cannot be read.
    pub fn unreadable_error(&self, tensor: &UnreadableTensor) -> Error {
        Error::unsupported(&tensor.reason).in_tensor(&tensor.key).in_file(&self.path)
    }

    /// Fails if the file has a tensor that cannot be read.
    pub fn refuse_unreadable(&self) -> Result<()> {
        self.refuse_unreadable_among(|_| true)
    }

    /// Fails if a tensor whose key fulfills a condition cannot be read.
    pub fn refuse_unreadable_among(&self, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        match self.unreadable.iter().find(|unreadable| is_wanted(&unreadable.key)) {
            Some(unreadable) => Err(self.unreadable_error(unreadable)),
            None => Ok(()),
        }
    }
}
