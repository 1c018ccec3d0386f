use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use flate2::read::DeflateDecoder;

use crate::error::{Error, OrInternal, Result};
use crate::io::Source;
use crate::limits;

/// Bytes read at a time to compute a storage's checksum.
const SUM_BYTES: u64 = 1 << 20;

/// Where a storage's bytes lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// Uncompressed.
    Raw {
        /// The offset of the first byte in the file.
        offset: u64,
        /// Bytes of the storage.
        len: u64,
    },
    /// As a raw deflate stream.
    Deflated {
        /// The offset of the first byte in the file.
        offset: u64,
        /// Bytes in the file.
        compressed: u64,
        /// Bytes of the storage.
        len: u64,
    },
}

/// A run of bytes in a file that one or several tensors are views of.
#[derive(Debug)]
pub struct Storage {
    source: Arc<Source>,
    name: String,
    extent: Extent,
    big_endian: bool,
    crc32: Option<u32>,
    checked: OnceLock<bool>,
    /// The inflated bytes, while a guard keeps them alive.
    inflated: Mutex<Weak<[u8]>>,
    /// Bytes inflated so far, repetitions included.
    spent: AtomicU64,
}

impl Storage {
    /// Creates a storage in `source`. `name` is its name within the file, for error messages.
    ///
    /// The extent is not checked here: reading past the end of the file fails.
    pub fn new(source: Arc<Source>, name: impl Into<String>, extent: Extent) -> Self {
        Storage {
            source,
            name: name.into(),
            extent,
            big_endian: false,
            crc32: None,
            checked: OnceLock::new(),
            inflated: Mutex::new(Weak::<[u8; 0]>::new()),
            spent: AtomicU64::new(0),
        }
    }

    /// Sets whether the words are stored most significant byte first.
    #[must_use]
    pub(crate) fn big_endian(mut self, big_endian: bool) -> Self {
        self.big_endian = big_endian;
        self
    }

    /// Sets the CRC-32 that the file records for the storage; `None` if it records none.
    #[must_use]
    pub fn with_crc32(mut self, crc32: Option<u32>) -> Self {
        self.crc32 = crc32;
        self
    }

    /// The file.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The storage's name within the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the bytes lie in the file.
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// Bytes of the storage, uncompressed.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self.extent {
            Extent::Raw { len, .. } | Extent::Deflated { len, .. } => len,
        }
    }

    /// Returns whether the bytes in the file and the inflated bytes end at [`limits::FILE_BYTES`] at most.
    pub(super) fn is_within_a_file(&self) -> bool {
        let (offset, in_file) = match self.extent {
            Extent::Raw { offset, len } => (offset, len),
            Extent::Deflated { offset, compressed, .. } => (offset, compressed),
        };
        self.len() <= limits::FILE_BYTES && offset.checked_add(in_file).is_some_and(|end| end <= limits::FILE_BYTES)
    }

    /// Returns whether the words are stored most significant byte first.
    pub(crate) fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// The CRC-32 that the file records for the storage.
    pub fn crc32(&self) -> Option<u32> {
        self.crc32
    }

    /// The error for a storage whose bytes do not match the checksum that the file records.
    pub fn damaged(&self) -> Error {
        self.fault("the checksum is wrong, the file is damaged")
    }

    /// Fills `out` with the stored bytes at `offset`. Fails if they reach past the storage.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self.extent {
            Extent::Raw { offset: start, len } => {
                let end = offset.checked_add(out.len() as u64).filter(|&end| end <= len);
                let at = end.and(start.checked_add(offset)).ok_or_else(|| self.outside())?;
                self.source.read_at(at, out)
            }
            Extent::Deflated { .. } => {
                let bytes = self.inflate()?;
                let start = usize::try_from(offset).ok();
                let found = start.and_then(|start| bytes.get(start..start.checked_add(out.len())?));
                out.copy_from_slice(found.ok_or_else(|| self.outside())?);
                Ok(())
            }
        }
    }

    /// Checks the whole storage against its checksum. Reads it once; later calls return the same result.
    pub(super) fn check(&self) -> Result<()> {
        let (Some(expected), Extent::Raw { .. }) = (self.crc32, self.extent) else { return Ok(()) };
        let good = match self.checked.get() {
            Some(&good) => good,
            None => {
                let good = self.compute_crc32()? == expected;
                *self.checked.get_or_init(|| good)
            }
        };
        if good { Ok(()) } else { Err(self.damaged()) }
    }

    /// Computes the CRC-32 of the stored bytes. Reads rather than maps them: mapped pages would stay resident.
    fn compute_crc32(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; self.len().min(SUM_BYTES) as usize];
        let mut offset = 0;
        while offset < self.len() {
            let count = (self.len() - offset).min(SUM_BYTES) as usize;
            let piece = buffer.get_mut(..count).or_internal("a piece is longer than its buffer")?;
            self.read_at(offset, piece)?;
            hasher.update(piece);
            offset += count as u64;
        }
        Ok(hasher.finalize())
    }

    fn inflate(&self) -> Result<Arc<[u8]>> {
        let Extent::Deflated { offset, compressed, len } = self.extent else {
            return Err(Error::internal("an uncompressed storage cannot be inflated"));
        };
        let mut held = self.inflated.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = held.upgrade() {
            return Ok(bytes);
        }
        // Tensors that alternate between storages could otherwise inflate each of them again and again.
        let spent = self.spent.fetch_add(len, Ordering::Relaxed);
        if spent >= limits::INFLATE_BYTES.max(len.saturating_mul(limits::INFLATE_TIMES)) {
            let found = "its tensors require inflating it too often; repack the zip without compression";
            return Err(Error::limit(found).in_record(self.name.as_str()).in_file(self.source.path()));
        }
        // Grows with the inflated bytes, not by the declared length. One byte more than declared proves it wrong.
        let mut bytes = Vec::new();
        let mut stream = DeflateDecoder::new(self.source.reader_of(offset, compressed)).take(len.saturating_add(1));
        stream.read_to_end(&mut bytes).map_err(|error| self.fault(format!("cannot inflate: {error}")))?;
        if bytes.len() as u64 != len {
            return Err(self.fault(format!("inflates to {} bytes or more, {len} are declared", bytes.len())));
        }
        if self.crc32.is_some_and(|expected| crc32fast::hash(&bytes) != expected) {
            return Err(self.damaged());
        }
        let bytes: Arc<[u8]> = bytes.into();
        *held = Arc::downgrade(&bytes);
        Ok(bytes)
    }

    /// Inflates a compressed storage and returns its bytes; `None` for an uncompressed one. While they are alive, reads use
    /// them.
    pub(super) fn hold(&self) -> Result<Option<Arc<[u8]>>> {
        match self.extent {
            Extent::Raw { .. } => Ok(None),
            Extent::Deflated { .. } => self.inflate().map(Some),
        }
    }

    fn outside(&self) -> Error {
        self.fault("a read reaches past its end")
    }

    fn fault(&self, found: impl Into<String>) -> Error {
        Error::malformed(found).in_record(self.name.as_str()).in_file(self.source.path())
    }
}
