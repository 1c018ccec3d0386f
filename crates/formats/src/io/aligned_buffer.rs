use std::ops::Range;

use crate::error::{OrInternal, Result};

/// The alignment that direct I/O needs for offsets, lengths and memory, on all current disks.
const ALIGNMENT: usize = 4096;

/// A fixed-size buffer aligned for reads and writes that bypass the page cache.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    /// `LEN + ALIGNMENT` bytes, never reallocated.
    bytes: Vec<u8>,
    /// The first aligned byte, at most `ALIGNMENT`.
    start: usize,
}

impl AlignedBuffer {
    /// Bytes in a buffer. Each thread holds one; large enough that the cost of a system call is negligible.
    pub(crate) const LEN: usize = 2 << 20;

    /// Returns a buffer of zeros.
    pub(crate) fn new() -> Self {
        let bytes = vec![0; AlignedBuffer::LEN + ALIGNMENT];
        // `align_offset` may return `usize::MAX`. An unaligned buffer is still correct: the kernel refuses it for direct
        // I/O, and the file is then written through the page cache.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        AlignedBuffer { bytes, start }
    }

    /// Returns all [`AlignedBuffer::LEN`] bytes.
    #[expect(clippy::indexing_slicing, reason = "`new` makes the vector ALIGNMENT bytes longer than LEN")]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + AlignedBuffer::LEN]
    }

    /// Returns all [`AlignedBuffer::LEN`] bytes, mutable.
    #[expect(clippy::indexing_slicing, reason = "`new` makes the vector ALIGNMENT bytes longer than LEN")]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + AlignedBuffer::LEN]
    }

    /// Returns a range of the buffer. A range past its end is an internal error.
    pub(crate) fn slice(&self, range: Range<usize>) -> Result<&[u8]> {
        self.bytes().get(range).or_internal("a range lies outside the I/O buffer")
    }

    /// Returns a range of the buffer, mutable. A range past its end is an internal error.
    pub(crate) fn slice_mut(&mut self, range: Range<usize>) -> Result<&mut [u8]> {
        self.bytes_mut().get_mut(range).or_internal("a range lies outside the I/O buffer")
    }

    /// Rounds `len` down to a multiple of the alignment.
    pub(super) fn align_down(len: usize) -> usize {
        len - len % ALIGNMENT
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        Self::new()
    }
}
