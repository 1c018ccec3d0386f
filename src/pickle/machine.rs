//! The pickle machine: the stack program of a pickle, run into an arena of values.
//!
//! It differs from Python's in one thing only: where Python would import or call, it notes the name and the
//! arguments. References are numbers, so memo and DUP copy four bytes and nothing is ever dropped recursively.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::cursor::Cursor;
use crate::pickle::names::Names;
use crate::pickle::op;
use crate::pickle::survey::{OddUse, Oddity};
use crate::pickle::value::{GlobalUse, Id, Node, Pickle};

/// The highest protocol there is.
const HIGHEST_PROTOCOL: u8 = 5;

/// Parses the pickle that begins at the start of `bytes` and ends with its STOP; what lies behind is not looked at.
///
/// Accepts every opcode of protocols 0 to 5 but the extension registry and out-of-band buffers. Stricter than Python
/// where readers disagree: frames may not nest, straddle or run past the end, and nothing may be left on the stack.
pub fn parse(bytes: &[u8]) -> Result<Pickle> {
    let (machine, root) = run(bytes)?;
    Ok(machine.into_pickle(root, bytes))
}

/// As [`parse`], of bytes that are kept rather than copied.
pub fn parse_vec(mut bytes: Vec<u8>) -> Result<Pickle> {
    let (machine, root) = run(&bytes)?;
    let end = machine.cursor.position();
    let Machine { nodes, globals, oddities, .. } = machine;
    bytes.truncate(end);
    Ok(Pickle { bytes, nodes, root, globals, oddities })
}

fn run(bytes: &[u8]) -> Result<(Machine<'_>, Id)> {
    let mut machine = Machine::new(bytes);
    let root = machine.run().map_err(|(offset, error)| machine.placed(offset, error, bytes))?;
    Ok((machine, root))
}

