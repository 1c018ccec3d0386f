//! Keys of dicts and members of sets: what Python hashes and compares at each use.

use std::sync::Arc;

use super::values::{BadKey, LONGEST_TEXT, Values};
use super::vouched::Kind;
use crate::pickle::{Id, Node};

/// Bytes or digits of the longest integer that may be a key: more than those of an identifier of 128 bits.
const LONGEST_INTEGER: usize = 64;

/// Most values in a tuple or set that is a key, counting shared ones each time: Python hashes or compares all of them at
/// each use.
const MOST_IN_KEY: usize = 200;

impl Values<'_> {
    /// Whether the hash of a value runs code that is not vouched for, or may take long.
    pub(super) fn bad_key(&self, id: Id) -> Option<BadKey> {
        if self.members(id).is_none() {
            return self.bad_scalar(id);
        }
        if let Some(known) = self.keys.borrow().get(&id) {
            return known.clone();
        }
        let found = self.bad_tuple(id);
        self.keys.borrow_mut().insert(id, found.clone());
        found
    }

    /// The members of a tuple or set. Python compares those of equal sets again at each use.
    fn members(&self, id: Id) -> Option<&[Id]> {
        match self.pickle.node(id) {
            Node::Tuple(items) | Node::Set(items) => Some(items),
            Node::Object(object) => {
                let entry = self.global(object.callable)?;
                let is_set = entry.is == Kind::PlainClass && entry.call.is_some_and(|call| call.items);
                self.items(*self.pickle.tuple(object.args)?.first().filter(|_| is_set)?)
            }
            _ => None,
        }
    }

    fn bad_tuple(&self, id: Id) -> Option<BadKey> {
        let mut pending = vec![id];
        let mut values = 0;
        while let Some(id) = pending.pop() {
            values += 1;
            if values > MOST_IN_KEY {
                return Some(BadKey::Other);
            }
            match self.members(id) {
                Some(items) if items.len() > MOST_IN_KEY => return Some(BadKey::Other),
                Some(items) => pending.extend(items),
                None => {
                    if let Some(bad) = self.bad_scalar(id) {
                        return Some(bad);
                    }
                }
            }
        }
        None
    }

    /// Bytes of the long texts in a key. Python compares them with those of an equal key at each use.
    pub(super) fn key_bytes(&self, id: Id) -> u64 {
        let long_text = |id: Id| match self.pickle.node(id) {
            Node::Str(text) | Node::Bytes(text) => Some(self.pickle.text(text).len()).filter(|&len| len > LONGEST_TEXT),
            _ => None,
        };
        let members = self.members(id).unwrap_or_default().iter().take(MOST_IN_KEY);
        members.chain([&id]).filter_map(|&id| long_text(id)).fold(0, |all, len| all.saturating_add(len as u64))
    }

    fn bad_scalar(&self, id: Id) -> Option<BadKey> {
        match self.pickle.node(id) {
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Str(_) | Node::Bytes(_) => None,
            // A class or function is hashed by its address, and a list cannot be hashed.
            Node::Global(_) | Node::List(_) | Node::Dict(_) | Node::Set(_) | Node::Tuple(_) => None,
            Node::Object(object) => match self.name(object.callable) {
                Some(name) => {
                    let is_key = self.entry(name).is_some_and(|entry| entry.call.is_some_and(|call| call.key));
                    (!is_key && !self.is_allowed(id)).then(|| BadKey::Object(Arc::clone(name)))
                }
                None => Some(BadKey::Other),
            },
            // Python computes the hash of an integer again at each use. Few may have the same one.
            Node::BigInt { len } if *len <= LONGEST_INTEGER => None,
            Node::BigInt { .. } | Node::Persistent(_) | Node::Unknown => Some(BadKey::Other),
        }
    }
}
