use crate::error::{Error, Result};
use crate::pickle::value::Text;

/// Reads a pickle front to back, within its bytes.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn move_to(&mut self, position: usize) {
        self.position = position;
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that were read before, by their place.
    pub(super) fn at(&self, start: usize, len: usize) -> &'a [u8] {
        start.checked_add(len).and_then(|end| self.bytes.get(start..end)).unwrap_or_default()
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let available = self.bytes.len().saturating_sub(self.position);
        let end = usize::try_from(count).ok().and_then(|count| self.position.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.position..end)).ok_or_else(|| {
            Error::malformed(format!(
                "the pickle ends too early: it wants {count} bytes, {available} are left; it was cut short"
            ))
        })?;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
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

    /// The next `count` bytes, by their place.
    pub(super) fn span(&mut self, count: u64) -> Result<Text> {
        let start = self.position;
        let len = self.take(count)?.len();
        Ok(span(start, len))
    }

    /// The bytes up to the next line break, which is consumed.
    pub(super) fn line(&mut self, most: usize, what: &str) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let window = rest.get(..rest.len().min(most + 1)).unwrap_or_default();
        match window.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                self.position += end + 1;
                Ok(window.get(..end).unwrap_or_default())
            }
            None if window.len() > most => Err(Error::limit(format!("{what} longer than {most} bytes"))),
            None => Err(Error::malformed(format!("{what} that does not end; the pickle was cut short"))),
        }
    }
}

/// A range of the pickle. Pickles are held to 32 MiB, so the numbers fit.
pub(super) fn span(start: usize, len: usize) -> Text {
    Text::Span { start: start as u32, len: len as u32 }
}
