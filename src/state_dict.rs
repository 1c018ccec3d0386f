//! The state dict: ordered, unique keys, each with a tensor.

use indexmap::IndexMap;
use indexmap::map::Entry;

use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::LazyTensor;

/// What a checkpoint is about: tensors by key, in the order of their file. The one noun that writing, hashing,
/// comparing and rendering accept.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    tensors: IndexMap<String, LazyTensor>,
}

impl StateDict {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor at the end. A key that is there already, or one of unreasonable length, is an error.
    pub fn insert(&mut self, key: impl Into<String>, tensor: LazyTensor) -> Result<()> {
        let key = key.into();
        if key.len() > limits::KEY_BYTES {
            return Err(Error::limit(format!("a key of {} bytes, the limit is {}", key.len(), limits::KEY_BYTES)));
        }
        if self.tensors.len() == limits::TENSORS {
            return Err(Error::limit(format!("more than {} tensors", limits::TENSORS)));
        }
        match self.tensors.entry(key) {
            Entry::Occupied(taken) => {
                Err(Error::conflict("the key occurs twice in the state dict").in_tensor(taken.key().as_str()))
            }
            Entry::Vacant(free) => {
                free.insert(tensor);
                Ok(())
            }
        }
    }

    /// The tensor of this key.
    pub fn get(&self, key: &str) -> Option<&LazyTensor> {
        self.tensors.get(key)
    }

    /// Whether there is a tensor of this key.
    pub fn contains(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
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

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(LazyTensor::bytes).fold(0, u64::saturating_add)
    }
}
