//! Plain values out of a pickle, and words for those that are not plain.

use std::collections::{BTreeSet, HashSet};

use super::numpy;
use super::rebuild::is_tensor;
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
    let is_latin = matches!(pickle.str(encoding)?, "latin1" | "latin-1");
    if !name.is("_codecs", "encode") || !is_latin {
        return None;
    }
    pickle.str(text)?.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

/// Takes plain values out of a pickle, noting what is left behind.
pub(super) struct PlainReader<'a> {
    pickle: &'a Pickle,
    budget: usize,
    /// What was not plain, by path.
    pub opaque: Vec<Opaque>,
}

impl<'a> PlainReader<'a> {
    pub(super) fn new(pickle: &'a Pickle) -> Self {
        PlainReader { pickle, budget: limits::PLAIN_VALUES, opaque: Vec::new() }
    }

    /// The value at `id` as far as it is plain. Entries of dicts that are not are noted and left out; any other value
    /// that is not plain throughout is noted as a whole, and `None` is returned.
    pub(super) fn read(&mut self, path: &str, id: Id) -> Option<Plain> {
        self.read_at_depth(path, id, 0)
    }

    /// Notes the value at `id` as left behind.
    pub(super) fn leave(&mut self, path: &str, id: Id) {
        self.opaque.push(Opaque { path: path.to_owned(), what: describe(self.pickle, id) });
    }

    fn read_at_depth(&mut self, path: &str, id: Id, depth: usize) -> Option<Plain> {
        if let Some(items) = dict_items(self.pickle, id)
            && depth < limits::PLAIN_DEPTH
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
        let mut pairs: Vec<(Plain, Plain)> = Vec::with_capacity(items.len());
        let noted = self.opaque.len();
        for &(key, value) in items {
            let key_text = self.whole(key, depth + 1);
            let path =
                format!("{path}.{}", key_text.as_ref().map_or_else(|| describe(self.pickle, key), Plain::to_text));
            match key_text {
                None | Some(Plain::List(_) | Plain::Dict(_)) => self.leave(&path, value),
                Some(key) => {
                    if let Some(value) = self.read_at_depth(&path, value, depth + 1) {
                        // As in Python, the last assignment wins and keeps the place of the first.
                        match pairs.iter_mut().find(|(known, _)| *known == key).filter(|_| items.len() < 1000) {
                            Some(pair) => pair.1 = value,
                            None => pairs.push((key, value)),
                        }
                    }
                }
            }
        }
        if pairs.is_empty() && !items.is_empty() {
            // Nothing of it was plain: one line says so.
            self.opaque.truncate(noted);
            self.leave(path, id);
            return None;
        }
        Some(Plain::Dict(pairs))
    }

    /// The value at `id` if it is plain throughout.
    fn whole(&mut self, id: Id, depth: usize) -> Option<Plain> {
        if depth >= limits::PLAIN_DEPTH || !self.spend() {
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

    fn spend(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }
}

/// Values looked at to describe one opaque value.
const DESCRIBED: usize = 100_000;

/// A few words on a value that stays where it is: its kind, the tensors in it, the classes it names.
pub(super) fn describe(pickle: &Pickle, id: Id) -> String {
    let kind = match pickle.node(id) {
        Node::Dict(_) => "dict".to_owned(),
        Node::List(_) => "list".to_owned(),
        Node::Tuple(_) => "tuple".to_owned(),
        Node::Set(_) => "set".to_owned(),
        Node::BigInt => "integer of more than 64 bits".to_owned(),
        Node::Str(_) => "text that is not valid Unicode".to_owned(),
        Node::Bytes(_) => "bytes".to_owned(),
        Node::Global(name) => format!("class {name}"),
        Node::Persistent(_) => "storage".to_owned(),
        Node::Object(object) => match pickle.global(object.callable) {
            Some(_) if is_tensor(pickle, id) => "tensor".to_owned(),
            // `copyreg` makes an object of the class it is given.
            Some(name) if matches!(name.module.as_str(), "copy_reg" | "copyreg") => {
                let class = pickle.tuple(object.args).and_then(|args| pickle.global(*args.first()?));
                class.unwrap_or(name).to_string()
            }
            Some(name) => name.to_string(),
            None => "object".to_owned(),
        },
        Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) => "value".to_owned(),
    };
    let (tensors, classes) = survey(pickle, id);
    let mut words = vec![kind.clone()];
    match tensors {
        0 => {}
        _ if kind == "tensor" => {}
        1 => words.push("1 tensor".into()),
        _ => words.push(format!("{tensors} tensors")),
    }
    words.extend(classes.into_iter().filter(|class| *class != kind).take(3));
    words.join(", ")
}

/// Modules whose names say nothing of what a value is.
fn is_plumbing(module: &str) -> bool {
    let top = module.split('.').next().unwrap_or_default();
    matches!(top, "collections" | "_codecs" | "numpy" | "copy_reg" | "copyreg" | "__builtin__" | "builtins")
}

fn survey(pickle: &Pickle, id: Id) -> (usize, BTreeSet<String>) {
    let mut tensors = 0;
    let mut classes = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        if seen.len() == DESCRIBED || !seen.insert(id) {
            continue;
        }
        match pickle.node(id) {
            _ if is_tensor(pickle, id) => tensors += 1,
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => pending.extend(items),
            Node::Dict(items) => pending.extend(items.iter().flat_map(|&(key, value)| [key, value])),
            Node::Global(name) if !is_plumbing(&name.module) => drop(classes.insert(name.to_string())),
            Node::Object(object) => {
                pending.extend([object.callable, object.args]);
                pending.extend(object.kwargs);
                pending.extend(object.state.iter().chain(&object.items));
                pending.extend(object.pairs.iter().flat_map(|&(key, value)| [key, value]));
            }
            _ => {}
        }
    }
    (tensors, classes)
}
