//! The names in a pickle, each kept once: a name takes six bytes to repeat and may be a thousand long.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::value::{Id, Name};

/// Names, and the texts they are made of.
#[derive(Default)]
pub(super) struct Names {
    /// Every text that is a part of a name, by its number.
    texts: HashMap<Arc<str>, (u32, Arc<str>)>,
    /// The numbers of values that were parts of names: such a value is read once.
    values: HashMap<Id, (u32, Arc<str>)>,
    /// Names by the numbers of their parts.
    names: HashMap<(u32, u32), Arc<Name>>,
    /// Bytes of all names.
    bytes: usize,
}

/// A part of a name.
pub(super) type Part = (u32, Arc<str>);

impl Names {
    /// A text as a part of a name.
    pub(super) fn part(&mut self, text: &str) -> Part {
        if let Some(part) = self.texts.get(text) {
            return part.clone();
        }
        let text: Arc<str> = text.into();
        let part = (self.texts.len() as u32, Arc::clone(&text));
        self.texts.insert(text, part.clone());
        part
    }

    /// The part of a name that a value was before.
    pub(super) fn known(&self, value: Id) -> Option<Part> {
        self.values.get(&value).cloned()
    }

    /// Keeps the part of a name that a value is.
    pub(super) fn keep(&mut self, value: Id, part: &Part) {
        self.values.insert(value, part.clone());
    }

    /// The name made of two parts.
    pub(super) fn name(&mut self, module: &Part, name: &Part) -> Result<Arc<Name>> {
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
