//! From a pickle to a checkpoint's contents: where the tensors are, what is beside them.

use super::plain::{PlainReader, dict_items, shorten};
use super::rebuild::{Rebuilt, is_tensor, rebuild};
use super::storages::Storages;
use std::collections::HashSet;

use crate::danger::{self, Level};
use crate::error::{Error, Result};
use crate::format::{Contents, Unreadable};
use crate::limits;
use crate::pickle::{Id, Node, Pickle};

/// Names under which training code keeps its tensors, besides `state_dict`, in the order they are tried.
const ROOTS: &[&str] = &["model", "module", "params_ema", "params", "string_to_param"];

/// A file with so many dangerous names needs no longer list.
const MOST_DANGERS: usize = 20;

/// Fills `contents` with the tensors and the rest of a pickle.
pub(super) fn build(pickle: &Pickle, storages: &Storages, contents: Contents) -> Result<Contents> {
    let mut builder = Builder { pickle, storages, plain: PlainReader::new(pickle), contents };
    builder.contents.globals = pickle.globals().to_vec();
    let mut dangers = danger::examine(pickle);
    dangers.retain(|finding| finding.level == Level::Dangerous);
    dangers.truncate(MOST_DANGERS);
    builder.contents.dangers = dangers;
    builder.root()?;
    builder.contents.opaque = builder.plain.into_opaque();
    Ok(builder.contents)
}

struct Builder<'a> {
    pickle: &'a Pickle,
    storages: &'a Storages,
    plain: PlainReader<'a>,
    contents: Contents,
}

impl Builder<'_> {
    /// Finds the dict of tensors: `state_dict`, twice if it is nested as WebUI allows; else the object itself; else one
    /// of the other names. What lies beside it on the way becomes metadata.
    fn root(&mut self) -> Result<()> {
        let mut items = dict_items(self.pickle, self.pickle.root()).ok_or_else(|| {
            let what = self.plain.words.describe(self.pickle.root());
            Error::unsupported(format!("no tensors by name in it, only this: {what}; expected a state dict"))
        })?;
        let mut path: Vec<&str> = Vec::new();
        self.refuse_twice(&items)?;
        while let Some((name, inner)) = self.inner_dict(&items, path.is_empty()) {
            self.beside(&items, name, &path)?;
            path.push(name);
            items = inner;
            self.refuse_twice(&items)?;
            if path.len() == 2 {
                break;
            }
        }
        self.contents.root = path.join(".");
        let is_bare = path.is_empty();
        if !items.is_empty() && !items.iter().any(|&(_, value)| is_tensor(self.pickle, value)) {
            let keys: Vec<_> = items.iter().filter_map(|&(key, _)| self.pickle.str_lossy(key)).take(8).collect();
            return Err(Error::unsupported(format!("no tensors found; its keys are {}", keys.join(", "))));
        }
        self.tensors(&items, is_bare)
    }

    /// A name that occurs twice is one value to one reader and another to the next.
    fn refuse_twice(&self, items: &[(Id, Id)]) -> Result<()> {
        let (mut values, mut names) = (HashSet::new(), HashSet::new());
        for &(key, _) in items {
            let Node::Str(text) = self.pickle.node(key) else { continue };
            // Looked at before it is read: a million entries may have the same key of a million bytes.
            let len = self.pickle.text(text).len();
            if len > limits::KEY_BYTES {
                return Err(Error::limit(format!("a key of {len} bytes, the limit is {}", limits::KEY_BYTES)));
            }
            let is_new = values.insert(key) && names.insert(self.pickle.text(text));
            if !is_new {
                let key = self.pickle.str_lossy(key).unwrap_or_default();
                return Err(Error::conflict(format!("the key {key} occurs twice")));
            }
        }
        Ok(())
    }

    /// The dict to look into next, with its name; `None` if the tensors are here.
    fn inner_dict(&self, items: &[(Id, Id)], outermost: bool) -> Option<(&'static str, Vec<(Id, Id)>)> {
        let find = |name: &'static str| {
            let (_, value) = items.iter().rev().find(|&&(key, _)| self.pickle.str(key) == Some(name))?;
            Some((name, dict_items(self.pickle, *value).or_else(|| parameters(self.pickle, *value))?))
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

    /// Takes what lies beside the dict called `taken`: plain values as metadata, the rest as opaque.
    fn beside(&mut self, items: &[(Id, Id)], taken: &str, path: &[&str]) -> Result<()> {
        for &(key, value) in items {
            if self.pickle.str(key) == Some(taken) {
                continue;
            }
            self.metadata(path, key, value);
        }
        Ok(())
    }

    fn metadata(&mut self, path: &[&str], key: Id, value: Id) {
        let name = match self.pickle.node(key) {
            Node::Int(number) => Some(number.to_string()),
            _ => self.pickle.str(key).map(str::to_owned),
        };
        let shown = name.clone().unwrap_or_else(|| self.plain.words.describe(key));
        let full = path.iter().copied().chain([shorten(&shown)]).collect::<Vec<_>>().join(".");
        match name {
            Some(name) => {
                if let Some(value) = self.plain.read(&full, value) {
                    self.contents.metadata.insert(name, value);
                }
            }
            None => self.plain.leave(&full, value),
        }
    }

    /// Takes the tensors of the dict. In a bare one, plain values beside the tensors are metadata.
    fn tensors(&mut self, items: &[(Id, Id)], is_bare: bool) -> Result<()> {
        for &(key, value) in items {
            if !is_tensor(self.pickle, value) {
                if is_bare {
                    self.metadata(&[], key, value);
                } else {
                    let name = self.pickle.str_lossy(key).unwrap_or_else(|| self.plain.words.describe(key).into());
                    let path = format!("{}.{}", self.contents.root, shorten(&name));
                    self.plain.leave(&path, value);
                }
                continue;
            }
            let name = self.key(key)?;
            match rebuild(self.pickle, self.storages, value).map_err(|error| error.in_tensor(name.as_str()))? {
                Rebuilt::Tensor(tensor) => self.contents.state_dict.insert(name, tensor)?,
                Rebuilt::Unreadable(_) if self.contents.unreadable.len() == limits::TENSORS => {
                    return Err(Error::limit(format!("more than {} tensors", limits::TENSORS)));
                }
                Rebuilt::Unreadable(reason) => self.contents.unreadable.push(Unreadable { key: name, reason }),
                Rebuilt::NotATensor => self.plain.leave(shorten(&name), value),
            }
        }
        Ok(())
    }

    /// A tensor's key as text. Numbers are spelled out; one that then equals another key is found on insertion.
    fn key(&mut self, key: Id) -> Result<String> {
        match self.pickle.node(key) {
            Node::Int(number) => Ok(number.to_string()),
            _ => self.pickle.str(key).map(str::to_owned).ok_or_else(|| {
                let what = self.plain.words.describe(key);
                Error::unsupported(format!("a tensor whose key is not a name but this: {what}"))
            }),
        }
    }
}

/// The items of a `ParameterDict`, in which textual inversion keeps its tensors: a module, its parameters among its
/// attributes.
fn parameters(pickle: &Pickle, id: Id) -> Option<Vec<(Id, Id)>> {
    let (name, _, object) = pickle.call(id)?;
    if !name.is("torch.nn.modules.container", "ParameterDict") {
        return None;
    }
    let attributes = dict_items(pickle, *object.state.last()?)?;
    let (_, parameters) = attributes.iter().rev().find(|&&(key, _)| pickle.word(key) == Some("_parameters"))?;
    dict_items(pickle, *parameters)
}
