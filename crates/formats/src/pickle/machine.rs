//! The pickle machine: runs the stack program of a pickle and builds an arena of values.
//!
//! It differs from Python's in one point: where Python would import or call, it records the name and the arguments.
//! References are indices, so memo and DUP copy four bytes, and dropping a value never recurses.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::pickle::cursor::Cursor;
use crate::pickle::names::NameTable;
use crate::pickle::op;
use crate::pickle::value::{GlobalUse, Id, Node, OddUse, Oddity, Pickle};

/// The highest pickle protocol.
const HIGHEST_PROTOCOL: u8 = 5;

pub(super) struct PickleMachine<'a> {
    pub(super) cursor: Cursor<'a>,
    pub(super) frame_end: Option<usize>,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<u32>,
    pub(super) memo: HashMap<u64, Id>,
    pub(super) globals: Vec<GlobalUse>,
    pub(super) names: NameTable,
    /// Whether to continue where a strict reader would fail.
    pub(super) is_lenient: bool,
    pub(super) oddities: Vec<OddUse>,
    /// Whether joblib reads the pickle, and skips the elements of arrays.
    pub(super) skips_arrays: bool,
    /// Whether the bytes end within such elements.
    pub(super) is_array_cut_short: bool,
    /// Elements of joblib's arrays that a lenient parse has skipped, as offsets.
    pub(super) arrays: Vec<Range<usize>>,
}

impl<'a> PickleMachine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        PickleMachine {
            cursor: Cursor::new(bytes.get(..limits::PICKLE_BYTES as usize).unwrap_or(bytes)),
            frame_end: None,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            globals: Vec::new(),
            names: NameTable::default(),
            is_lenient: false,
            oddities: Vec::new(),
            skips_arrays: false,
            is_array_cut_short: false,
            arrays: Vec::new(),
        }
    }

    /// Adds the offset to an error. An error at the end of the longest allowed pickle becomes a limit error if there
    /// are more bytes.
    pub(super) fn explain(&self, offset: usize, error: Error, bytes: &[u8]) -> Error {
        let is_cut_by_limit = bytes.len() as u64 > limits::PICKLE_BYTES && self.cursor.at(offset).is_cut_short();
        let error = if is_cut_by_limit {
            Error::limit(format!("the pickle exceeds the limit of {} bytes", limits::PICKLE_BYTES))
        } else {
            error
        };
        error.at(offset as u64)
    }

    /// Finishes parsing.
    pub(super) fn into_pickle(self, root: Id) -> Pickle {
        let bytes = self.cursor.consumed().to_vec();
        Pickle { bytes, nodes: self.nodes, root, globals: self.globals, oddities: self.oddities }
    }

    /// Records an oddity.
    pub(super) fn note(&mut self, oddity: Oddity, offset: usize) {
        self.oddities.push(OddUse { oddity, offset: offset as u64 });
    }

    #[expect(clippy::indexing_slicing, reason = "only `alloc` creates ids, as indices into this arena")]
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.index()]
    }

    #[expect(clippy::indexing_slicing, reason = "only `alloc` creates ids, as indices into this arena")]
    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.index()]
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
            op::APPEND | op::APPENDS | op::ADDITEMS | op::SETITEM | op::SETITEMS => self.fill(code, offset)?,
            op::GLOBAL | op::STACK_GLOBAL => self.global(code, offset)?,
            op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX | op::INST | op::OBJ => self.call(code, offset)?,
            op::BUILD => self.build(offset)?,
            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::GET | op::BINGET | op::LONG_BINGET => {
                self.memo(code, offset)?;
            }
            op::PERSID | op::BINPERSID => self.persistent(code, offset)?,
            op::EXT1 | op::EXT2 | op::EXT4 | op::NEXT_BUFFER | op::READONLY_BUFFER if self.is_lenient => {
                self.outside(code, offset)?;
            }
            op::EXT1 | op::EXT2 | op::EXT4 | op::NEXT_BUFFER | op::READONLY_BUFFER => {
                let name = op::name(code).or_internal("an opcode without a name")?;
                return Err(Error::unsupported(format!(
                    "the opcode {name} is not supported; checkpoints do not need it"
                )));
            }
            _ => return Err(Error::malformed(format!("{code:#04x} is not a pickle opcode"))),
        }
        if self.frame_end.is_some_and(|end| self.cursor.position() > end) {
            if !self.is_lenient {
                return Err(Error::malformed("an opcode straddles the end of its frame"));
            }
            self.note(Oddity::Straddle, offset);
            self.frame_end = None;
        }
        Ok(None)
    }

    fn stop(&mut self) -> Result<Id> {
        if self.is_lenient {
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
        if self.is_lenient {
            return Ok(());
        }
        if version > HIGHEST_PROTOCOL {
            return Err(Error::unsupported(format!("pickle protocol {version}, the highest is {HIGHEST_PROTOCOL}")));
        }
        if offset != 0 {
            return Err(Error::malformed("a second PROTO within the pickle"));
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<()> {
        let offset = self.cursor.position() - 1;
        let length = self.cursor.u64()?;
        let end = usize::try_from(length).ok().and_then(|length| self.cursor.position().checked_add(length));
        let end = end.filter(|&end| end <= self.cursor.len());
        if self.is_lenient {
            if self.frame_end.zip(end).is_some_and(|(outer, end)| end > outer) {
                self.note(Oddity::Straddle, offset);
            }
            self.frame_end = end;
            return Ok(());
        }
        if self.frame_end.is_some() {
            return Err(Error::malformed("a frame within another frame"));
        }
        self.frame_end =
            Some(end.ok_or_else(|| {
                Error::malformed(format!("a frame of {length} bytes extends past the end of the file"))
            })?);
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
            // POP removes a mark if one is on top.
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
        Ok(self.alloc_unbounded(node))
    }

    /// Adds a value without checking the limit. For the one value that a lenient parse adds at its end.
    pub(super) fn alloc_unbounded(&mut self, node: Node) -> Id {
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    pub(super) fn push(&mut self, node: Node) -> Result<()> {
        let id = self.alloc(node)?;
        self.push_id(id)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= limits::PICKLE_STACK {
            return Err(Error::limit(format!(
                "more values on a pickle's stack than the limit of {}",
                limits::PICKLE_STACK
            )));
        }
        self.stack.push(id);
        Ok(())
    }

    /// The height of the stack at the last mark. Values below it cannot be popped.
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

    pub(super) fn pop_array<const N: usize>(&mut self) -> Result<[Id; N]> {
        let values = self.stack.get(self.floor()..).and_then(|values| values.last_chunk().copied());
        let values = values.ok_or_else(underflow)?;
        self.stack.truncate(self.stack.len() - N);
        Ok(values)
    }

    pub(super) fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| Error::malformed("no mark on the stack"))?;
        Ok(self.stack.split_off(mark as usize))
    }
}

/// The error for more than [`limits::PICKLE_OPCODES`].
pub(super) fn too_many_opcodes() -> Error {
    Error::limit(format!("more opcodes in a pickle than the limit of {}", limits::PICKLE_OPCODES))
}

fn underflow() -> Error {
    Error::malformed("the pickle pops more values from its stack than it pushed")
}
