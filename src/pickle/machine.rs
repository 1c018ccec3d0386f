//! The pickle machine: the stack program of a pickle, run into an arena of values.
//!
//! It differs from Python's in one thing only: where Python would import or call, it notes the name and the
//! arguments. References are numbers, so memo and DUP copy four bytes and nothing is ever dropped recursively.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::cursor::Cursor;
use crate::pickle::op;
use crate::pickle::value::{GlobalUse, Id, Node, Pickle};

/// The highest protocol there is.
const HIGHEST_PROTOCOL: u8 = 5;

/// Parses the pickle that begins at the start of `bytes` and ends with its STOP; what lies behind is not looked at.
///
/// Accepts every opcode of protocols 0 to 5 but the extension registry and out-of-band buffers. Stricter than Python
/// where readers disagree: frames may not nest, straddle or run past the end, and nothing may be left on the stack.
pub fn parse(bytes: &[u8]) -> Result<Pickle> {
    let mut machine = Machine {
        cursor: Cursor::new(bytes.get(..bytes.len().min(limits::PICKLE_BYTES as usize)).unwrap_or_default()),
        frame_end: None,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        globals: Vec::new(),
    };
    let cut_by_limit = bytes.len() as u64 > limits::PICKLE_BYTES;
    let root = machine.run().map_err(|(offset, error)| {
        if cut_by_limit && machine.cursor.position() as u64 + 9 >= limits::PICKLE_BYTES {
            return Error::limit(format!("a pickle of more than {} bytes", limits::PICKLE_BYTES));
        }
        error.at(offset as u64)
    })?;
    let end = machine.cursor.position();
    Ok(Pickle {
        bytes: bytes.get(..end).unwrap_or_default().to_vec(),
        nodes: machine.nodes,
        root,
        globals: machine.globals,
    })
}

pub(super) struct Machine<'a> {
    pub(super) cursor: Cursor<'a>,
    frame_end: Option<usize>,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks were set.
    marks: Vec<u32>,
    memo: HashMap<u64, Id>,
    pub(super) globals: Vec<GlobalUse>,
}

