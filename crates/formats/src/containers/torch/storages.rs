//! The storages that a pickle refers to by persistent ids.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::dtype::{Elements, storage_class};
use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::pickle::{Id, Node, Pickle};
use crate::tensor::Storage;

/// A storage as a persistent id describes it: `('storage', class, key, location, numel[, view])`.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// The storage's name in the file.
    pub key: String,
    /// The elements, as the class describes them.
    pub elements: Elements,
    /// Bytes of all elements.
    pub bytes: u64,
    /// Bytes per element, the unit of the counts in legacy files.
    pub size: u64,
}

/// The part of a storage that a persistent id refers to. In early legacy files, a storage can be a window of another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Elements before the window.
    pub start: u64,
    /// Elements in the window.
    pub len: u64,
}

/// Storages by key.
#[derive(Default)]
pub(super) struct Storages {
    by_key: HashMap<String, (Reference, Arc<Storage>)>,
}

impl Storages {
    pub(super) fn insert(&mut self, reference: Reference, storage: Arc<Storage>) {
        self.by_key.insert(reference.key.clone(), (reference, storage));
    }

    /// Bytes that the storages take in their file.
    pub(super) fn bytes_in_file(&self) -> u64 {
        self.by_key.values().map(|(_, storage)| storage.bytes_in_file()).fold(0, u64::saturating_add)
    }

    /// Fails if the deflated storages are much larger than the file.
    pub(super) fn check_inflated(&self, file: u64) -> Result<()> {
        let deflated = self.by_key.values().filter(|(_, storage)| storage.is_deflated());
        let bytes = deflated.map(|(_, storage)| storage.len()).fold(0, u64::saturating_add);
        let most = limits::INFLATED_BYTES.max(file.saturating_mul(limits::INFLATED_GROWTH));
        if bytes <= most {
            return Ok(());
        }
        Err(Error::limit(format!(
            "its deflated records expand to {bytes} bytes; the limit for a file of {file} is {most}; \
             repack the zip without compression"
        )))
    }

    /// Returns the storage that the value at `id` refers to; `None` if it does not refer to a storage.
    pub(super) fn resolve(&self, pickle: &Pickle, id: Id) -> Result<Option<(Arc<Storage>, Elements, Window)>> {
        let Node::Persistent(target) = pickle.node(id) else { return Ok(None) };
        let Some((reference, window)) = describe(pickle, *target)? else { return Ok(None) };
        let storage = self.by_key.get(&reference.key).map(|(_, storage)| Arc::clone(storage));
        let storage = storage.ok_or_else(|| Error::missing(format!("storage {} is not in the file", reference.key)))?;
        Ok(Some((storage, reference.elements, window)))
    }
}

/// Returns every storage that the pickle refers to, in the order of first references.
///
/// Fails if two references to one storage disagree on its size.
pub(super) fn references(pickle: &Pickle) -> Result<Vec<Reference>> {
    let mut order: Vec<Reference> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for node in pickle.nodes() {
        let Node::Persistent(target) = node else { continue };
        let Some((reference, _)) = describe(pickle, *target)? else { continue };
        match seen.entry(reference.key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(order.len());
                order.push(reference);
            }
            Entry::Occupied(first) => {
                let first = order.get(*first.get()).or_internal("a known storage has no reference")?;
                if first.bytes != reference.bytes {
                    return Err(Error::malformed(format!(
                        "storage {} is referred to with two different sizes",
                        reference.key
                    )));
                }
            }
        }
    }
    Ok(order)
}

/// A storage that a pickle refers to, and its length.
pub(crate) struct StorageSize {
    /// The storage's name in the file.
    pub(crate) key: String,
    /// Bytes of all elements.
    pub(crate) bytes: u64,
}

/// Returns the storages that a pickle refers to. Leaves out references that cannot be read.
pub(crate) fn storage_sizes(pickle: &Pickle) -> Vec<StorageSize> {
    let targets = pickle.nodes().iter().filter_map(|node| match node {
        Node::Persistent(target) => Some(*target),
        _ => None,
    });
    let found = targets.filter_map(|target| describe(pickle, target).ok().flatten());
    found.map(|(reference, _)| StorageSize { key: reference.key, bytes: reference.bytes }).collect()
}

/// Reads a persistent id. `None` if it does not refer to a storage: old files also refer to module sources.
fn describe(pickle: &Pickle, target: Id) -> Result<Option<(Reference, Window)>> {
    let Some((&tag, parts)) = pickle.tuple(target).and_then(|parts| parts.split_first()) else { return Ok(None) };
    if pickle.word(tag) != Some("storage") {
        return Ok(None);
    }
    let &[class, key, _location, numel, ref view @ ..] = parts else {
        return Err(Error::malformed(format!("a storage reference of {} parts", parts.len() + 1)));
    };
    let class = pickle.global(class).ok_or_else(|| Error::malformed("a storage reference without a class"))?;
    let elements = storage_class(class).ok_or_else(|| Error::unsupported(format!("unknown storage class {class}")))?;
    if let Node::Str(text) = pickle.node(key)
        && pickle.text(text).len() > limits::STORAGE_KEY_BYTES
    {
        let len = pickle.text(text).len();
        let found = format!("a storage with a name of {len} bytes, the limit is {}", limits::STORAGE_KEY_BYTES);
        return Err(Error::limit(found));
    }
    let key = match (pickle.str(key), pickle.int(key)) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => number.to_string(),
        _ => return Err(Error::malformed("a storage whose key is not text")),
    };
    let count = |id: Id, what: &str| {
        let count = pickle.int(id).and_then(|count| u64::try_from(count).ok());
        count.ok_or_else(|| Error::malformed(format!("storage {key}: its {what} is not a non-negative integer")))
    };
    let numel = count(numel, "element count")?;
    let size = elements.size();
    let bytes = numel
        .checked_mul(size)
        .ok_or_else(|| Error::malformed(format!("storage {key}: {numel} elements are more than any file can hold")))?;
    let window = match view.first().map(|&view| pickle.tuple(view)) {
        Some(Some(&[_, start, len])) => {
            let (start, len) = (count(start, "view offset")?, count(len, "view size")?);
            if start.checked_add(len).is_none_or(|end| end > numel) {
                return Err(Error::malformed(format!("storage {key}: a view reaches past its {numel} elements")));
            }
            Window { start, len }
        }
        Some(_) if !matches!(view.first().map(|&view| pickle.node(view)), Some(Node::None)) => {
            return Err(Error::malformed(format!(
                "storage {key}: its view is neither None nor a tuple with a start and a size"
            )));
        }
        _ => Window { start: 0, len: numel },
    };
    Ok(Some((Reference { key, elements, bytes, size }, window)))
}
