//! The opcodes that make and fill containers, and those of the memo.

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::machine::Machine;
use crate::pickle::op;
use crate::pickle::survey::Oddity;
use crate::pickle::text;
use crate::pickle::value::{Id, Node};

impl Machine<'_> {
    pub(super) fn container(&mut self, code: u8) -> Result<()> {
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
    pub(super) fn fill(&mut self, code: u8) -> Result<()> {
        let values = match code {
            op::APPEND => self.pop_many(1)?,
            op::SETITEM => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        let name = op::name(code).unwrap_or_default();
        let is_survey = self.is_survey;
        let node = self.nodes.get_mut(target.0 as usize);
        match (code, node) {
            (op::SETITEM | op::SETITEMS, Some(Node::Dict(items))) => items.extend(pairs(&values)?),
            (op::SETITEM | op::SETITEMS, Some(Node::Object(object))) => object.pairs.extend(pairs(&values)?),
            (op::APPEND | op::APPENDS, Some(Node::List(items))) => items.extend(values),
            (op::ADDITEMS, Some(Node::Set(items))) => items.extend(values),
            (op::APPEND | op::APPENDS | op::ADDITEMS, Some(Node::Object(object))) => object.items.extend(values),
            // A bytearray takes items too, and is not what it was then.
            (_, Some(node @ Node::Bytes(_))) if is_survey && !values.is_empty() => *node = Node::Unknown,
            // Whatever takes items there, its name was noted already.
            _ if is_survey => {}
            _ => return Err(Error::malformed(format!("{name} on a value that takes no items"))),
        }
        Ok(())
    }

    pub(super) fn memo(&mut self, code: u8, offset: usize) -> Result<()> {
        let index = match code {
            op::MEMOIZE => self.memo.len() as u64,
            op::BINPUT | op::BINGET => u64::from(self.cursor.u8()?),
            op::LONG_BINPUT | op::LONG_BINGET => u64::from(self.cursor.u32()?),
            _ => {
                let line = self.cursor.line(limits::INTEGER_DIGITS, "a memo index")?;
                // Python's `int` takes spaces around and underscores within; a survey must follow it there.
                // Python's `int` takes spaces around and underscores within; a survey must follow it there.
                let index = if self.is_survey {
                    text::index_of_python(line)
                } else {
                    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok())
                };
                index.ok_or_else(|| Error::malformed("a memo index that is not a number"))?
            }
        };
        if matches!(code, op::GET | op::BINGET | op::LONG_BINGET) {
            let id = self.memo.get(&index).copied();
            let id = id.ok_or_else(|| Error::malformed(format!("memo entry {index}, which was never made")))?;
            return self.push_id(id);
        }
        if self.memo.len() >= limits::PICKLE_MEMO {
            return Err(Error::limit(format!("more memo entries than the limit of {}", limits::PICKLE_MEMO)));
        }
        // Each entry takes a byte of the pickle at least. Python reserves room for all that come before one.
        if index > limits::PICKLE_BYTES {
            if !self.is_survey {
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