pub(super) struct Machine<'a> {
    pub(super) cursor: Cursor<'a>,
    frame_end: Option<usize>,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks were set.
    marks: Vec<u32>,
    pub(super) memo: HashMap<u64, Id>,
    pub(super) globals: Vec<GlobalUse>,
    pub(super) names: Names,
    /// Whether to go on where a reader would stop; otherwise the pickle is to be understood whole or refused.
    pub(super) is_survey: bool,
    pub(super) oddities: Vec<OddUse>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Machine {
            cursor: Cursor::new(bytes.get(..bytes.len().min(limits::PICKLE_BYTES as usize)).unwrap_or_default()),
            frame_end: None,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            globals: Vec::new(),
            names: Names::default(),
            is_survey: false,
            oddities: Vec::new(),
        }
    }

    /// An error with its place; one that comes of the window's end is the limit's.
    pub(super) fn placed(&self, offset: usize, error: Error, bytes: &[u8]) -> Error {
        let cut_by_limit = bytes.len() as u64 > limits::PICKLE_BYTES;
        if cut_by_limit && self.cursor.position() as u64 + 9 >= limits::PICKLE_BYTES {
            return Error::limit(format!("a pickle of more than {} bytes", limits::PICKLE_BYTES));
        }
        error.at(offset as u64)
    }

    pub(super) fn into_pickle(self, root: Id, bytes: &[u8]) -> Pickle {
        let end = self.cursor.position();
        let bytes = bytes.get(..end).unwrap_or_default().to_vec();
        Pickle { bytes, nodes: self.nodes, root, globals: self.globals, oddities: self.oddities }
    }

    /// Runs to STOP. An error comes with the offset of the opcode that failed.
    fn run(&mut self) -> Result<Id, (usize, Error)> {
        for _ in 0..limits::PICKLE_OPCODES {
            let offset = self.cursor.position();
            match self.step(offset) {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(root),
                Err(error) => return Err((offset, error)),
            }
        }
        let error = Error::limit(format!("more opcodes in a pickle than the limit of {}", limits::PICKLE_OPCODES));
        Err((self.cursor.position(), error))
    }

    pub(super) fn step(&mut self, offset: usize) -> Result<Option<Id>> {
        if self.frame_end.is_some_and(|end| offset >= end) {
            self.frame_end = None;
        }
        let code = self.cursor.u8()?;
        match code {
            op::STOP => return self.stop().map(Some),
            op::PROTO => self.proto(offset)?,
            op::FRAME => self.frame()?,
            op::MARK => self.mark()?,
            op::POP | op::POP_MARK | op::DUP => self.shuffle(code)?,
            op::NONE => self.push(Node::None)?,
            op::NEWTRUE => self.push(Node::Bool(true))?,
            op::NEWFALSE => self.push(Node::Bool(false))?,
            op::BININT
            | op::BININT1
            | op::BININT2
            | op::INT
            | op::LONG
            | op::LONG1
            | op::LONG4
            | op::BINFLOAT
            | op::FLOAT => self.number(code)?,
            op::STRING
            | op::BINSTRING
            | op::SHORT_BINSTRING
            | op::UNICODE
            | op::BINUNICODE
            | op::SHORT_BINUNICODE
            | op::BINUNICODE8 => self.string(code)?,
            op::BINBYTES | op::SHORT_BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => self.bytes(code)?,
            op::EMPTY_TUPLE
            | op::TUPLE
            | op::TUPLE1
            | op::TUPLE2
            | op::TUPLE3
            | op::EMPTY_LIST
            | op::LIST
            | op::EMPTY_SET
            | op::FROZENSET
            | op::EMPTY_DICT
            | op::DICT => self.container(code)?,
            op::APPEND | op::APPENDS | op::ADDITEMS | op::SETITEM | op::SETITEMS => self.fill(code)?,
            op::GLOBAL | op::STACK_GLOBAL => self.global(code, offset)?,
            op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX | op::INST | op::OBJ => self.call(code, offset)?,
            op::BUILD => self.build(offset)?,
            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::GET | op::BINGET | op::LONG_BINGET => {
                self.memo(code, offset)?;
            }
            op::PERSID | op::BINPERSID => self.persistent(code, offset)?,
            op::EXT1 | op::EXT2 | op::EXT4 | op::NEXT_BUFFER | op::READONLY_BUFFER if self.is_survey => {
                self.outside(code, offset)?;
            }
            op::EXT1 | op::EXT2 | op::EXT4 | op::NEXT_BUFFER | op::READONLY_BUFFER => {
                let name = op::name(code).unwrap_or_default();
                return Err(Error::unsupported(format!("the opcode {name}, which no checkpoint needs")));
            }
            _ => return Err(Error::malformed(format!("{code:#04x} is not a pickle opcode"))),
        }
        if self.frame_end.is_some_and(|end| self.cursor.position() > end) {
            if !self.is_survey {
                return Err(Error::malformed("an opcode that straddles the end of its frame"));
            }
            self.note(Oddity::Straddle, offset);
            self.frame_end = None;
        }
        Ok(None)
    }

    fn stop(&mut self) -> Result<Id> {
        if self.is_survey {
            let top = self.stack.last().copied();
            return top.map_or_else(|| self.alloc(Node::Unknown), Ok);
        }
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(Error::malformed("values left on the stack at the end of the pickle"));
        }
        Ok(root)
    }

    fn proto(&mut self, offset: usize) -> Result<()> {
        let version = self.cursor.u8()?;
        if self.is_survey {
            return Ok(());
        }
        if version > HIGHEST_PROTOCOL {
            return Err(Error::unsupported(format!("pickle protocol {version}; the highest is {HIGHEST_PROTOCOL}")));
        }
        if offset != 0 {
            return Err(Error::malformed("a second PROTO within a pickle"));
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<()> {
        let offset = self.cursor.position() - 1;
        let length = self.cursor.u64()?;
        let end = usize::try_from(length).ok().and_then(|length| self.cursor.position().checked_add(length));
        let end = end.filter(|&end| end <= self.cursor.len());
        if self.is_survey {
            if self.frame_end.zip(end).is_some_and(|(outer, end)| end > outer) {
                self.note(Oddity::Straddle, offset);
            }
            self.frame_end = end;
            return Ok(());
        }
        if self.frame_end.is_some() {
            return Err(Error::malformed("a frame within a frame"));
        }
        self.frame_end =
            Some(end.ok_or_else(|| Error::malformed(format!("a frame of {length} bytes, past the end of the file")))?);
        Ok(())
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == limits::PICKLE_MARKS {
            return Err(Error::limit(format!("nested deeper than the limit of {} open marks", limits::PICKLE_MARKS)));
        }
        self.marks.push(self.stack.len() as u32);
        Ok(())
    }

    /// POP, POP_MARK, DUP.
    fn shuffle(&mut self, code: u8) -> Result<()> {
        match code {
            op::DUP => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            // On a mark, POP takes the mark.
            op::POP if self.marks.last().copied() == Some(self.stack.len() as u32) => drop(self.marks.pop()),
            op::POP => drop(self.pop()?),
            _ => drop(self.pop_mark()?),
        }
        Ok(())
    }

    pub(super) fn alloc(&mut self, node: Node) -> Result<Id> {
        if self.nodes.len() >= limits::PICKLE_NODES {
            return Err(Error::limit(format!("more values in a pickle than the limit of {}", limits::PICKLE_NODES)));
        }
        self.nodes.push(node);
        Ok(Id(self.nodes.len() as u32 - 1))
    }

    pub(super) fn push(&mut self, node: Node) -> Result<()> {
        let id = self.alloc(node)?;
        self.push_id(id)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= limits::PICKLE_STACK {
            return Err(Error::limit(format!("more values on a pickle's stack than {}", limits::PICKLE_STACK)));
        }
        self.stack.push(id);
        Ok(())
    }

    /// The height below which nothing may be taken: the last mark.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |&height| height as usize)
    }

    pub(super) fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(underflow());
        }
        self.stack.pop().ok_or_else(underflow)
    }

    pub(super) fn top(&self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(underflow());
        }
        self.stack.last().copied().ok_or_else(underflow)
    }

    pub(super) fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
        Ok(self.stack.split_off(start.ok_or_else(underflow)?))
    }

    pub(super) fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| Error::malformed("no mark on the stack"))?;
        Ok(self.stack.split_off(mark as usize))
    }
}

