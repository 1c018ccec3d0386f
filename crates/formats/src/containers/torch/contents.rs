//! Builds the contents of a checkpoint from its pickle: finds the tensors and the metadata beside them.

use super::metadata::MetadataReader;
use super::python::{dict_items, is_tensor, shorten};
use super::rebuild::{Rebuilt, rebuild};
use super::storages::Storages;
use std::collections::HashSet;

use crate::containers::{StoredCheckpoint, UnreadableTensor};
use crate::danger::{self, Level};
use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::pickle::{Id, Node, Pickle};

/// Names, besides `state_dict`, under which training code stores its tensors, in the order they are tried.
const ROOTS: &[&str] = &["model", "module", "params_ema", "params", "string_to_param"];

/// Limit of the dangerous names to list. The first few are enough to reject a file.
const MOST_DANGERS: usize = 20;

/// Fills `contents` from a pickle.
///
/// Fails if the pickle has no state dict, a duplicate key, or a tensor with invalid arguments.
pub(super) fn build(pickle: &Pickle, storages: &Storages, contents: StoredCheckpoint) -> Result<StoredCheckpoint> {
    let mut builder = Builder { pickle, storages, metadata: MetadataReader::new(pickle), contents };
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
    contents: StoredCheckpoint,
}

impl Builder<'_> {
    /// Finds the dict of tensors: under `state_dict`, nested twice as WebUI allows; else the object itself; else under one
    /// of [`ROOTS`]. The values beside it become metadata.
    fn take_root(&mut self) -> Result<()> {
        let mut items = dict_items(self.pickle, self.pickle.root()).ok_or_else(|| {
            let what = self.metadata.describer.describe(self.pickle.root());
            Error::unsupported(format!("expected a state dict, found {what}"))
        })?;
        let mut path: Vec<&str> = Vec::new();
        self.check_duplicates(&items)?;
        while let Some((name, inner)) = self.inner_dict(&items, path.is_empty()) {
            self.take_siblings(&items, name, &path)?;
            path.push(name);
            items = inner;
            self.check_duplicates(&items)?;
            if path.len() == 2 {
                break;
            }
        }
        self.contents.root = path.join(".");
        let is_bare = path.is_empty();
        if !items.is_empty() && !items.iter().any(|&(_, value)| is_tensor(self.pickle, value)) {
            let keys: Vec<_> = items.iter().filter_map(|&(key, _)| self.pickle.str_lossy(key)).take(8).collect();
            return Err(Error::unsupported(format!("no tensors found; the keys are {}", keys.join(", "))));
        }
        self.take_tensors(&items, is_bare)
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

    /// Returns the nested dict to descend into, with its name; `None` if the tensors are in `items` itself.
    fn inner_dict(&self, items: &[(Id, Id)], outermost: bool) -> Option<(&'static str, Vec<(Id, Id)>)> {
        let find = |name: &'static str| {
            let (_, value) = items.iter().rev().find(|&&(key, _)| self.pickle.str(key) == Some(name))?;
            Some((name, dict_items(self.pickle, *value).or_else(|| parameter_dict_items(self.pickle, *value))?))
        };
        if let Some(found) = find("state_dict") {
            return Some(found);
        }
        let has_tensors = |items: &[(Id, Id)]| items.iter().any(|&(_, value)| is_tensor(self.pickle, value));
        if !outermost || has_tensors(items) {
            return None;
        }
        ROOTS.iter().filter_map(|name| find(name)).find(|(_, inner)| has_tensors(inner))
    }

    /// Takes the values beside the dict called `taken`: plain values as metadata, the others as opaque.
    fn take_siblings(&mut self, items: &[(Id, Id)], taken: &str, path: &[&str]) -> Result<()> {
        for &(key, value) in items {
            if self.pickle.str(key) == Some(taken) {
                continue;
            }
            self.take_metadata(path, key, value);
        }
        Ok(())
    }

    /// Takes one entry as metadata, or lists it as opaque.
    fn take_metadata(&mut self, path: &[&str], key: Id, value: Id) {
        let name = match self.pickle.node(key) {
            Node::Int(number) => Some(number.to_string()),
            _ => self.pickle.str(key).map(str::to_owned),
        };
        let shown = name.clone().unwrap_or_else(|| self.metadata.describer.describe(key));
        let full = path.iter().copied().chain([shorten(&shown)]).collect::<Vec<_>>().join(".");
        match name {
            Some(name) => {
                if let Some(value) = self.metadata.read(&full, value) {
                    self.contents.metadata.insert(name, value);
                }
            }
            None => self.metadata.list_opaque(&full, value),
        }
    }

    /// Takes the tensors of a state dict. In a bare one, plain values beside the tensors are metadata.
    fn take_tensors(&mut self, items: &[(Id, Id)], is_bare: bool) -> Result<()> {
        for &(key, value) in items {
            if !is_tensor(self.pickle, value) {
                if is_bare {
                    self.take_metadata(&[], key, value);
                } else {
                    let name =
                        self.pickle.str_lossy(key).unwrap_or_else(|| self.metadata.describer.describe(key).into());
                    let path = format!("{}.{}", self.contents.root, shorten(&name));
                    self.metadata.list_opaque(&path, value);
                }
                continue;
            }
            let name = self.key(key)?;
            match rebuild(self.pickle, self.storages, value).map_err(|error| error.in_tensor(name.as_str()))? {
                Rebuilt::Tensor(tensor) => self.contents.state_dict.insert(name, tensor)?,
                Rebuilt::Unreadable(_) if self.contents.unreadable.len() == limits::TENSORS => {
                    return Err(Error::limit(format!("more than {} tensors", limits::TENSORS)));
                }
                Rebuilt::Unreadable(reason) => self.contents.unreadable.push(UnreadableTensor { key: name, reason }),
                Rebuilt::NotATensor => self.metadata.list_opaque(shorten(&name), value),
            }
        }
        Ok(())
    }

    /// Returns a tensor's key as text. Integers become decimal text; insertion detects one that then equals another key.
    fn key(&mut self, key: Id) -> Result<String> {
        match self.pickle.node(key) {
            Node::Int(number) => Ok(number.to_string()),
            _ => self.pickle.str(key).map(str::to_owned).ok_or_else(|| {
                let what = self.metadata.describer.describe(key);
                Error::unsupported(format!("expected text as the key of a tensor, found {what}"))
            }),
        }
    }
}

/// Returns the items of a `ParameterDict`, in which textual inversion stores its tensors: a module with the parameters
/// among its attributes.
fn parameter_dict_items(pickle: &Pickle, id: Id) -> Option<Vec<(Id, Id)>> {
    let (name, _, object) = pickle.call(id)?;
    if !name.is("torch.nn.modules.container", "ParameterDict") {
        return None;
    }
    let attributes = dict_items(pickle, *object.state.last()?)?;
    let (_, parameters) = attributes.iter().rev().find(|&&(key, _)| pickle.word(key) == Some("_parameters"))?;
    dict_items(pickle, *parameters)
}
