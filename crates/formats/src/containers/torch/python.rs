//! Reads Python objects out of a pickle: dicts, bytes and calls that build tensors.

use crate::pickle::{Id, Node, Pickle};

/// Returns the items of a dict, or of a call that builds one of the dict types of `collections`.
pub(super) fn dict_items(pickle: &Pickle, id: Id) -> Option<Vec<(Id, Id)>> {
    if let Node::Dict(items) = pickle.node(id) {
        return Some(items.clone());
    }
    let (name, args, object) = pickle.call(id)?;
    if name.module != "collections" {
        return None;
    }
    // The argument is missing, a dict, or a sequence of pairs. A defaultdict has its factory first.
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

/// Returns the content of a bytes object: a literal, or `_codecs.encode(text, 'latin1')`, which protocol 2 writes instead.
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

/// Returns whether the value is a call that builds a tensor of any kind. Decides by the callable's name alone.
pub(super) fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    pickle.call(id).is_some_and(|(name, ..)| {
        let module = name.module.as_str();
        matches!(module, "torch._utils" | "torch._tensor") && name.name.starts_with("_rebuild_")
            || module == "torch.nn.parameter" && matches!(name.name.as_str(), "Parameter" | "Buffer")
    })
}

/// Cuts a key to at most 200 characters, for use in paths. Keys of checkpoints are shorter.
pub(super) fn shorten(key: &str) -> &str {
    const LONGEST: usize = 200;
    key.char_indices().nth(LONGEST).map_or(key, |(end, _)| key.split_at(end).0)
}
