//! The global names in a pickle, interned. Repeating a name takes six bytes of the pickle, but the name may have a
//! thousand.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::value::{Id, Name};

/// All names of a pickle and their parts.
#[derive(Default)]
pub(super) struct NameTable {
    /// Every part by its text.
    texts: HashMap<Arc<str>, NamePart>,
    /// Values that were used as parts.
    values: HashMap<Id, NamePart>,
    /// Names by the numbers of their parts.
    names: HashMap<(u32, u32), Arc<Name>>,
    /// Bytes of all names.
    bytes: usize,
}

/// A module, or a name in a module: its number and its text.
pub(super) type NamePart = (u32, Arc<str>);

impl NameTable {
    /// Interns a text.
    pub(super) fn part(&mut self, text: &str) -> NamePart {
        if let Some(part) = self.texts.get(text) {
            return part.clone();
        }
        let text: Arc<str> = text.into();
        let part = (self.texts.len() as u32, Arc::clone(&text));
        self.texts.insert(text, part.clone());
        part
    }

    /// Returns the part that this value was interned as.
    pub(super) fn known(&self, value: Id) -> Option<NamePart> {
        self.values.get(&value).cloned()
    }

    /// Records the part that a value was interned as.
    pub(super) fn keep(&mut self, value: Id, part: &NamePart) {
        self.values.insert(value, part.clone());
    }

    /// Interns a name. Fails if the names exceed a limit.
    pub(super) fn name(&mut self, module: &NamePart, name: &NamePart) -> Result<Arc<Name>> {
        if let Some(known) = self.names.get(&(module.0, name.0)) {
            return Ok(Arc::clone(known));
        }
        self.bytes += module.1.len() + name.1.len();
        if self.bytes > limits::GLOBAL_NAMES_BYTES {
            let most = limits::GLOBAL_NAMES_BYTES;
            return Err(Error::limit(format!("names of more than {most} bytes in a pickle")));
        }
        if self.names.len() == limits::GLOBAL_NAMES {
            return Err(Error::limit(format!("more than {} names in a pickle", limits::GLOBAL_NAMES)));
        }
        let made = Arc::new(Name { module: module.1.to_string(), name: name.1.to_string() });
        self.names.insert((module.0, name.0), Arc::clone(&made));
        Ok(made)
    }
}
