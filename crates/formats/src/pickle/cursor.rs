use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::op;
use crate::pickle::value::{Content, Text};

/// Reads a pickle from front to back.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    /// The unread end of `bytes`.
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, rest: bytes }
    }

    pub(super) fn position(&self) -> usize {
        self.bytes.len() - self.rest.len()
    }

    /// The number of bytes, read or not.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The same bytes, read up to this position.
    pub(super) fn at(mut self, position: usize) -> Self {
        self.rest = self.bytes.get(position..).unwrap_or_default();
        self
    }

    /// All bytes read so far.
    #[expect(clippy::indexing_slicing, reason = "`rest` is the end of `bytes`")]
    pub(super) fn consumed(&self) -> &'a [u8] {
        &self.bytes[..self.position()]
    }

    /// The bytes of a text that was read before.
    pub(super) fn text<'b>(&self, text: &'b Text) -> &'b [u8]
    where
        'a: 'b,
    {
        text.bytes(self.bytes)
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or_else(|| self.cut_short(count))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.cut_short(N as u64))?;
        self.rest = rest;
        Ok(*array)
    }

    fn cut_short(&self, count: u64) -> Error {
        let left = self.rest.len();
        Error::malformed(format!("the pickle was cut short: {count} bytes expected, {left} left"))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads the next `count` bytes as a text that refers to them.
    pub(super) fn span(&mut self, count: u64) -> Result<Text> {
        let start = self.position();
        let len = self.take(count)?.len();
        // The cursor holds at most `limits::PICKLE_BYTES`, so both numbers fit.
        Ok(Text(Content::Span { start: start as u32, len: len as u32 }))
    }

    /// Reads the bytes up to the next line break, and the line break. Fails if they are more than `most` bytes.
    pub(super) fn line(&mut self, most: usize, what: &str) -> Result<&'a [u8]> {
        // The line break may follow `most` bytes.
        let searched = self.rest.get(..=most).unwrap_or(self.rest);
        let line = memchr::memchr(b'\n', searched).and_then(|end| self.rest.split_at_checked(end));
        match line.and_then(|(line, rest)| Some((line, rest.split_first()?.1))) {
            Some((line, rest)) => {
                self.rest = rest;
                Ok(line)
            }
            None if self.rest.len() > most => Err(Error::limit(format!("{what} is longer than {most} bytes"))),
            None => Err(Error::malformed(format!("{what} does not end; the pickle was cut short"))),
        }
    }

    /// Skips an opcode and its argument. Returns `None` if the byte is not an opcode, or if its argument is cut short or a
    /// line of more than `line` bytes.
    pub(super) fn skip_opcode(&mut self, line: usize) -> Option<()> {
        let code = self.u8().ok()?;
        op::name(code)?;
        let skip_line = |cursor: &mut Self| cursor.line(line, "").ok().map(drop);
        let count = match code {
            op::GLOBAL | op::INST => {
                skip_line(self)?;
                return skip_line(self);
            }
            op::INT | op::LONG | op::FLOAT | op::STRING | op::UNICODE | op::PERSID | op::GET | op::PUT => {
                return skip_line(self);
            }
            op::BININT1 | op::BINGET | op::BINPUT | op::PROTO | op::EXT1 => 1,
            op::BININT2 | op::EXT2 => 2,
            op::BININT | op::LONG_BINGET | op::LONG_BINPUT | op::EXT4 => 4,
            op::BINFLOAT | op::FRAME => 8,
            op::LONG1 | op::SHORT_BINSTRING | op::SHORT_BINUNICODE | op::SHORT_BINBYTES => u64::from(self.u8().ok()?),
            op::LONG4 | op::BINSTRING | op::BINUNICODE | op::BINBYTES => u64::from(self.u32().ok()?),
            op::BINUNICODE8 | op::BINBYTES8 | op::BYTEARRAY8 => self.u64().ok()?,
            _ => 0,
        };
        self.take(count).ok().map(drop)
    }

    /// Whether the next opcode or its argument extends past the end of the bytes.
    pub(super) fn is_cut_short(mut self) -> bool {
        self.rest.first().is_none_or(|&code| op::name(code).is_some())
            && self.skip_opcode(limits::PICKLE_BYTES as usize).is_none()
    }
}
