//! Parses pickles for scanning: continues where [`parse`](super::parse) fails.
//!
//! Python runs everything before an error and does not notice all errors, so a scan must see what comes before and after
//! them.

use std::ops::Range;

use crate::error::{Error, Kind};
use crate::limits;
use crate::pickle::cursor::Cursor;
use crate::pickle::machine::{PickleMachine, too_many_opcodes};
use crate::pickle::value::{Node, Pickle};

/// The result of a lenient parse.
#[derive(Debug)]
#[non_exhaustive]
pub struct LenientParse {
    /// Every value, name and call up to STOP, or up to where parsing cannot continue.
    pub pickle: Pickle,
    /// Whether STOP was reached.
    pub is_complete: bool,
    /// Whether parsing ended because the bytes did: more bytes might continue the pickle.
    pub is_cut_short: bool,
    /// The first error, if any.
    pub broken: Option<Break>,
    /// The elements of arrays that joblib reads from between the opcodes, as offsets in the pickle.
    pub arrays: Vec<Range<usize>>,
}

/// Where a pickle is invalid or exceeds a limit, and why.
#[derive(Debug)]
#[non_exhaustive]
pub struct Break {
    /// The offset in the pickle of the opcode that failed.
    pub offset: u64,
    /// The error.
    pub error: Error,
}

/// Parses the pickle at the start of `bytes`, up to its STOP or to where parsing cannot continue. Skips the elements of arrays
/// as `joblib.load` does.
pub fn parse_lenient(bytes: &[u8]) -> LenientParse {
    parse_as(bytes, true)
}

/// Parses a pickle as [`parse_lenient`], but takes the elements of joblib's arrays for opcodes, as all other loaders do.
pub(crate) fn parse_lenient_without_arrays(bytes: &[u8]) -> LenientParse {
    parse_as(bytes, false)
}

fn parse_as(bytes: &[u8], skips_arrays: bool) -> LenientParse {
    let mut machine = PickleMachine::new(bytes);
    machine.skips_arrays = skips_arrays;
    machine.is_lenient = true;
    let mut broken = None;
    let mut root = None;
    let mut is_cut_short = false;
    let mut opcodes = 0;
    loop {
        let before = machine.cursor;
        let offset = before.position();
        if opcodes == limits::PICKLE_OPCODES {
            broken.get_or_insert_with(|| Break { offset: offset as u64, error: too_many_opcodes() });
            break;
        }
        opcodes += 1;
        match machine.step(offset) {
            Ok(None) => {}
            Ok(Some(found)) => {
                root = Some(found);
                break;
            }
            Err(error) => {
                let is_limit = error.kind() == Kind::Limit;
                let stops = is_limit || !machine.skip(before);
                is_cut_short = stops && !is_limit && before.is_cut_short();
                let error = machine.explain(offset, error, bytes);
                broken.get_or_insert(Break { offset: offset as u64, error });
                if stops {
                    break;
                }
            }
        }
    }
    let is_complete = root.is_some();
    is_cut_short |= machine.is_array_cut_short && !is_complete;
    let root = root.unwrap_or_else(|| machine.alloc_unbounded(Node::Unknown));
    let arrays = std::mem::take(&mut machine.arrays);
    LenientParse { pickle: machine.into_pickle(root), is_complete, is_cut_short, broken, arrays }
}

