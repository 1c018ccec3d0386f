//! Follows a pickle up to its first call, without building its values.

use crate::pickle::chain::LINE;
use crate::pickle::cursor::Cursor;
use crate::pickle::op;

/// Returns the length of the pickle at the start of some bytes up to its first call, and whether there is one: whether Python
/// gets there without an error. Without a call, up to the STOP or the error.
pub(crate) fn first_call(bytes: &[u8]) -> (usize, bool) {
    let mut cursor = Cursor::new(bytes);
    let mut heights = Heights { stack: 0, marks: Vec::new() };
    loop {
        let before = cursor;
        let code = cursor.u8().ok();
        cursor = before;
        let is_opcode = cursor.skip_opcode(LINE).is_some();
        match code.filter(|_| is_opcode).and_then(|code| heights.step(code)) {
            Some(Step::Call) => return (cursor.position(), true),
            Some(Step::Other) => {}
            None => return (before.position(), false),
        }
    }
}

enum Step {
    Call,
    Other,
}

/// Heights of the stack of a pickle.
struct Heights {
    stack: usize,
    /// At the open marks.
    marks: Vec<usize>,
}

impl Heights {
    /// Runs an opcode. `None` at STOP, and if the stack is too low.
    fn step(&mut self, code: u8) -> Option<Step> {
        match code {
            op::STOP => return None,
            op::REDUCE | op::NEWOBJ | op::BUILD => {
                self.replace(2, 1)?;
                return Some(Step::Call);
            }
            op::NEWOBJ_EX => {
                self.replace(3, 1)?;
                return Some(Step::Call);
            }
            op::OBJ | op::INST => {
                let arguments = self.stack - self.marks.pop()?;
                return (code == op::INST || arguments > 0).then_some(Step::Call);
            }
            op::MARK => self.marks.push(self.stack),
            op::POP if self.marks.last() == Some(&self.stack) => drop(self.marks.pop()),
            op::POP => self.replace(1, 0)?,
            op::POP_MARK => self.stack = self.marks.pop()?,
            op::DUP => self.replace(1, 2)?,
            op::TUPLE | op::LIST | op::DICT | op::FROZENSET => self.stack = self.marks.pop()? + 1,
            op::APPENDS | op::SETITEMS | op::ADDITEMS => {
                self.stack = self.marks.pop()?;
                self.replace(1, 1)?;
            }
            op::TUPLE1 | op::BINPERSID | op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::READONLY_BUFFER => {
                self.replace(1, 1)?;
            }
            op::TUPLE2 | op::APPEND | op::STACK_GLOBAL => self.replace(2, 1)?,
            op::TUPLE3 | op::SETITEM => self.replace(3, 1)?,
            op::PROTO | op::FRAME => {}
            _ => self.stack += 1,
        }
        Some(Step::Other)
    }

    /// Takes values above the last mark, and puts others in their place.
    fn replace(&mut self, taken: usize, put: usize) -> Option<()> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        self.stack = self.stack.checked_sub(taken).filter(|&stack| stack >= lowest)? + put;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_calls_that_python_gets_to() {
        for pickle in [
            &b"cos\nsystem\n(S'a'\ntR."[..],
            b"(S'a'\nios\nsystem\n.",
            b"(cos\nsystem\nS'a'\no.",
            b"cos\nsystem\np0\n0g0\n(S'a'\n]N0NatR",
            b"\x80\x02cos\nsystem\nX\x01\0\0\0a\x85R.",
            b"cos\nsystem\n)\x81.",
        ] {
            assert!(first_call(pickle).1, "{pickle:?}");
        }
        for pickle in [
            &b"cos\nsystem\n."[..],
            b"cos\nsystem\nR.",
            b"cos\nsystem\n(R.",
            b"ios\nsystem\n.",
            b"(o.",
            b"cat\ndog\nobject\n",
            b"cos\nsystem\n(I1",
            b"cos\nsystem\n(NR",
            b"",
        ] {
            assert!(!first_call(pickle).1, "{pickle:?}");
        }
        assert_eq!(first_call(b"NN0\xff"), (3, false));
    }
}
