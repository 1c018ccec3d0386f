//! Formats the arguments of a call for a report.

use crate::pickle::{Id, Node, Pickle};

/// Length at which the arguments of a call are cut, in bytes.
const SHOWN: usize = 100;

/// Formats the arguments of a call as Python source code, cut to the length of a line.
pub(super) fn show_call(pickle: &Pickle, args: Id) -> String {
    let mut out = String::new();
    if let Some(args) = pickle.tuple(args) {
        list(pickle, args, ('(', ')'), 0, &mut out);
    } else {
        out.push_str("(*");
        show(pickle, args, 0, &mut out);
        out.push(')');
    }
    out
}

fn list(pickle: &Pickle, items: &[Id], brackets: (char, char), depth: usize, out: &mut String) {
    out.push(brackets.0);
    for (index, &item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        if out.len() >= SHOWN || depth > 2 {
            out.push('…');
            break;
        }
        show(pickle, item, depth + 1, out);
    }
    out.push(brackets.1);
}

fn show(pickle: &Pickle, id: Id, depth: usize, out: &mut String) {
    let quoted = |bytes: &[u8]| {
        let left = SHOWN.saturating_sub(out.len()).max(8);
        let cut = bytes.get(..left).unwrap_or(bytes);
        format!("'{}{}'", String::from_utf8_lossy(cut), if cut.len() < bytes.len() { "…" } else { "" })
    };
    match pickle.node(id) {
        Node::None => out.push_str("None"),
        Node::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
        Node::Int(value) => out.push_str(&value.to_string()),
        Node::Float(value) => out.push_str(&value.to_string()),
        Node::Str(text) => out.push_str(&quoted(pickle.text(text))),
        Node::Bytes(text) => {
            let shown = quoted(pickle.text(text));
            out.push('b');
            out.push_str(&shown);
        }
        Node::Global(name) => out.push_str(&name.to_string()),
        Node::Tuple(items) => list(pickle, items, ('(', ')'), depth, out),
        Node::List(items) => list(pickle, items, ('[', ']'), depth, out),
        Node::Object(object) => {
            if let Node::Global(name) = pickle.node(object.callable) {
                out.push_str(&name.to_string());
            }
            out.push_str("(…)");
        }
        _ => out.push('…'),
    }
}
