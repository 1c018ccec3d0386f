//! Builds the contents of a checkpoint from its pickle: finds the tensors and the metadata beside them.

use std::collections::{HashMap, HashSet};

use super::metadata::MetadataReader;
use super::python::{is_tensor, shorten};
use super::rebuild::{Rebuilt, rebuild};
use super::root::{Root, RootFinder, any_dict_items, is_training};
use super::storages::Storages;
use crate::containers::structure::{Nesting, Step, Structure};
use crate::containers::{StoredCheckpoint, UnreadableTensor};
use crate::danger::{self, Level};
use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::pickle::{Id, Node, Pickle};

/// Limit of the dangerous names to list. The first few are enough to reject a file.
const MOST_DANGERS: usize = 20;

/// Fills `contents` from a pickle.
///
/// Fails if the pickle has no state dict, a duplicate key, or a tensor with invalid arguments.
pub(super) fn build(pickle: &Pickle, storages: &Storages, contents: StoredCheckpoint) -> Result<StoredCheckpoint> {
    let mut builder = Builder {
        pickle,
        storages,
        metadata: MetadataReader::new(pickle),
        finder: RootFinder::new(pickle),
        visits_left: limits::DESCRIBED_VALUES,
        is_nested: false,
        paths: HashMap::new(),
        contents,
    };
    builder.contents.globals = pickle.globals().to_vec();
    let mut dangers = danger::examine(pickle);
    dangers.retain(|finding| finding.level == Level::Dangerous);
    dangers.truncate(MOST_DANGERS);
    builder.contents.dangers = dangers;
    builder.take_root()?;
    check_views(storages, &builder.contents)?;
    builder.contents.opaque = builder.metadata.into_opaque();
    Ok(builder.contents)
}

/// Fails if the tensors are much larger than their storages: views with strides of 0, or that overlap.
fn check_views(storages: &Storages, contents: &StoredCheckpoint) -> Result<()> {
    let bytes = contents.state_dict.iter().map(|(_, tensor)| tensor.cost()).fold(0, u64::saturating_add);
    let stored = storages.bytes_in_file();
    let most = limits::VIEW_BYTES.max(stored.saturating_mul(limits::VIEW_GROWTH));
    if bytes <= most {
        return Ok(());
    }
    Err(Error::limit(format!(
        "its tensors are views that expand to {bytes} bytes from storages of {stored}; the limit is {most}; \
         save copies of them with torch.Tensor.clone()"
    )))
}

struct Builder<'a> {
    pickle: &'a Pickle,
    storages: &'a Storages,
    metadata: MetadataReader<'a>,
    finder: RootFinder<'a>,
    /// Values in nested dicts that may still be visited.
    visits_left: usize,
    /// Whether a tensor lies in a dict or list within the state dict.
    is_nested: bool,
    /// The path of each tensor in the object.
    paths: HashMap<String, Vec<Step>>,
    contents: StoredCheckpoint,
}

