//! State dicts: tensors by key, in order.

use indexmap::IndexMap;
use indexmap::map::Entry;

use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::LazyTensor;

/// The tensors of a checkpoint by key, in the order of their file.
///
/// Keys are unique, and there are at most [`limits::TENSORS`] of them. Writing, hashing, comparing and rendering all take a
/// state dict.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    tensors: IndexMap<String, LazyTensor>,
    /// Bytes of all keys.
    key_bytes: usize,
}

impl StateDict {
    /// Creates an empty state dict.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tensor.
    ///
    /// Fails if the key exists already or is longer than [`limits::KEY_BYTES`], if there are [`limits::TENSORS`] tensors, or if
    /// all keys have more than [`limits::KEYS_BYTES`].
    pub fn insert(&mut self, key: impl Into<String>, tensor: LazyTensor) -> Result<()> {
        let key = key.into();
        if key.len() > limits::KEY_BYTES {
            return Err(Error::limit(format!("a key of {} bytes, the limit is {}", key.len(), limits::KEY_BYTES)));
        }
        if self.tensors.len() == limits::TENSORS {
            return Err(Error::limit(format!("more than {} tensors", limits::TENSORS)));
        }
        self.key_bytes += key.len();
        if self.key_bytes > limits::KEYS_BYTES {
            return Err(Error::limit(format!("the keys have more than {} bytes together", limits::KEYS_BYTES)));
        }
        match self.tensors.entry(key) {
            Entry::Occupied(existing) => {
                Err(Error::conflict("duplicate key in the state dict").in_tensor(existing.key().as_str()))
            }
            Entry::Vacant(entry) => {
                entry.insert(tensor);
                Ok(())
            }
        }
    }

    /// Returns the tensor with this key.
    pub fn get(&self, key: &str) -> Option<&LazyTensor> {
        self.tensors.get(key)
    }

    /// Returns whether there is a tensor with this key.
    pub fn contains(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Returns whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Keys and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &LazyTensor)> + Clone {
        self.tensors.iter().map(|(key, tensor)| (key.as_str(), tensor))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors, at most [`u64::MAX`]: overlapping views of a storage each count, so that the sum can exceed any
    /// file.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(LazyTensor::bytes).fold(0, u64::saturating_add)
    }
}
