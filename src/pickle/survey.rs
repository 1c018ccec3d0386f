//! A pickle as whoever unpickles it would meet it, as far as it goes: for looking at, not for reading.
//!
//! Where [`parse`](super::parse) refuses what contradicts itself, a survey goes on: Python has done everything that
//! stands before a contradiction by the time it notices it, and notices some of them never.

use crate::error::{Error, Kind};
use crate::limits;
use crate::pickle::cursor::Cursor;
use crate::pickle::machine::Machine;
use crate::pickle::op;
use crate::pickle::value::{Id, Node, Pickle};

/// What was seen of a pickle.
#[derive(Debug)]
pub struct Survey {
    /// Every value, name and call up to the end, or up to where it breaks.
    pub pickle: Pickle,
    /// Whether it ends with its STOP.
    pub complete: bool,
    /// Where it first contradicts itself, and how.
    pub broken: Option<Error>,
}

/// Something that hides what a pickle does, or asks its reader to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// STACK_GLOBAL of a name that does not stand in the pickle.
    ComputedName,
    /// An entry of the registry of extensions, by its code.
    Extension(u32),
    /// A buffer that the reader would have to have from elsewhere.
    Buffer,
    /// A memo entry of a number that no pickle reaches.
    Reserve,
    /// An opcode, or a frame, that goes on behind the end of its frame: a reader that holds one frame at a time loses
    /// what stands before that end, and so may import another name than stands there.
    Straddle,
    /// BUILD on a value that no call made.
    State(Id),
    /// A persistent id: this value is handed to the reader.
    Persistent(Id),
}

/// An oddity in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OddUse {
    /// What it is.
    pub oddity: Oddity,
    /// The opcode's offset in the pickle.
    pub offset: u64,
}

/// Looks through the pickle that begins at the start of `bytes`, up to its STOP or to where nothing can be made of it.
pub fn survey(bytes: &[u8]) -> Survey {
    let mut machine = Machine::new(bytes);
    machine.is_survey = true;
    let mut broken: Option<Error> = None;
    let mut root = None;
    for _ in 0..limits::PICKLE_OPCODES {
        let offset = machine.cursor.position();
        match machine.step(offset) {
            Ok(None) => {}
            Ok(Some(found)) => {
                root = Some(found);
                break;
            }
            Err(error) => {
                let stops = error.kind() == Kind::Limit || !machine.skip(offset);
                let error = machine.placed(offset, error, bytes);
                broken.get_or_insert(error);
                if stops {
                    break;
                }
            }
        }
    }
    let complete = root.is_some();
    if !complete && broken.is_none() {
        broken = Some(Error::limit(format!("more opcodes in a pickle than the limit of {}", limits::PICKLE_OPCODES)));
    }
    Survey { pickle: machine.into_pickle(root.unwrap_or(Id(0)), bytes), complete, broken }
}

impl Machine<'_> {
    pub(super) fn note(&mut self, oddity: Oddity, offset: usize) {
        self.oddities.push(OddUse { oddity, offset: offset as u64 });
    }

    /// The extension registry and out-of-band buffers: values from outside of the pickle.
    pub(super) fn outside(&mut self, code: u8, offset: usize) -> crate::Result<()> {
        let oddity = match code {
            op::EXT1 => Oddity::Extension(u32::from(self.cursor.u8()?)),
            op::EXT2 => Oddity::Extension(u32::from(u16::from_le_bytes(self.cursor.array()?))),
            op::EXT4 => Oddity::Extension(self.cursor.u32()?),
            op::NEXT_BUFFER => Oddity::Buffer,
            // The buffer on the stack stays what it is.
            _ => return Ok(()),
        };
        self.note(oddity, offset);
        self.push(Node::Unknown)
    }

    /// Goes past the opcode at `offset`, which failed, leaving an unknown value; false where it is none or is cut short.
    fn skip(&mut self, offset: usize) -> bool {
        self.cursor.move_to(offset);
        skip_argument(&mut self.cursor).is_some() && self.push(Node::Unknown).is_ok()
    }
}

/// Reads over an opcode and its argument.
fn skip_argument(cursor: &mut Cursor<'_>) -> Option<()> {
    let code = cursor.u8().ok()?;
    op::name(code)?;
    let line = |cursor: &mut Cursor<'_>| cursor.line(limits::PICKLE_BYTES as usize, "").ok().map(drop);
    let count = match code {
        op::GLOBAL | op::INST => {
            line(cursor)?;
            return line(cursor);
        }
        op::INT | op::LONG | op::FLOAT | op::STRING | op::UNICODE | op::PERSID | op::GET | op::PUT => {
            return line(cursor);
        }
        op::BININT1 | op::BINGET | op::BINPUT | op::PROTO | op::EXT1 => 1,
        op::BININT2 | op::EXT2 => 2,
        op::BININT | op::LONG_BINGET | op::LONG_BINPUT | op::EXT4 => 4,
        op::BINFLOAT | op::FRAME => 8,
        op::LONG1 | op::SHORT_BINSTRING | op::SHORT_BINUNICODE | op::SHORT_BINBYTES => u64::from(cursor.u8().ok()?),
        op::LONG4 | op::BINSTRING | op::BINUNICODE | op::BINBYTES => u64::from(cursor.u32().ok()?),
        op::BINUNICODE8 | op::BINBYTES8 | op::BYTEARRAY8 => cursor.u64().ok()?,
        _ => 0,
    };
    cursor.take(count).ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<String> {
        survey(bytes).pickle.globals().iter().map(|global| global.name.to_string()).collect()
    }

    #[test]
    fn what_stands_before_a_break_is_seen() {
        for tail in [&b""[..], b"\xff", b"X\xff\xff\xff\xff", b"h\x07", b"000000.", b"\x80\x63.", b"I1x\n."] {
            let bytes = [b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R", tail].concat();
            let seen = survey(&bytes);
            assert_eq!(names(&bytes), ["os.system"], "{tail:?}");
            assert!(seen.pickle.nodes().iter().any(|node| matches!(node, Node::Object(_))), "{tail:?}");
        }
    }

    #[test]
    fn goes_on_where_python_goes_on() {
        // A frame that lies, a second PROTO, values left on the stack, an index that Python's int takes.
        assert_eq!(names(b"\x80\x04\x95\xff\0\0\0\0\0\0\0\x80\x02NNcos\nsystem\n."), ["os.system"]);
        assert_eq!(names(b"\x8c\x02osp1_0\n0\x8c\x06systemq\x010g 10\nh\x01\x93."), ["os.system"]);
        assert_eq!(names(b"0cos\nsystem\n."), ["os.system"]);
    }

    #[test]
    fn notes_what_comes_from_outside() {
        let found = |bytes: &[u8]| survey(bytes).pickle.oddities().iter().map(|odd| odd.oddity).collect::<Vec<_>>();
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
    fn ends_at_a_limit() {
        let marks = [op::MARK].repeat(limits::PICKLE_MARKS + 1);
        assert_eq!(survey(&marks).broken.map(|error| error.kind()), Some(Kind::Limit));
        let long = [b"c".as_slice(), &b"a".repeat(4 << 20), b"\nb\n."].concat();
        assert_eq!(names(&long)[0].len(), limits::GLOBAL_NAME_BYTES + 1 + 2);
    }
}
