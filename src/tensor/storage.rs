use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use flate2::read::DeflateDecoder;

use crate::error::{Error, Result};
use crate::io::Source;
use crate::limits;

/// Bytes read at a time to sum a storage.
const SUM_BYTES: u64 = 1 << 20;

/// Where a storage's bytes lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As they are.
    Raw {
        /// First byte in the file.
        offset: u64,
        /// Bytes of the storage.
        len: u64,
    },
    /// As a raw deflate stream.
    Deflated {
        /// First byte in the file.
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
    /// The inflated bytes, as long as somebody holds them.
    inflated: Mutex<Weak<[u8]>>,
    /// Bytes inflated so far, those of every time.
    spent: AtomicU64,
}

impl Storage {
    /// A storage within `source`, whose length the caller has held against the file. `name` is for messages.
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

    /// The words in it are stored most significant byte first.
    #[must_use]
    pub fn big_endian(mut self, big_endian: bool) -> Self {
        self.big_endian = big_endian;
        self
    }

    /// The checksum its file promises for it; `None` where the file promises nothing.
    #[must_use]
    pub fn with_crc32(mut self, crc32: Option<u32>) -> Self {
        self.crc32 = crc32;
        self
    }

    /// The file it lies in.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Its name within the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its bytes lie.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Bytes it has, inflated.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self.extent {
            Extent::Raw { len, .. } | Extent::Deflated { len, .. } => len,
        }
    }

    /// Whether its words have to be swapped to become little-endian.
    pub fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// The checksum its file promises for it.
    pub fn crc32(&self) -> Option<u32> {
        self.crc32
    }

    /// The error of a storage whose bytes do not have the checksum that the file promises.
    pub fn damaged(&self) -> Error {
        self.fault("its checksum is wrong, the file is damaged")
    }

    /// Copies `out.len()` bytes from `offset` on, as they are stored.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self.extent {
            Extent::Raw { offset: start, .. } => self.source.read_at(start.saturating_add(offset), out),
            Extent::Deflated { .. } => {
                let bytes = self.inflate()?;
                let start = usize::try_from(offset).ok();
                let found = start.and_then(|start| bytes.get(start..start.checked_add(out.len())?));
                out.copy_from_slice(found.ok_or_else(|| self.outside())?);
                Ok(())
            }
        }
    }

    /// Holds the whole storage against its checksum, once; later calls cost nothing.
    pub(super) fn check(&self) -> Result<()> {
        let (Some(promised), Extent::Raw { .. }) = (self.crc32, self.extent) else { return Ok(()) };
        let good = match self.checked.get() {
            Some(&good) => good,
            None => {
                let good = self.sum()? == promised;
                *self.checked.get_or_init(|| good)
            }
        };
        if good { Ok(()) } else { Err(self.damaged()) }
    }

    /// The CRC-32 of its bytes as they are stored. Read rather than mapped: mapped pages would stay resident.
    fn sum(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; self.len().min(SUM_BYTES) as usize];
        let mut offset = 0;
        while offset < self.len() {
            let count = (self.len() - offset).min(SUM_BYTES) as usize;
            let piece = buffer.get_mut(..count).unwrap_or_default();
            self.read_at(offset, piece)?;
            hasher.update(piece);
            offset += count as u64;
        }
        Ok(hasher.finalize())
    }

    fn inflate(&self) -> Result<Arc<[u8]>> {
        let Extent::Deflated { offset, compressed, len } = self.extent else { return Err(self.outside()) };
        let mut held = self.inflated.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = held.upgrade() {
            return Ok(bytes);
        }
        // Tensors that are read in turns, each of another storage, would have each of them inflated anew.
        let spent = self.spent.fetch_add(len, Ordering::Relaxed);
        if spent >= limits::INFLATE_BYTES.max(len.saturating_mul(limits::INFLATE_TIMES)) {
            let found = "tensors want it inflated again and again; unzip the file and zip it without compression";
            return Err(Error::limit(found).in_record(self.name.as_str()).in_file(self.source.path()));
        }
        // Grows with the bytes that arrive, never by the length that is claimed.
        let mut bytes = Vec::new();
        let mut stream = DeflateDecoder::new(self.source.reader_of(offset, compressed)).take(len.saturating_add(1));
        stream.read_to_end(&mut bytes).map_err(|error| self.fault(format!("cannot inflate: {error}")))?;
        if bytes.len() as u64 != len {
            return Err(self.fault(format!("inflates to {} bytes or more, {len} are declared", bytes.len())));
        }
        if self.crc32.is_some_and(|promised| crc32fast::hash(&bytes) != promised) {
            return Err(self.damaged());
        }
        let bytes: Arc<[u8]> = bytes.into();
        *held = Arc::downgrade(&bytes);
        Ok(bytes)
    }

    /// Keeps the inflated bytes of a compressed storage until the guard is dropped, so that reading it piece by piece
    /// inflates it once.
    pub(super) fn hold(&self) -> Result<Option<Arc<[u8]>>> {
        match self.extent {
            Extent::Raw { .. } => Ok(None),
            Extent::Deflated { .. } => self.inflate().map(Some),
        }
    }

    fn outside(&self) -> Error {
        self.fault("a read past its end")
    }

    fn fault(&self, found: impl Into<String>) -> Error {
        Error::malformed(found).in_record(self.name.as_str()).in_file(self.source.path())
    }
}