fn underflow() -> Error {
    Error::malformed("the pickle takes more values from its stack than there are")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(bytes: &[u8]) -> String {
        parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn reads_a_dict_through_the_memo_by_identity() {
        // d = {'a': [1]}; (d, d)
        let pickle = parse(b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01]q\x02K\x01ash\x00\x86q\x03.").unwrap();
        let items = pickle.tuple(pickle.root()).unwrap();
        assert_eq!(items[0], items[1]);
        let Node::Dict(pairs) = pickle.node(items[0]) else { panic!("not a dict") };
        assert_eq!(pickle.str(pairs[0].0), Some("a"));
    }

    #[test]
    fn calls_become_objects_that_keep_what_is_done_to_them() {
        // OrderedDict(); d['k'] = None; d.__dict__ = 5 — through protocol 0 text opcodes
        let pickle = parse(b"ccollections\nOrderedDict\n(tR(S'k'\nNuI5\nb.").unwrap();
        let (name, args, object) = pickle.call(pickle.root()).unwrap();
        assert!(name.is("collections", "OrderedDict"));
        assert!(args.is_empty());
        assert_eq!(pickle.str(object.pairs[0].0), Some("k"));
        assert_eq!(pickle.int(object.state[0]), Some(5));
        assert_eq!(pickle.globals()[0].offset, 0);
    }

    #[test]
    fn a_popped_call_is_still_recorded() {
        let pickle = parse(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R0N.").unwrap();
        assert!(pickle.globals()[0].name.is("os", "system"));
        assert!(matches!(pickle.node(pickle.root()), Node::None));
        assert!(pickle.nodes().iter().any(|node| matches!(node, Node::Object(_))));
    }

    #[test]
    fn framing_is_held_to_the_letter() {
        assert!(parse(b"\x80\x04\x95\x02\0\0\0\0\0\0\0N.").is_ok());
        assert!(fails(b"\x80\x04\x95\x03\0\0\0\0\0\0\0N.").contains("past the end"));
        assert!(fails(b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N.xx").contains("within a frame"));
        assert!(fails(b"\x80\x04\x95\x02\0\0\0\0\0\0\0\x8c\x01a.").contains("straddles"));
    }

    #[test]
    fn refuses_with_the_offset_of_the_opcode() {
        for (bytes, found, offset) in [
            (&b"\x80\x02"[..], "cut short", 2),
            (b"\x80\x02X\xff\xff\xff\xffab", "cut short", 2),
            (b"\x80\x02h\x07.", "never made", 2),
            (b"\x80\x02.", "stack", 2),
            (b"\x80\x02NN.", "left on the stack", 4),
            (b"\x80\x02(N.", "left on the stack", 4),
            (b"\x80\x02\x82\x01.", "EXT1", 2),
            (b"\x80\x09.", "protocol 9", 0),
            (b"\x80\x02\xff.", "0xff is not", 2),
            (b"\x80\x02K\x01K\x02a.", "takes no items", 6),
            (b"\x80\x02}(K\x01u.", "without its value", 6),
            (b"\x80\x02\x8b\xff\xff\xff\xff.", "negative length", 2),
            (b"cos\n", "does not end", 0),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.to_string().contains(found), "{bytes:?}: {error}");
            assert_eq!(error.offset(), Some(offset), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn depth_and_bombs_cost_what_they_weigh() {
        // As many nested tuples as there may be: each is one node of one reference.
        let mut deep = b"\x80\x02)".to_vec();
        deep.extend(std::iter::repeat_n(op::TUPLE1, limits::PICKLE_NODES - 1));
        deep.push(op::STOP);
        assert_eq!(parse(&deep).unwrap().nodes().len(), limits::PICKLE_NODES);
        deep.insert(3, op::TUPLE1);
        assert!(fails(&deep).contains("values in a pickle"));
        // Forty doublings of a tuple: forty nodes.
        let mut bomb = b"\x80\x02)".to_vec();
        bomb.extend([op::DUP, op::TUPLE2].repeat(40));
        bomb.push(op::STOP);
        assert_eq!(parse(&bomb).unwrap().nodes().len(), 41);
        let marks = [op::MARK].repeat(limits::PICKLE_MARKS + 1);
        assert!(fails(&marks).contains("open marks"));
    }
}
