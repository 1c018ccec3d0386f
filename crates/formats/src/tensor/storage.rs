use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use flate2::read::DeflateDecoder;

use crate::error::{Error, OrInternal, Result};
use crate::io::Source;
use crate::limits;
use crate::tensor::View;
use crate::tensor::blocks::Blocks;
use crate::tensor::gather::gather;
use crate::tensor::held::{Held, Slot};
use crate::tensor::resident::{Resident, Unchecked};

/// Bytes read at a time to compute a storage's checksum.
const SUM_BYTES: u64 = 1 << 20;

/// Bytes inflated at a time.
const INFLATE_BYTES: u64 = 256 << 10;

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
    inflated: Slot,
    /// The elements of views with elements of a size, in row-major order, while a guard keeps them alive.
    gathered: Mutex<HashMap<(View, usize), Arc<GatheredSlot>>>,
}

/// The elements of a view in row-major order.
#[derive(Debug, Clone)]
pub(super) enum Gathered {
    /// In memory.
    Resident(Arc<Resident>),
    /// In memory, gathered when they are read.
    Blocks(Arc<Blocks>),
    /// In a temporary file.
    Whole(Arc<Held>),
}

#[derive(Debug, Default)]
struct GatheredSlot {
    memory: Mutex<InMemory>,
    spilled: Slot,
}

/// What is in memory while a guard keeps it alive.
#[derive(Debug, Default)]
struct InMemory {
    resident: Weak<Resident>,
    blocks: Weak<Blocks>,
}

impl GatheredSlot {
    fn get(&self, memory: &InMemory) -> Option<Gathered> {
        let resident = memory.resident.upgrade().map(Gathered::Resident);
        resident
            .or_else(|| memory.blocks.upgrade().map(Gathered::Blocks))
            .or_else(|| self.spilled.get().map(Gathered::Whole))
    }
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
            inflated: Slot::default(),
            gathered: Mutex::default(),
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

    /// Returns whether the storage is compressed in its file.
    pub(crate) fn is_deflated(&self) -> bool {
        matches!(self.extent, Extent::Deflated { .. })
    }

    /// Bytes that the storage takes in its file.
    pub(crate) fn bytes_in_file(&self) -> u64 {
        match self.extent {
            Extent::Raw { len, .. } => len,
            Extent::Deflated { compressed, .. } => compressed,
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
                if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len()) {
                    return Err(self.outside());
                }
                self.inflate()?.read_at(offset, out)
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

    fn inflate(&self) -> Result<Arc<Held>> {
        let Extent::Deflated { offset, compressed, len } = self.extent else {
            return Err(Error::internal("an uncompressed storage cannot be inflated"));
        };
        self.inflated.get_or_build(len, |write| {
            let mut stream = DeflateDecoder::new(self.source.reader_of(offset, compressed));
            let mut hasher = crc32fast::Hasher::new();
            let mut buffer = vec![0; len.clamp(1, INFLATE_BYTES) as usize];
            let mut done = 0;
            loop {
                let count = stream.read(&mut buffer).map_err(|error| self.fault(format!("cannot inflate: {error}")))?;
                let piece = buffer.get(..count).or_internal("a read is longer than its buffer")?;
                // One byte more than declared proves the length wrong.
                if done + count as u64 > len || count == 0 && done < len {
                    let found = if count == 0 { format!("{done} bytes") } else { "more bytes".to_owned() };
                    return Err(self.fault(format!("inflates to {found}, {len} are declared")));
                }
                if count == 0 {
                    break;
                }
                hasher.update(piece);
                write(done, piece)?;
                done += count as u64;
            }
            let found = hasher.finalize();
            if self.crc32.is_some_and(|expected| expected != found) { Err(self.damaged()) } else { Ok(()) }
        })
    }

    /// Inflates a compressed storage; `None` for an uncompressed one. While the result is alive, reads use it.
    pub(super) fn hold(&self) -> Result<Option<Arc<Held>>> {
        match self.extent {
            Extent::Raw { .. } => Ok(None),
            Extent::Deflated { .. } => self.inflate().map(Some),
        }
    }

    /// Prepares for reading a view in pieces, in row-major order. While the result is alive, [`Storage::gathered`] returns it.
    pub(super) fn hold_gathered(&self, view: &View, size: usize) -> Result<Gathered> {
        let slot = {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(gathered.entry((view.clone(), size)).or_default())
        };
        let mut memory = slot.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = slot.get(&memory) {
            return Ok(found);
        }
        let unchecked = match (self.crc32, self.checked.get(), self.extent) {
            (Some(expected), None, Extent::Raw { .. }) => Some(Unchecked { expected, result: &self.checked }),
            _ => None,
        };
        let read_at = |offset: u64, out: &mut [u8]| self.read_at(offset, out);
        let resident = Resident::new(&read_at, self.len(), (view, size), unchecked.as_ref())?;
        self.check()?;
        if let Some(new) = resident {
            let new = Arc::new(new);
            memory.resident = Arc::downgrade(&new);
            return Ok(Gathered::Resident(new));
        }
        if let Some(new) = Blocks::new(view, size) {
            let new = Arc::new(new);
            memory.blocks = Arc::downgrade(&new);
            return Ok(Gathered::Blocks(new));
        }
        // Cannot overflow: a shape bounds its bytes.
        let count = view.shape().elements();
        let spilled = slot
            .spilled
            .get_or_build(count * size as u64, |write| gather(&read_at, self.len(), view, size, 0, count, write));
        Ok(Gathered::Whole(spilled?))
    }

    /// Returns the elements of a view in row-major order if a guard keeps them alive.
    pub(super) fn gathered(&self, view: &View, size: usize) -> Option<Gathered> {
        let gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        // Most storages have none, and the key is a copy of the view.
        let slot = if gathered.is_empty() { None } else { gathered.get(&(view.clone(), size)).cloned() };
        drop(gathered);
        let slot = slot?;
        let memory = slot.memory.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get(&memory)
    }

    fn outside(&self) -> Error {
        self.fault("a read reaches past its end")
    }

    fn fault(&self, found: impl Into<String>) -> Error {
        Error::malformed(found).in_record(self.name.as_str()).in_file(self.source.path())
    }
}
