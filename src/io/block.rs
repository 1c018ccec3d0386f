/// What offsets, lengths and memory have to be multiples of to bypass the page cache, on every disk of today.
const ALIGNMENT: usize = 4096;

/// A buffer that can be read and written without the page cache.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    start: usize,
}

impl Block {
    /// Bytes of a block. Large enough that a call costs nothing beside its bytes; a thread holds one.
    pub const LEN: usize = 2 << 20;

    /// A block of zeros.
    pub fn new() -> Self {
        // Aligned by hand: the vector is never grown, so its memory stays where it is.
        let bytes = vec![0; Block::LEN + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Block { bytes, start }
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + Block::LEN).unwrap_or_default()
    }

    /// Its content, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + Block::LEN).unwrap_or_default()
    }

    /// How many of `len` bytes are whole units.
    pub(super) fn aligned(len: usize) -> usize {
        len - len % ALIGNMENT
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}
