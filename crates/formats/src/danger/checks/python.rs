//! Conditions on calls of the standard library.

use super::bytes::byte_count;
use crate::danger::values::{Values, arguments};
use crate::pickle::{Node, Object};

/// Whether the state of a date or time is as short as pickles write it, in UTF-8 at most twice 10 bytes.
pub(super) fn has_few_bytes(values: &Values<'_>, object: &Object) -> bool {
    let first = arguments(values.pickle, object).first();
    first.is_some_and(|&bytes| byte_count(values, bytes).is_some_and(|count| count <= 20))
}

/// Whether BUILD sets no attributes but numbers that may be keys, and `is_safe`. Python takes the hash of a UUID from its
/// number, at each use.
pub(super) fn has_the_state_of_a_number(values: &Values<'_>, object: &Object) -> bool {
    let is_number = |id| match values.pickle.node(id) {
        Node::None | Node::Int(_) => true,
        Node::BigInt { .. } => values.bad_key(id).is_none(),
        Node::Object(member) => values.name(member.callable).is_some_and(|name| name.is("uuid", "SafeUUID")),
        _ => false,
    };
    object.state.iter().all(|&state| match values.pickle.node(state) {
        Node::Dict(attributes) => attributes.iter().all(|&(_, value)| is_number(value)),
        _ => false,
    })
}

/// Whether `_reconstructor` makes an object of a class that may be called without arguments, and BUILD sets what it may
/// set on such an object.
pub(super) fn reconstructs_without_arguments(values: &Values<'_>, object: &Object) -> bool {
    let &[class, base, _] = arguments(values.pickle, object) else { return false };
    let Some(call) = values.global(class).and_then(|entry| entry.call) else { return false };
    let is_object = values.pickle.global(base).is_some_and(|name| name.name == "object");
    let has_state = |&state| call.state.is_some_and(|pattern| values.matches(&pattern, state));
    is_object && values.accepts(call.args, &[]) && object.state.iter().all(has_state)
}
