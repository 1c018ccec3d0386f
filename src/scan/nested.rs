//! Bytes within a pickle that are a pickle themselves, or that it would have loaded as one.

use std::borrow::Cow;
use std::collections::HashSet;

use super::pickles::LOADER;
use crate::pickle::{Id, Name, Node, Pickle, op};

/// Bytes to look through.
pub(super) struct Part<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// The offset of what is made of them, in the pickle.
    pub offset: u64,
    /// Whether a call is given them to load.
    pub is_loaded: bool,
}

/// Shorter ones call nothing.
const SHORTEST: usize = 4;

/// The bytes and texts of a pickle that something may be in, each once.
pub(super) fn nested(pickle: &Pickle) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut taken = HashSet::new();
    // First what loaders are given, so that it is known what becomes of it.
    for node in pickle.nodes() {
        let Node::Object(object) = node else { continue };
        if !pickle.global(object.callable).is_some_and(loads) {
            continue;
        }
        for &argument in pickle.tuple(object.args).unwrap_or_default().iter().take(4) {
            let id = source(pickle, argument);
            if let Some(bytes) = content(pickle, id)
                && taken.insert(id)
            {
                parts.push(Part { bytes, offset: object.offset, is_loaded: true });
            }
        }
    }
    for id in pickle.ids() {
        let (Node::Bytes(text) | Node::Str(text)) = pickle.node(id) else { continue };
        let raw = pickle.text(text);
        // Beyond ASCII a text says something else as Latin-1, in which protocol 2 writes bytes, than as UTF-8.
        let first = if raw.starts_with(b"\xc2\x80") { Some(&op::PROTO) } else { raw.first() };
        if raw.len() < SHORTEST || !first.is_some_and(may_begin_a_pickle) || taken.contains(&id) {
            continue;
        }
        if let Some(bytes) = content(pickle, id) {
            parts.push(Part { bytes, offset: pickle.offset_of(text), is_loaded: false });
        }
    }
    parts
}

/// Whether all that a pickle does with [`LOADER`] is to have it load bytes that stand in the pickle. One call whose bytes
/// are made elsewhere, or handed to it by somebody else, is enough to know nothing.
pub(super) fn loads_only_what_is_here(pickle: &Pickle) -> bool {
    let is_loader = |id: Id| pickle.global(id).is_some_and(is_loader);
    let none = |ids: &[Id]| !ids.iter().any(|&id| is_loader(id));
    let no_pair = |pairs: &[(Id, Id)]| !pairs.iter().any(|&(key, value)| is_loader(key) || is_loader(value));
    let mut calls = 0;
    let all = pickle.nodes().iter().all(|node| match node {
        Node::Tuple(items) | Node::List(items) | Node::Set(items) => none(items),
        Node::Dict(pairs) => no_pair(pairs),
        Node::Persistent(target) => !is_loader(*target),
        Node::Object(object) => {
            let handed = [Some(object.args), object.kwargs].into_iter().flatten().collect::<Vec<_>>();
            let is_handed_none = none(&handed) && none(&object.state) && none(&object.items) && no_pair(&object.pairs);
            let stands_here = || {
                let is_plain = object.kwargs.is_none();
                is_plain && matches!(pickle.tuple(object.args), Some(&[bytes]) if are_here(pickle, bytes))
            };
            let calls_it = is_loader(object.callable);
            calls += usize::from(calls_it);
            is_handed_none && (!calls_it || stands_here())
        }
        _ => true,
    });
    all && calls > 0 && !is_loader(pickle.root())
}

/// Whether a value is bytes, or what protocol 2 writes for them.
fn are_here(pickle: &Pickle, id: Id) -> bool {
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

/// Whether a call takes bytes and loads them, or hands them to something that does.
fn loads(name: &Name) -> bool {
    is_loader(name)
        || matches!(
            name.name.as_str(),
            "loads" | "load" | "Unpickler" | "decode" | "b64decode" | "BytesIO" | "StringIO"
        )
}

/// The bytes or the text that an argument is, or that the call which makes it is given first:
/// `_codecs.encode(text, …)`, `io.BytesIO(bytes)`.
fn source(pickle: &Pickle, argument: Id) -> Id {
    let made_of = pickle.object(argument).and_then(|object| pickle.tuple(object.args)?.first());
    made_of.copied().unwrap_or(argument)
}

/// Bytes as they are; a text as the bytes that protocol 2 writes so, where it can be that.
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

/// The first byte of anything that names something, and of a zip.
fn may_begin_a_pickle(first: &u8) -> bool {
    matches!(first, 0x80 | 0x8c | 0x8e | 0x93 | 0x95 | b'(' | b')' | b']' | b'}' | b'B' | b'C' | b'I' | b'K' | b'N')
        || matches!(first, b'P' | b'S' | b'T' | b'U' | b'V' | b'X' | b'c' | b'i')
}
