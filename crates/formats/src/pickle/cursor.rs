use crate::error::{Error, Result};
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
        let mut lines = self.rest.splitn(2, |&byte| byte == b'\n');
        match (lines.next(), lines.next()) {
            (Some(line), Some(rest)) if line.len() <= most => {
                self.rest = rest;
                Ok(line)
            }
            _ if self.rest.len() > most => Err(Error::limit(format!("{what} is longer than {most} bytes"))),
            _ => Err(Error::malformed(format!("{what} does not end; the pickle was cut short"))),
        }
    }
}
