//! Opcodes that create and fill containers, and those of the memo.

use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::pickle::machine::PickleMachine;
use crate::pickle::op;
use crate::pickle::text;
use crate::pickle::value::{Id, Node, Oddity};

impl PickleMachine<'_> {
    pub(super) fn container(&mut self, code: u8) -> Result<()> {
        let node = match code {
            op::EMPTY_TUPLE => Node::Tuple(Vec::new()),
            op::TUPLE => Node::Tuple(self.pop_mark()?),
            op::TUPLE1 => Node::Tuple(self.pop_array::<1>()?.to_vec()),
            op::TUPLE2 => Node::Tuple(self.pop_array::<2>()?.to_vec()),
            op::TUPLE3 => Node::Tuple(self.pop_array::<3>()?.to_vec()),
            op::EMPTY_LIST => Node::List(Vec::new()),
            op::LIST => Node::List(self.pop_mark()?),
            op::EMPTY_SET => Node::Set(Vec::new()),
            op::FROZENSET => Node::Set(self.pop_mark()?),
            op::EMPTY_DICT => Node::Dict(Vec::new()),
            _ => Node::Dict(pairs(&self.pop_mark()?)?),
        };
        self.push(node)
    }

    /// APPEND(S), ADDITEMS and SETITEM(S), on lists, sets, dicts and the results of calls.
    pub(super) fn fill(&mut self, code: u8, offset: usize) -> Result<()> {
        let values = match code {
            op::APPEND => self.pop_array::<1>()?.to_vec(),
            op::SETITEM => self.pop_array::<2>()?.to_vec(),
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        let is_lenient = self.is_lenient;
        match (code, self.node_mut(target)) {
            (op::SETITEM | op::SETITEMS, Node::Dict(items)) => items.extend(pairs(&values)?),
            (op::SETITEM | op::SETITEMS, Node::Object(object)) => object.pairs.extend(pairs(&values)?),
            (op::APPEND | op::APPENDS, Node::List(items)) => items.extend(values),
            (op::ADDITEMS, Node::Set(items)) => items.extend(values),
            (op::APPEND | op::APPENDS | op::ADDITEMS, Node::Object(object)) => object.items.extend(values),
            _ if is_lenient && values.is_empty() => {}
            (_, node) if is_lenient => {
                // Items can be appended to a bytearray, whose content is unknown then.
                if let Node::Bytes(_) = node {
                    *node = Node::Unknown;
                }
                self.note(Oddity::Items, offset);
            }
            _ => {
                let name = op::name(code).or_internal("an opcode without a name")?;
                return Err(Error::malformed(format!("{name} on a value that takes no items")));
            }
        }
        Ok(())
    }

    pub(super) fn memo(&mut self, code: u8, offset: usize) -> Result<()> {
        let index = match code {
            op::MEMOIZE => self.memo.len() as u64,
            op::BINPUT | op::BINGET => u64::from(self.cursor.u8()?),
            op::LONG_BINPUT | op::LONG_BINGET => u64::from(self.cursor.u32()?),
            _ => {
                // Python's `int` accepts inner underscores, and surrounding spaces in any number.
                let most = if self.is_lenient { limits::PICKLE_BYTES as usize } else { limits::INTEGER_DIGITS };
                let line = self.cursor.line(most, "a memo index")?;
                let index = if self.is_lenient {
                    text::index_of_python(line)
                } else {
                    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok())
                };
                index.ok_or_else(|| Error::malformed("a memo index is not a number"))?
            }
        };
        if matches!(code, op::GET | op::BINGET | op::LONG_BINGET) {
            let id = self.memo.get(&index).copied();
            let id = id.ok_or_else(|| Error::malformed(format!("memo entry {index} does not exist")))?;
            return self.push_id(id);
        }
        if self.memo.len() >= limits::PICKLE_MEMO {
            return Err(Error::limit(format!("more memo entries than the limit of {}", limits::PICKLE_MEMO)));
        }
        // Each entry takes at least one byte of the pickle, so a real index is smaller. Python allocates memory for all
        // entries below the index.
        if index > limits::PICKLE_BYTES {
            if !self.is_lenient {
                return Err(Error::limit(format!("memo entry {index}, the limit is {}", limits::PICKLE_BYTES)));
            }
            self.note(Oddity::Reserve, offset);
        }
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }
}

fn pairs(values: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = values.as_chunks();
    if !rest.is_empty() {
        return Err(Error::malformed("an odd number of items for a dict: a key without its value"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
