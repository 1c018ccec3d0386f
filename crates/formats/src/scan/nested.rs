//! Finds byte strings within a pickle that are pickles themselves, or that the pickle passes to a function that loads
//! them.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::pickle::{Id, Name, Node, Pickle, op};

/// The function that a pickle of a tensor calls for its storage if `torch.save` did not write it.
pub(super) const LOADER: (&str, &str) = ("torch.storage", "_load_from_bytes");

/// Bytes within a pickle to scan.
pub(super) struct NestedBytes<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// The offset in the pickle: of the call that loads the bytes, or of the bytes themselves.
    pub offset: u64,
    /// Whether a call loads them.
    pub is_loaded: bool,
}

/// The shortest pickle that calls something.
const SHORTEST: usize = 4;

/// Arguments of a loading call to look at.
const ARGUMENTS: usize = 4;

/// Returns the byte strings and strings of a pickle that may contain a pickle, each once.
pub(super) fn nested(pickle: &Pickle) -> Vec<NestedBytes<'_>> {
    let mut found = Vec::new();
    let mut taken = HashSet::new();
    // Loaded bytes come first, so that they are marked as loaded.
    for node in pickle.nodes() {
        let Node::Object(object) = node else { continue };
        if !pickle.global(object.callable).is_some_and(loads) {
            continue;
        }
        for &argument in pickle.tuple(object.args).into_iter().flatten().take(ARGUMENTS) {
            let id = unwrap_call(pickle, argument);
            if let Some(bytes) = content(pickle, id)
                && taken.insert(id)
            {
                found.push(NestedBytes { bytes, offset: object.offset, is_loaded: true });
            }
        }
    }
    for id in pickle.ids() {
        let (Node::Bytes(text) | Node::Str(text)) = pickle.node(id) else { continue };
        let raw = pickle.text(text);
        if raw.len() < SHORTEST || !raw.first().is_some_and(may_begin_a_pickle) || taken.contains(&id) {
            continue;
        }
        if let Some(bytes) = content(pickle, id) {
            // Escaped bytes have no offset. They are reported at the start of the pickle.
            let offset = pickle.offset_of(text).unwrap_or(0);
            found.push(NestedBytes { bytes, offset, is_loaded: false });
        }
    }
    found
}

/// Whether a pickle uses [`LOADER`] only to load bytes that it contains. Returns false if one call loads bytes that are
/// computed, or if the function is passed on, because then other bytes may be loaded too.
pub(super) fn loads_only_own_bytes(pickle: &Pickle) -> bool {
    let is_loader = |id: Id| pickle.global(id).is_some_and(is_loader);
    let none = |ids: &[Id]| !ids.iter().any(|&id| is_loader(id));
    let no_pair = |pairs: &[(Id, Id)]| !pairs.iter().any(|&(key, value)| is_loader(key) || is_loader(value));
    let mut calls = 0;
    let all = pickle.nodes().iter().all(|node| match node {
        Node::Tuple(items) | Node::List(items) | Node::Set(items) => none(items),
        Node::Dict(pairs) => no_pair(pairs),
        Node::Persistent(target) => !is_loader(*target),
        Node::Object(object) => {
            let is_passed_on = is_loader(object.args)
                || object.kwargs.is_some_and(is_loader)
                || !none(&object.state)
                || !none(&object.items)
                || !no_pair(&object.pairs);
            let loads_own_bytes = || {
                let arguments = pickle.tuple(object.args);
                let is_unchanged = object.state.is_empty() && object.items.is_empty() && object.pairs.is_empty();
                let is_plain = is_unchanged && object.kwargs.is_none() && object.opcode == op::REDUCE;
                is_plain && matches!(arguments, Some(&[bytes]) if is_literal(pickle, bytes))
            };
            let is_call = is_loader(object.callable);
            calls += usize::from(is_call);
            !is_passed_on && (!is_call || loads_own_bytes())
        }
        _ => true,
    });
    all && calls > 0 && !is_loader(pickle.root())
}

/// Whether a value is a bytes object, or the call that protocol 2 writes for one.
fn is_literal(pickle: &Pickle, id: Id) -> bool {
    if let Node::Bytes(_) = pickle.node(id) {
        return true;
    }
    let Some((name, &[text, codec], _)) = pickle.call(id) else { return false };
    let is_latin = matches!(pickle.word(codec), Some("latin1" | "latin-1"));
    name.is("_codecs", "encode") && is_latin && matches!(pickle.node(text), Node::Str(_))
}

fn is_loader(name: &Name) -> bool {
    name.is(LOADER.0, LOADER.1)
}

/// Whether a function loads the bytes in its arguments, or decodes them for a function that does.
fn loads(name: &Name) -> bool {
    is_loader(name)
        || matches!(
            name.name.as_str(),
            "loads" | "load" | "Unpickler" | "decode" | "b64decode" | "BytesIO" | "StringIO"
        )
}

/// Returns the first argument of the call that an argument results from, such as `_codecs.encode(text, …)` or
/// `io.BytesIO(bytes)`; otherwise the argument itself.
fn unwrap_call(pickle: &Pickle, argument: Id) -> Id {
    let first = pickle.object(argument).and_then(|object| pickle.tuple(object.args)?.first());
    first.map_or(argument, |&first| first)
}

/// Returns the content of a bytes object, or the bytes that a string encodes in protocol 2: Latin-1 if possible,
/// otherwise UTF-8.
fn content(pickle: &Pickle, id: Id) -> Option<Cow<'_, [u8]>> {
    match pickle.node(id) {
        Node::Bytes(text) => Some(pickle.text(text).into()),
        Node::Str(text) => {
            let raw = pickle.text(text);
            let characters = std::str::from_utf8(raw).ok().filter(|text| !text.is_ascii());
            let latin = characters.and_then(|text| {
                text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect::<Option<Vec<u8>>>()
            });
            Some(latin.map_or_else(|| raw.into(), Cow::from))
        }
        _ => None,
    }
}

/// Whether a pickle or a zip may begin with this byte. Protocol 2 writes bytes as Latin-1 strings, in which bytes above 127
/// take two bytes of UTF-8, the first of which is 194 or 195.
fn may_begin_a_pickle(first: &u8) -> bool {
    op::name(*first).is_some() || matches!(first, 194 | 195)
}
