//! Decides whether bytes are a pickle. A false alarm costs trust, and an oversight more than that.

use super::role::Role;
use crate::pickle::{LenientParse, Name, Node, Oddity, op};

/// The shortest pickle with a value and a protocol.
const SHORTEST: usize = 4;

/// Whether bytes that parse like this count as a pickle.
pub(super) fn is_pickle(parsed: &LenientParse, role: Role) -> bool {
    match role {
        Role::Loaded => true,
        Role::File { is_named } => {
            let is_pickle = has_protocol(parsed) || is_magic(parsed) || acts(parsed);
            is_pickle || is_named && (does_anything(parsed) || is_valid(parsed))
        }
        Role::Found => acts(parsed) || has_protocol(parsed) && is_valid(parsed),
        Role::Embedded => acts(parsed),
        Role::Data => is_valid(parsed) && acts(parsed),
    }
}

/// Whether the bytes are a pickle without an error, whatever its value.
pub(super) fn is_whole(parsed: &LenientParse) -> bool {
    parsed.is_complete && parsed.broken.is_none() && parsed.pickle.bytes().len() > 1
}

/// Whether torch may take the pickle's value for the magic number that a legacy file begins with. A pickle may also
/// compute it.
pub(super) fn may_be_magic(parsed: &LenientParse) -> bool {
    let root = parsed.pickle.node(parsed.pickle.root());
    parsed.is_complete && matches!(root, Node::BigInt { .. } | Node::Object(_) | Node::Unknown | Node::Persistent(_))
}

/// Whether the pickle's value is an integer as long as the magic number of a legacy file.
fn is_magic(parsed: &LenientParse) -> bool {
    parsed.is_complete && matches!(parsed.pickle.node(parsed.pickle.root()), Node::BigInt { .. })
}

fn has_protocol(parsed: &LenientParse) -> bool {
    matches!(parsed.pickle.bytes(), [op::PROTO, 0..=9, ..])
}

/// Whether the bytes are a whole pickle without an error.
fn is_valid(parsed: &LenientParse) -> bool {
    is_whole(parsed) && parsed.pickle.bytes().len() >= SHORTEST
}

/// Whether an offset in the pickle lies before its first error. Python stops there.
fn is_before_break(parsed: &LenientParse, offset: u64) -> bool {
    parsed.broken.as_ref().is_none_or(|broken| offset < broken.offset)
}

/// Whether the pickle names something, or refers to something outside of it, before its first error.
fn does_anything(parsed: &LenientParse) -> bool {
    let mut globals = parsed.pickle.globals().iter();
    let mut oddities = parsed.pickle.oddities().iter();
    globals.any(|global| is_before_break(parsed, global.offset))
        || oddities.any(|odd| is_before_break(parsed, odd.offset))
}

/// Whether the pickle names something that Python could import, and either calls something before its first error or has
/// no error. Random bytes and text do not.
pub(super) fn acts(parsed: &LenientParse) -> bool {
    let names = || {
        let mut globals = parsed.pickle.globals().iter();
        globals.any(|global| is_before_break(parsed, global.offset) && is_plausible(&global.name))
    };
    names() && (is_valid(parsed) || calls(parsed))
}

/// Whether the pickle calls something before its first error.
fn calls(parsed: &LenientParse) -> bool {
    let objects = parsed.pickle.nodes().iter().filter_map(|node| match node {
        Node::Object(object) => Some(object.offset),
        _ => None,
    });
    let states = parsed.pickle.oddities().iter().filter_map(|odd| match odd.oddity {
        Oddity::State(_) | Oddity::Items => Some(odd.offset),
        _ => None,
    });
    objects.chain(states).any(|offset| is_before_break(parsed, offset))
}

/// Whether a module and a name are made of letters, digits, underscores and dots.
fn is_plausible(name: &Name) -> bool {
    let is_plausible = |text: &str| {
        !text.is_empty() && text.chars().all(|found| found.is_alphanumeric() || matches!(found, '_' | '.' | '-'))
    };
    is_plausible(&name.module) && is_plausible(&name.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::parse_lenient;

    fn counts(bytes: &[u8], role: Role) -> bool {
        is_pickle(&parse_lenient(bytes), role)
    }

    #[test]
    fn data_counts_only_if_it_acts_and_ends() {
        for (bytes, is_found, is_data) in [
            (&b"\x82\xa0."[..], false, false),
            (b"N.", false, false),
            (b"\x80\x02N.", true, false),
            (b"cposix\nsystem\n(S'true'\ntR.", true, true),
            (b"cposix\nsystem\n.", true, true),
            (b"cposix\nsystem\n(S'true'\ntR\xff", true, false),
            (b"cposix\nsystem\n\xff", false, false),
            (b"c\x01\x02\n\x03\n)R.", false, false),
            (b"\x80\x02\x82\x07\xff", false, false),
            (b"class\nobject\nnotes", false, false),
        ] {
            assert_eq!(counts(bytes, Role::Found), is_found, "{bytes:?}");
            assert_eq!(counts(bytes, Role::Data), is_data, "{bytes:?}");
            assert!(counts(bytes, Role::Loaded));
        }
    }

    #[test]
    fn the_name_of_a_file_decides_about_what_only_names() {
        for (bytes, is_named) in [(&b"cposix\nsystem\n\xff"[..], true), (b"\x82\x07\xff", true), (b"\x13\x37", false)] {
            assert_eq!(counts(bytes, Role::File { is_named: true }), is_named, "{bytes:?}");
            assert!(!counts(bytes, Role::File { is_named: false }), "{bytes:?}");
        }
        assert!(counts(b"\x80\x02\xff", Role::File { is_named: false }));
    }
}