impl Machine<'_> {
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

    fn step(&mut self, offset: usize) -> Result<Option<Id>> {
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
            op::BUILD => self.build()?,
            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::GET | op::BINGET | op::LONG_BINGET => {
                self.memo(code)?;
            }
            op::PERSID | op::BINPERSID => self.persistent(code)?,
            op::EXT1 | op::EXT2 | op::EXT4 | op::NEXT_BUFFER | op::READONLY_BUFFER => {
                let name = op::name(code).unwrap_or_default();
                return Err(Error::unsupported(format!("the opcode {name}, which no checkpoint needs")));
            }
            _ => return Err(Error::malformed(format!("{code:#04x} is not a pickle opcode"))),
        }
        if self.frame_end.is_some_and(|end| self.cursor.position() > end) {
            return Err(Error::malformed("an opcode that straddles the end of its frame"));
        }
        Ok(None)
    }

    fn stop(&mut self) -> Result<Id> {
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(Error::malformed("values left on the stack at the end of the pickle"));
        }
        Ok(root)
    }

    fn proto(&mut self, offset: usize) -> Result<()> {
        let version = self.cursor.u8()?;
        if version > HIGHEST_PROTOCOL {
            return Err(Error::unsupported(format!("pickle protocol {version}; the highest is {HIGHEST_PROTOCOL}")));
        }
        if offset != 0 {
            return Err(Error::malformed("a second PROTO within a pickle"));
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<()> {
        let length = self.cursor.u64()?;
        if self.frame_end.is_some() {
            return Err(Error::malformed("a frame within a frame"));
        }
        let end = usize::try_from(length).ok().and_then(|length| self.cursor.position().checked_add(length));
        let end = end.filter(|&end| end <= self.cursor.len());
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
                self.push_id(top);
            }
            // On a mark, POP takes the mark.
            op::POP if self.marks.last().copied() == Some(self.stack.len() as u32) => drop(self.marks.pop()),
            op::POP => drop(self.pop()?),
            _ => drop(self.pop_mark()?),
        }
        Ok(())
    }

    fn container(&mut self, code: u8) -> Result<()> {
        let node = match code {
            op::EMPTY_TUPLE => Node::Tuple(Vec::new()),
            op::TUPLE => Node::Tuple(self.pop_mark()?),
            op::TUPLE1 => Node::Tuple(self.pop_many(1)?),
            op::TUPLE2 => Node::Tuple(self.pop_many(2)?),
            op::TUPLE3 => Node::Tuple(self.pop_many(3)?),
            op::EMPTY_LIST => Node::List(Vec::new()),
            op::LIST => Node::List(self.pop_mark()?),
            op::EMPTY_SET => Node::Set(Vec::new()),
            op::FROZENSET => Node::Set(self.pop_mark()?),
            op::EMPTY_DICT => Node::Dict(Vec::new()),
            _ => Node::Dict(pairs(&self.pop_mark()?)?),
        };
        self.push(node)
    }

    /// APPEND(S), ADDITEMS and SETITEM(S): on lists, sets and dicts, and on what a call would have made.
    fn fill(&mut self, code: u8) -> Result<()> {
        let values = match code {
            op::APPEND => self.pop_many(1)?,
            op::SETITEM => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        let name = op::name(code).unwrap_or_default();
        let node = self.nodes.get_mut(target.0 as usize);
        match (code, node) {
            (op::SETITEM | op::SETITEMS, Some(Node::Dict(items))) => items.extend(pairs(&values)?),
            (op::SETITEM | op::SETITEMS, Some(Node::Object(object))) => object.pairs.extend(pairs(&values)?),
            (op::APPEND | op::APPENDS, Some(Node::List(items))) => items.extend(values),
            (op::ADDITEMS, Some(Node::Set(items))) => items.extend(values),
            (op::APPEND | op::APPENDS | op::ADDITEMS, Some(Node::Object(object))) => object.items.extend(values),
            _ => return Err(Error::malformed(format!("{name} on a value that takes no items"))),
        }
        Ok(())
    }

    fn memo(&mut self, code: u8) -> Result<()> {
        let index = match code {
            op::MEMOIZE => self.memo.len() as u64,
            op::BINPUT | op::BINGET => u64::from(self.cursor.u8()?),
            op::LONG_BINPUT | op::LONG_BINGET => u64::from(self.cursor.u32()?),
            _ => {
                let line = self.cursor.line(20, "a memo index")?;
                let index = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
                index.ok_or_else(|| Error::malformed("a memo index that is not a number"))?
            }
        };
        if matches!(code, op::GET | op::BINGET | op::LONG_BINGET) {
            let id = self.memo.get(&index).copied();
            let id = id.ok_or_else(|| Error::malformed(format!("memo entry {index}, which was never made")))?;
            self.push_id(id);
            return Ok(());
        }
        if self.memo.len() >= limits::PICKLE_MEMO {
            return Err(Error::limit(format!("more memo entries than the limit of {}", limits::PICKLE_MEMO)));
        }
        let top = self.top()?;
        self.memo.insert(index, top);
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
        self.push_id(id);
        Ok(())
    }

    /// The stack cannot outgrow the opcodes, which are bounded.
    fn push_id(&mut self, id: Id) {
        self.stack.push(id);
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

fn pairs(values: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = values.as_chunks();
    if !rest.is_empty() {
        return Err(Error::malformed("an odd number of items for a dict: a key without its value"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
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
        // A million nested tuples: each is one node of one reference.
        let mut deep = b"\x80\x02)".to_vec();
        deep.extend(std::iter::repeat_n(op::TUPLE1, 1_000_000));
        deep.push(op::STOP);
        assert_eq!(parse(&deep).unwrap().nodes().len(), 1_000_001);
        // Forty doublings of a tuple: forty nodes.
        let mut bomb = b"\x80\x02)".to_vec();
        bomb.extend([op::DUP, op::TUPLE2].repeat(40));
        bomb.push(op::STOP);
        assert_eq!(parse(&bomb).unwrap().nodes().len(), 41);
        let marks = [op::MARK].repeat(limits::PICKLE_MARKS + 1);
        assert!(fails(&marks).contains("open marks"));
    }
}
