//! Plain values out of a pickle, and words for those that are not plain.

use std::collections::HashMap;

use super::numpy;
use super::words::Words;
use crate::format::Opaque;
use crate::limits;
use crate::metadata::Plain;
use crate::pickle::{Id, Node, Pickle};

/// The items of a dict, or of a call that makes one of the collections that are dicts.
pub(super) fn dict_items(pickle: &Pickle, id: Id) -> Option<Vec<(Id, Id)>> {
    if let Node::Dict(items) = pickle.node(id) {
        return Some(items.clone());
    }
    let (name, args, object) = pickle.call(id)?;
    if name.module != "collections" {
        return None;
    }
    // What they may be made from: nothing, pairs, or a dict; a defaultdict names its factory first.
    let from = match (name.name.as_str(), args) {
        ("OrderedDict" | "Counter", []) | ("defaultdict", [] | [_]) => None,
        ("OrderedDict" | "Counter", &[from]) | ("defaultdict", &[_, from]) => Some(from),
        _ => return None,
    };
    let mut items = match from.map(|from| pickle.node(from)) {
        None => Vec::new(),
        Some(Node::Dict(items)) => items.clone(),
        Some(Node::List(pairs) | Node::Tuple(pairs)) => {
            let pair = |&pair: &Id| match pickle.node(pair) {
                Node::Tuple(pair) | Node::List(pair) => <[Id; 2]>::try_from(pair.as_slice()).ok(),
                _ => None,
            };
            pairs.iter().map(|id| pair(id).map(|[key, value]| (key, value))).collect::<Option<_>>()?
        }
        _ => return None,
    };
    items.extend(&object.pairs);
    Some(items)
}

/// A key as a part of a path: no key of a checkpoint is longer, and a path is made for every value below.
pub(super) fn shorten(key: &str) -> &str {
    const LONGEST: usize = 200;
    key.char_indices().nth(LONGEST).and_then(|(end, _)| key.get(..end)).unwrap_or(key)
}

/// The bytes of a bytes object: its own, or of `_codecs.encode(text, 'latin1')`, which protocol 2 writes instead.
pub(super) fn bytes(pickle: &Pickle, id: Id) -> Option<Vec<u8>> {
    if let Node::Bytes(text) = pickle.node(id) {
        return Some(pickle.text(text).to_vec());
    }
    let (name, args, _) = pickle.call(id)?;
    if name.is("__builtin__", "bytes") && args.is_empty() {
        return Some(Vec::new());
    }
    let &[text, encoding] = args else { return None };
    let is_latin = matches!(pickle.word(encoding)?, "latin1" | "latin-1");
    if !name.is("_codecs", "encode") || !is_latin {
        return None;
    }
    pickle.str(text)?.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

/// Takes plain values out of a pickle, noting what is left behind.
pub(super) struct PlainReader<'a> {
    pickle: &'a Pickle,
    /// Values that may still be looked at, and bytes of text that may still be copied.
    budget: usize,
    bytes: usize,
    pub words: Words<'a>,
    /// What was not plain, by path.
    opaque: Vec<Opaque>,
    /// How much more was not.
    unlisted: usize,
}

impl<'a> PlainReader<'a> {
    pub(super) fn new(pickle: &'a Pickle) -> Self {
        PlainReader {
            pickle,
            budget: limits::PLAIN_VALUES,
            bytes: limits::PLAIN_BYTES,
            words: Words::new(pickle),
            opaque: Vec::new(),
            unlisted: 0,
        }
    }

    /// The value at `id` as far as it is plain. Entries of dicts that are not are noted and left out; any other value
    /// that is not plain throughout is noted as a whole, and `None` is returned.
    pub(super) fn read(&mut self, path: &str, id: Id) -> Option<Plain> {
        self.read_at_depth(path, id, 0)
    }

    /// What was left behind.
    pub(super) fn into_opaque(mut self) -> Vec<Opaque> {
        if self.unlisted > 0 {
            self.opaque.push(Opaque { path: "…".into(), what: format!("{} more values", self.unlisted) });
        }
        self.opaque
    }

    /// Notes the value at `id` as left behind.
    pub(super) fn leave(&mut self, path: &str, id: Id) {
        if self.opaque.len() == limits::OPAQUE_LISTED {
            self.unlisted += 1;
            return;
        }
        let what = self.words.describe(id);
        self.opaque.push(Opaque { path: path.to_owned(), what });
    }