impl Builder<'_> {
    /// Finds the state dict and takes its tensors. Values beside it become metadata.
    fn take_root(&mut self) -> Result<()> {
        let Some(root) = self.finder.find() else {
            let what = self.metadata.describer.describe(self.pickle.root());
            return Err(Error::unsupported(format!("expected a state dict, found {what}")));
        };
        for (depth, &dict) in root.around.iter().enumerate() {
            self.take_around(&root, depth, dict)?;
        }
        self.contents.root = root.path.join(".");
        let items = any_dict_items(self.pickle, root.dict).or_internal("the state dict is not a dict")?;
        self.check_duplicates(&items)?;
        let path: Vec<Step> = root.path.iter().map(|&name| Step::Key(name.to_owned())).collect();
        for &(key, value) in &items {
            self.take_item(&root, &path, key, value)?;
        }
        if !items.is_empty() && self.contents.state_dict.is_empty() && self.contents.unreadable.is_empty() {
            let mut named = |(key, value)| {
                let name = self.pickle.str_lossy(key)?;
                // An object of another program, such as a YOLO of ultralytics, tells what the file is.
                let is_object = matches!(self.pickle.node(value), Node::Object(_));
                Some(if is_object {
                    format!("{name} ({})", self.metadata.describer.describe(value))
                } else {
                    name.into()
                })
            };
            let keys: Vec<String> = items.iter().filter_map(|&item| named(item)).take(8).collect();
            return Err(Error::unsupported(format!("no tensors found; the keys are {}", keys.join(", "))));
        }
        self.contents.structure = match root.path.as_slice() {
            [] if !self.is_nested => Structure::Bare,
            path if !self.is_nested && path.iter().all(|&name| name == "state_dict") => Structure::StateDict,
            _ => Structure::Nested(Nesting::new(std::mem::take(&mut self.paths))),
        };
        Ok(())
    }

    /// Fails if a key occurs twice: readers disagree on which of the values counts.
    fn check_duplicates(&self, items: &[(Id, Id)]) -> Result<()> {
        let (mut values, mut names) = (HashSet::new(), HashSet::new());
        for &(key, _) in items {
            let Node::Str(text) = self.pickle.node(key) else { continue };
            // Checked before the key is read: a million entries may share a key of a million bytes.
            let len = self.pickle.text(text).len();
            if len > limits::KEY_BYTES {
                return Err(Error::limit(format!("a key of {len} bytes, the limit is {}", limits::KEY_BYTES)));
            }
            let is_new = values.insert(key) && names.insert(self.pickle.text(text));
            if !is_new {
                let key = self.pickle.str_lossy(key).or_internal("a text node has no text")?;
                return Err(Error::conflict(format!("the key {key} occurs twice")));
            }
        }
        Ok(())
    }

    /// Takes the values of a dict around the state dict, at this depth of its path: plain values as metadata, the others as
    /// opaque.
    fn take_around(&mut self, root: &Root<'_>, depth: usize, dict: Id) -> Result<()> {
        let items = any_dict_items(self.pickle, dict).or_internal("a dict around the state dict is not a dict")?;
        self.check_duplicates(&items)?;
        let taken = root.path.get(depth).or_internal("the path to the state dict is too short")?;
        let path = root.path.get(..depth).or_internal("the path to the state dict is too short")?;
        for &(key, value) in &items {
            if self.pickle.str(key) == Some(taken) {
                continue;
            }
            self.take_metadata(root, path, key, value);
        }
        Ok(())
    }

    /// Takes one entry as metadata, or lists it as opaque.
    fn take_metadata(&mut self, root: &Root<'_>, path: &[&str], key: Id, value: Id) {
        let name = match self.pickle.node(key) {
            Node::Int(number) => Some(number.to_string()),
            _ => self.pickle.str(key).map(str::to_owned),
        };
        let shown = name.clone().unwrap_or_else(|| self.metadata.describer.describe(key));
        let full = path.iter().copied().chain([shorten(&shown)]).collect::<Vec<_>>().join(".");
        match name {
            _ if value == root.dict => {
                let what = format!("the same dict as {}", shorten(&root.path.join(".")));
                self.metadata.list_as(&full, what);
            }
            // A file with metadata of this name would have two state dicts.
            Some(name) if name != "state_dict" => {
                if let Some(value) = self.metadata.read(&full, value) {
                    self.contents.metadata.insert(name, value);
                }
            }
            _ => self.metadata.list_opaque(&full, value),
        }
    }

    /// Takes one entry of the state dict: a tensor, or a dict or list with tensors. In a bare state dict, plain values are
    /// metadata.
    fn take_item(&mut self, root: &Root<'_>, path: &[Step], key: Id, value: Id) -> Result<()> {
        if is_tensor(self.pickle, value) {
            let step = self.step(key)?;
            return self.take_tensor(root, &[path, &[step]].concat(), value);
        }
        let name = self.pickle.word(key);
        let is_other = name.is_some_and(|name| name == "state_dict" || is_training(name));
        if !is_other && self.finder.weight(value).1 > 0 {
            let step = self.step(key)?;
            return self.take_nested(root, &[path, &[step]].concat(), value);
        }
        if root.path.is_empty() {
            self.take_metadata(root, &[], key, value);
        } else {
            let name = self.pickle.str_lossy(key).unwrap_or_else(|| self.metadata.describer.describe(key).into());
            let path = format!("{}.{}", self.contents.root, shorten(&name));
            self.metadata.list_opaque(&path, value);
        }
        Ok(())
    }

    /// Takes the tensors of a dict or list within the state dict. Lists its other values as opaque.
    fn take_nested(&mut self, root: &Root<'_>, path: &[Step], id: Id) -> Result<()> {
        let depth = path.len() - root.path.len();
        if depth >= limits::METADATA_DEPTH {
            return Err(Error::limit(format!("tensors nested deeper than {} levels", limits::METADATA_DEPTH)));
        }
        let pickle = self.pickle;
        let items: Vec<(Step, Id)> = match pickle.node(id) {
            Node::List(items) => items.iter().enumerate().map(|(index, &id)| (Step::Item(index), id)).collect(),
            Node::Tuple(items) => items.iter().enumerate().map(|(index, &id)| (Step::Element(index), id)).collect(),
            _ => {
                let items = any_dict_items(pickle, id).or_internal("a value with tensors is not a dict or list")?;
                self.check_duplicates(&items)?;
                items.iter().map(|&(key, value)| Ok((self.step(key)?, value))).collect::<Result<_>>()?
            }
        };
        self.is_nested = true;
        self.visits_left = self.visits_left.checked_sub(items.len()).ok_or_else(|| {
            Error::limit(format!("more than {} values in dicts within the state dict", limits::DESCRIBED_VALUES))
        })?;
        for (step, value) in items {
            let path = [path, &[step]].concat();
            if is_tensor(pickle, value) {
                self.take_tensor(root, &path, value)?;
            } else if self.finder.weight(value).1 > 0 {
                self.take_nested(root, &path, value)?;
            } else {
                self.metadata.list_opaque(shorten(&joined(&path)), value);
            }
        }
        Ok(())
    }

    fn take_tensor(&mut self, root: &Root<'_>, path: &[Step], value: Id) -> Result<()> {
        let name = joined(path.get(root.path.len()..).or_internal("the path of a tensor is too short")?);
        match rebuild(self.pickle, self.storages, value).map_err(|error| error.in_tensor(name.as_str()))? {
            Rebuilt::Tensor(tensor) => {
                self.contents.state_dict.insert(name.as_str(), tensor)?;
                self.paths.insert(name, path.to_vec());
            }
            Rebuilt::Unreadable(_) if self.contents.unreadable.len() == limits::TENSORS => {
                return Err(Error::limit(format!("more than {} tensors", limits::TENSORS)));
            }
            Rebuilt::Unreadable(reason) => self.contents.unreadable.push(UnreadableTensor { key: name, reason }),
            Rebuilt::NotATensor => self.metadata.list_opaque(shorten(&name), value),
        }
        Ok(())
    }

    /// Returns the key of a tensor, or of a dict with tensors.
    fn step(&mut self, key: Id) -> Result<Step> {
        match self.pickle.node(key) {
            Node::Int(number) => Ok(Step::Number(*number)),
            _ => self.pickle.str(key).map(|key| Step::Key(key.to_owned())).ok_or_else(|| {
                let what = self.metadata.describer.describe(key);
                Error::unsupported(format!("expected text as the key of a tensor, found {what}"))
            }),
        }
    }
}

/// Returns the key of a tensor with this path within the state dict. Insertion detects two paths with the same key.
fn joined(path: &[Step]) -> String {
    path.iter().map(Step::text).collect::<Vec<_>>().join(".")
}
