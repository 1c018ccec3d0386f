//! Follows the opcodes of pickles without building their values.

use crate::limits;
use crate::pickle::cursor::Cursor;
use crate::pickle::op;

/// Bytes of a line of a pickle, at most. Where no line ends, looking for its end costs as many.
pub(super) const LINE: usize = 1 << 20;

/// The opcodes from some offset on, each behind the one before. Pickles that begin at one of them end alike, so that following
/// all of them takes linear time.
pub(crate) struct Chain<'a> {
    bytes: &'a [u8],
    /// The opcode that a pickle was last looked for at.
    begin: Cursor<'a>,
    /// Where the opcodes that were followed end.
    end: Cursor<'a>,
    /// Whether the chain ends there: at a STOP, or at a byte that is not an opcode.
    is_over: bool,
    /// The offset of the last opcode that names something.
    last_name: Option<usize>,
    /// Bytes that were followed.
    followed: usize,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let begin = Cursor::new(bytes);
        Chain { bytes, begin, end: begin, is_over: false, last_name: None, followed: 0 }
    }

    /// Goes to the pickle that begins at an offset. Offsets must increase. Returns whether it is the end of another one that
    /// this was called for.
    pub(crate) fn go_to(&mut self, offset: usize) -> bool {
        while self.begin.position() < offset && self.begin.skip_opcode(LINE).is_some() {}
        let end = self.end.position();
        if self.begin.position() == offset && (offset < end || offset == end && !self.is_over) {
            return true;
        }
        let begin = Cursor::new(self.bytes).at(offset);
        *self = Chain { begin, end: begin, is_over: false, last_name: None, ..*self };
        false
    }

    /// Whether a pickle that begins here names something, as far as pickles are read.
    pub(crate) fn names_something(&mut self) -> bool {
        let begin = self.begin.position();
        while !self.is_over && self.end.position() - begin < limits::PICKLE_BYTES as usize {
            self.step();
        }
        self.last_name.is_some_and(|name| name >= begin)
    }

    /// Bytes that were followed so far, some of them repeatedly.
    pub(crate) fn followed(&self) -> usize {
        self.followed
    }

    fn step(&mut self) {
        let before = self.end;
        let offset = before.position();
        let code = self.end.u8().ok();
        self.end = before;
        if self.end.skip_opcode(LINE).is_none() {
            self.end = before;
            self.is_over = true;
            self.followed += (self.bytes.len() - offset).min(LINE);
            return;
        }
        self.followed += self.end.position() - offset;
        if matches!(code, Some(op::GLOBAL | op::STACK_GLOBAL | op::INST)) {
            self.last_name = Some(offset);
        }
        self.is_over = code == Some(op::STOP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_each_opcode_once() {
        let bytes =
            [&b"\x80\x02N".repeat(100)[..], b"cposix\nsystem\n0", &b"\x80\x02N".repeat(100), b".\x80\x02N"].concat();
        let mut chain = Chain::new(&bytes);
        assert!(chain.go_to(0) && chain.names_something());
        assert!(chain.go_to(297) && chain.names_something());
        assert!(chain.go_to(315) && !chain.names_something());
        assert_eq!(chain.followed(), 616);
        // Behind the STOP, and within an opcode.
        assert!(!chain.go_to(616) && !chain.names_something());
        let mut chain = Chain::new(b"\x80\x02U\x04\x80\x02N.cm\nn\n.");
        assert!(chain.go_to(0) && chain.names_something());
        assert!(!chain.go_to(4) && !chain.names_something());
    }

    #[test]
    fn counts_bytes_in_which_a_line_should_end() {
        let bytes = b"\x80\x02I".repeat(LINE);
        let mut chain = Chain::new(&bytes);
        assert!(!chain.names_something());
        assert!(chain.followed() >= LINE);
    }
}