    fn read_at_depth(&mut self, path: &str, id: Id, depth: usize) -> Option<Plain> {
        // Before anything is copied: a dict referred to again and again would be copied again and again.
        if depth < limits::PLAIN_DEPTH
            && self.can_afford(id)
            && let Some(items) = dict_items(self.pickle, id)
            && self.spend()
        {
            return self.dict(path, id, &items, depth);
        }
        let value = self.whole(id, depth);
        if value.is_none() {
            self.leave(path, id);
        }
        value
    }

    fn dict(&mut self, path: &str, id: Id, items: &[(Id, Id)], depth: usize) -> Option<Plain> {
        let mut pairs: Vec<(Plain, Plain)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let noted = (self.opaque.len(), self.unlisted);
        for &(key, value) in items {
            let key_text = self.whole(key, depth + 1);
            let shown = key_text.as_ref().map_or_else(|| self.words.describe(key), Plain::to_text);
            let path = format!("{path}.{}", shorten(&shown));
            match key_text {
                None | Some(Plain::List(_) | Plain::Dict(_)) => self.leave(&path, value),
                Some(key) => {
                    if let Some(value) = self.read_at_depth(&path, value, depth + 1) {
                        // As in Python, the last assignment wins and keeps the place of the first.
                        let place = *places.entry(format!("{key:?}")).or_insert(pairs.len());
                        match pairs.get_mut(place) {
                            Some(pair) => pair.1 = value,
                            None => pairs.push((key, value)),
                        }
                    }
                }
            }
        }
        if pairs.is_empty() && !items.is_empty() {
            // Nothing of it was plain: one line says so.
            self.opaque.truncate(noted.0);
            self.unlisted = noted.1;
            self.leave(path, id);
            return None;
        }
        Some(Plain::Dict(pairs))
    }

    /// The value at `id` if it is plain throughout.
    fn whole(&mut self, id: Id, depth: usize) -> Option<Plain> {
        if depth >= limits::PLAIN_DEPTH || !self.can_afford(id) || !self.spend() {
            return None;
        }
        Some(match self.pickle.node(id) {
            Node::None => Plain::None,
            Node::Bool(value) => Plain::Bool(*value),
            Node::Int(value) => Plain::Int(*value),
            Node::Float(value) => Plain::Float(*value),
            Node::Str(_) => Plain::Str(self.pickle.str(id)?.to_owned()),
            Node::List(items) => Plain::List(self.all(items, depth)?),
            Node::Tuple(items) => Plain::Tuple(self.all(items, depth)?),
            _ => {
                if let Some(bytes) = bytes(self.pickle, id) {
                    return Some(Plain::Bytes(bytes));
                }
                if let Some(number) = numpy::scalar(self.pickle, id) {
                    return Some(number);
                }
                let items = dict_items(self.pickle, id)?;
                let pairs = items
                    .iter()
                    .map(|&(key, value)| Some((self.whole(key, depth + 1)?, self.whole(value, depth + 1)?)));
                Plain::Dict(pairs.collect::<Option<_>>()?)
            }
        })
    }

    fn all(&mut self, items: &[Id], depth: usize) -> Option<Vec<Plain>> {
        items.iter().map(|&item| self.whole(item, depth + 1)).collect()
    }

    /// Whether the budgets reach for a value: for its items, for the bytes of its text.
    fn can_afford(&mut self, id: Id) -> bool {
        let (items, bytes) = match self.pickle.node(id) {
            Node::Str(text) | Node::Bytes(text) => (0, self.pickle.text(text).len()),
            Node::List(items) | Node::Tuple(items) => (items.len(), 0),
            Node::Dict(items) => (items.len() * 2, 0),
            // What it is made from is one of the above, and is copied at once.
            Node::Object(object) => {
                let args = self.pickle.tuple(object.args).unwrap_or_default();
                let sizes = args.iter().take(2).map(|&argument| match self.pickle.node(argument) {
                    Node::Str(text) | Node::Bytes(text) => (0, self.pickle.text(text).len()),
                    Node::List(items) | Node::Tuple(items) => (items.len(), 0),
                    Node::Dict(items) => (items.len(), 0),
                    _ => (0, 0),
                });
                sizes.fold((object.pairs.len() * 2, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
            }
            _ => (0, 0),
        };
        if items > self.budget || bytes > self.bytes {
            return false;
        }
        self.bytes -= bytes;
        true
    }

    fn spend(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }
}