impl<'a> PickleMachine<'a> {
    /// Skips the opcode at `before`, which failed, and pushes an unknown value. Returns false if the byte there is not
    /// an opcode or its argument is cut short.
    fn skip(&mut self, before: Cursor<'a>) -> bool {
        self.cursor = before;
        self.cursor.skip_opcode(limits::PICKLE_BYTES as usize).is_some() && self.push(Node::Unknown).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::op;
    use crate::pickle::value::{Id, Oddity};

    fn names(bytes: &[u8]) -> Vec<String> {
        parse_lenient(bytes).pickle.globals().iter().map(|global| global.name.to_string()).collect()
    }

    #[test]
    fn finds_calls_before_an_error() {
        for tail in [&b""[..], b"\xff", b"X\xff\xff\xff\xff", b"h\x07", b"000000.", b"\x80\x63.", b"I1x\n."] {
            let bytes = [b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R", tail].concat();
            let seen = parse_lenient(&bytes);
            assert_eq!(names(&bytes), ["os.system"], "{tail:?}");
            assert!(seen.pickle.nodes().iter().any(|node| matches!(node, Node::Object(_))), "{tail:?}");
        }
    }

    #[test]
    fn continues_where_python_does() {
        // A frame past the end, a second PROTO, values left on the stack, memo indices that only Python's `int` accepts.
        assert_eq!(names(b"\x80\x04\x95\xff\0\0\0\0\0\0\0\x80\x02NNcos\nsystem\n."), ["os.system"]);
        assert_eq!(names(b"\x8c\x02osp1_0\n0\x8c\x06systemq\x010g 10\nh\x01\x93."), ["os.system"]);
        assert_eq!(names(b"0cos\nsystem\n."), ["os.system"]);
    }

    #[test]
    fn records_oddities() {
        let found =
            |bytes: &[u8]| parse_lenient(bytes).pickle.oddities().iter().map(|odd| odd.oddity).collect::<Vec<_>>();
        assert_eq!(found(b"\x82\x07."), [Oddity::Extension(7)]);
        assert_eq!(found(b"\x84\x07\x01\0\0."), [Oddity::Extension(263)]);
        assert_eq!(found(b"\x97\x98."), [Oddity::Buffer]);
        assert_eq!(found(b"NN\x93."), [Oddity::ComputedName]);
        assert_eq!(found(b"\x95\x06\0\0\0\0\0\0\0cjson.posix\nsystem\n."), [Oddity::Straddle]);
        assert_eq!(found(b"\x95\x0a\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N."), [Oddity::Straddle]);
        assert_eq!(found(b"\x95\x0b\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N."), []);
        assert_eq!(found(b"\x95\x02\0\0\0\0\0\0\0N."), []);
        assert_eq!(found(b"Nr\xff\xff\xff\xff."), [Oddity::Reserve]);
        assert_eq!(found(b"K\x01Nb."), [Oddity::State(Id(0))]);
        assert_eq!(found(b"Pid\n."), [Oddity::Persistent(Id(0))]);
    }

    #[test]
    fn stops_at_limits() {
        let marks = [op::MARK].repeat(limits::PICKLE_MARKS + 1);
        assert_eq!(parse_lenient(&marks).broken.map(|at| at.error.kind()), Some(Kind::Limit));
        let long = [b"c".as_slice(), &b"a".repeat(4 << 20), b"\nb\n."].concat();
        assert_eq!(names(&long)[0].len(), limits::GLOBAL_NAME_BYTES + 1 + 2);
    }

    #[test]
    fn long_memo_indices_are_read_like_python() {
        let spaces = b" ".repeat(limits::INTEGER_DIGITS + 1);
        let found = parse_lenient(&[b"Np".as_slice(), &spaces, b"1\n0g1\n."].concat());
        assert!(found.is_complete && found.broken.is_none());
        // Data whose first byte is that of GET: no pickle, and no limit that was exceeded.
        let found = parse_lenient(&[b"g".as_slice(), &spaces, b"x\n"].concat());
        assert_eq!(found.broken.map(|at| at.error.kind()), Some(Kind::Malformed));
    }

    #[test]
    fn an_error_at_the_size_limit_has_its_offset() {
        let bytes = [b"N".as_slice(), &b"\x80\x02".repeat(limits::PICKLE_BYTES as usize / 2)].concat();
        let broken = parse_lenient(&bytes).broken.unwrap();
        assert_eq!((broken.error.kind(), broken.offset), (Kind::Limit, limits::PICKLE_BYTES - 1));
    }
}
