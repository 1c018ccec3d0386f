use crate::danger::values::Values;
use crate::pickle::{Id, Node};

/// The length of bytes, of the string that Python 2 writes for bytes, or of the text that a call makes bytes of. `bytes()` has the length 0.
pub(super) fn byte_count(values: &Values<'_>, id: Id) -> Option<u64> {
    let pickle = values.pickle;
    let text = match pickle.node(id) {
        Node::Bytes(text) | Node::Str(text) => text,
        Node::Object(object) => match pickle.tuple(object.args)?.first().map(|&first| pickle.node(first)) {
            None => return Some(0),
            Some(Node::Bytes(text) | Node::Str(text)) => text,
            Some(_) => return None,
        },
        _ => return None,
    };
    Some(pickle.text(text).len() as u64)
}
