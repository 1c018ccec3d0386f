//! Reads metadata out of a pickle, and lists the values that are not plain.

use std::collections::HashMap;

use super::describe::Describer;
use super::numpy;
use super::python::{bytes, dict_items, shorten};
use crate::containers::OpaqueValue;
use crate::limits;
use crate::metadata::PyValue;
use crate::pickle::{Id, Node, Pickle};

/// Reads plain values out of a pickle, and lists the opaque ones.
pub(super) struct MetadataReader<'a> {
    pickle: &'a Pickle,
    /// Values that may still be read.
    values_left: usize,
    /// Bytes of text that may still be copied.
    bytes_left: usize,
    pub describer: Describer<'a>,
    /// The opaque values, up to [`limits::OPAQUE_LISTED`].
    opaque: Vec<OpaqueValue>,
    /// The number of further opaque values.
    unlisted: usize,
}

impl<'a> MetadataReader<'a> {
    pub(super) fn new(pickle: &'a Pickle) -> Self {
        MetadataReader {
            pickle,
            values_left: limits::METADATA_VALUES,
            bytes_left: limits::METADATA_TEXT_BYTES,
            describer: Describer::new(pickle),
            opaque: Vec::new(),
            unlisted: 0,
        }
    }

    /// Returns the plain part of the value at `id`. In a dict, opaque entries are listed and left out. Any other value with
    /// an opaque part is listed as a whole, and the result is `None`.
    pub(super) fn read(&mut self, path: &str, id: Id) -> Option<PyValue> {
        self.read_at_depth(path, id, 0)
    }

    /// Returns the list of opaque values.
    pub(super) fn into_opaque(mut self) -> Vec<OpaqueValue> {
        if self.unlisted > 0 {
            self.opaque.push(OpaqueValue { path: "…".into(), what: format!("{} more values", self.unlisted) });
        }
        self.opaque
    }

    /// Lists the value at `id` as opaque.
    pub(super) fn list_opaque(&mut self, path: &str, id: Id) {
        if self.opaque.len() < limits::OPAQUE_LISTED {
            let what = self.describer.describe(id);
            self.list_as(path, what);
        } else {
            self.unlisted += 1;
        }
    }

    /// Lists a value with this description as opaque.
    pub(super) fn list_as(&mut self, path: &str, what: String) {
        if self.opaque.len() < limits::OPAQUE_LISTED {
            self.opaque.push(OpaqueValue { path: path.to_owned(), what });
        } else {
            self.unlisted += 1;
        }
    }

    fn read_at_depth(&mut self, path: &str, id: Id, depth: usize) -> Option<PyValue> {
        // Checked before anything is copied: a dict with many references would be copied for each of them.
        if depth < limits::METADATA_DEPTH
            && self.can_afford(id)
            && let Some(items) = dict_items(self.pickle, id)
            && self.spend()
        {
            return self.dict(path, id, &items, depth);
        }
        let value = self.whole(id, depth);
        if value.is_none() {
            self.list_opaque(path, id);
        }
        value
    }

    /// Returns the plain entries of a dict. `None` if it has entries and all are opaque.
    fn dict(&mut self, path: &str, id: Id, items: &[(Id, Id)], depth: usize) -> Option<PyValue> {
        let mut pairs: Vec<(PyValue, PyValue)> = Vec::new();
        let mut positions: HashMap<String, usize> = HashMap::new();
        let before = (self.opaque.len(), self.unlisted);
        for &(key, value) in items {
            let key_text = self.whole(key, depth + 1);
            let shown = key_text.as_ref().map_or_else(|| self.describer.describe(key), PyValue::to_text);
            let path = format!("{path}.{}", shorten(&shown));
            match key_text {
                None | Some(PyValue::List(_) | PyValue::Dict(_)) => self.list_opaque(&path, value),
                Some(key) => {
                    if let Some(value) = self.read_at_depth(&path, value, depth + 1) {
                        // As in Python, the last assignment wins and keeps the position of the first.
                        let position = *positions.entry(format!("{key:?}")).or_insert(pairs.len());
                        match pairs.get_mut(position) {
                            Some(pair) => pair.1 = value,
                            None => pairs.push((key, value)),
                        }
                    }
                }
            }
        }
        if pairs.is_empty() && !items.is_empty() {
            // All entries are opaque: list the dict instead of each entry.
            self.opaque.truncate(before.0);
            self.unlisted = before.1;
            self.list_opaque(path, id);
            return None;
        }
        Some(PyValue::Dict(pairs))
    }

    /// Returns the value at `id` if it is entirely plain.
    fn whole(&mut self, id: Id, depth: usize) -> Option<PyValue> {
        if depth >= limits::METADATA_DEPTH || !self.can_afford(id) || !self.spend() {
            return None;
        }
        Some(match self.pickle.node(id) {
            Node::None => PyValue::None,
            Node::Bool(value) => PyValue::Bool(*value),
            Node::Int(value) => PyValue::Int(*value),
            Node::Float(value) => PyValue::Float(*value),
            Node::Str(_) => PyValue::Str(self.pickle.str(id)?.to_owned()),
            Node::List(items) => PyValue::List(self.all(items, depth)?),
            Node::Tuple(items) => PyValue::Tuple(self.all(items, depth)?),
            _ => {
                if let Some(bytes) = bytes(self.pickle, id) {
                    return Some(PyValue::Bytes(bytes));
                }
                if let Some(number) = numpy::scalar(self.pickle, id) {
                    return Some(number);
                }
                let items = dict_items(self.pickle, id)?;
                let pairs = items
                    .iter()
                    .map(|&(key, value)| Some((self.whole(key, depth + 1)?, self.whole(value, depth + 1)?)));
                PyValue::Dict(pairs.collect::<Option<_>>()?)
            }
        })
    }

    fn all(&mut self, items: &[Id], depth: usize) -> Option<Vec<PyValue>> {
        items.iter().map(|&item| self.whole(item, depth + 1)).collect()
    }

    /// Returns whether the budgets suffice for a value's items and the bytes of its text. Charges the bytes if they do.
    fn can_afford(&mut self, id: Id) -> bool {
        // No sum here overflows: a pickle has at most 2^25 bytes, and each item takes one of them.
        let (items, bytes) = match self.pickle.node(id) {
            Node::Str(text) | Node::Bytes(text) => (0, self.pickle.text(text).len()),
            Node::List(items) | Node::Tuple(items) => (items.len(), 0),
            Node::Dict(items) => (items.len() * 2, 0),
            // An argument can be one of the above, and is copied as a whole.
            Node::Object(object) => {
                let args = self.pickle.tuple(object.args).into_iter().flatten();
                let sizes = args.take(2).map(|&argument| match self.pickle.node(argument) {
                    Node::Str(text) | Node::Bytes(text) => (0, self.pickle.text(text).len()),
                    Node::List(items) | Node::Tuple(items) => (items.len(), 0),
                    Node::Dict(items) => (items.len(), 0),
                    _ => (0, 0),
                });
                sizes.fold((object.pairs.len() * 2, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
            }
            _ => (0, 0),
        };
        if items > self.values_left || bytes > self.bytes_left {
            return false;
        }
        self.bytes_left -= bytes;
        true
    }

    /// Charges one value to the budget. Returns false if it is used up.
    fn spend(&mut self) -> bool {
        match self.values_left.checked_sub(1) {
            Some(left) => {
                self.values_left = left;
                true
            }
            None => false,
        }
    }
}
