//! Time zones of the module `zoneinfo`, which Python pickles as a call of a method: `getattr(ZoneInfo, '_unpickle')(key, True)`.
//!
//! The method reads a file of the time zone database. Nothing vouches for it, but it cannot be made to do anything else.

use crate::pickle::{Id, Name, Node, Object, Pickle};

/// Whether this is the function that looks up the method.
pub(super) fn is_lookup(name: &Name) -> bool {
    name.is("builtins", "getattr") || name.is("__builtin__", "getattr")
}

/// Whether a pickle calls the function for this method only, and at least once.
pub(super) fn looks_up_zones_only(pickle: &Pickle) -> bool {
    let calls = pickle.nodes().iter().filter_map(|node| match node {
        Node::Object(object) if pickle.global(object.callable).is_some_and(is_lookup) => Some(object),
        _ => None,
    });
    let mut calls = calls.peekable();
    calls.peek().is_some() && calls.all(|object| is_method(pickle, object))
}

/// Whether a call makes a time zone: of the method, with a key and a flag.
pub(super) fn makes_zone(pickle: &Pickle, object: &Object) -> bool {
    let is_method = pickle.object(object.callable).is_some_and(|method| is_method(pickle, method));
    let is_key = |&key: &Id| matches!(pickle.node(key), Node::Str(_));
    is_method
        && object.kwargs.is_none()
        && matches!(pickle.tuple(object.args), Some([key, flag])
            if is_key(key) && matches!(pickle.node(*flag), Node::Bool(_) | Node::Int(0 | 1)))
}

fn is_method(pickle: &Pickle, object: &Object) -> bool {
    let Some(&[class, method]) = pickle.tuple(object.args) else { return false };
    pickle.global(object.callable).is_some_and(is_lookup)
        && pickle.global(class).is_some_and(|name| name.is("zoneinfo", "ZoneInfo"))
        && pickle.word(method) == Some("_unpickle")
        && object.kwargs.is_none()
        && object.state.is_empty()
}
