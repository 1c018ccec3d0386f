//! Temporary bytes that are too many for memory, in a file that ends with the process.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{Mmap, MmapOptions};

use super::sys;
use crate::error::{Error, Result};
use crate::limits;

/// The process's temporary file, while any [`Spill`] is alive. One file for all, because descriptors are few.
static CURRENT: Mutex<Weak<SpillFile>> = Mutex::new(Weak::new());

/// An open file without a name, or on Windows with one that is removed when it is closed: nothing is left of it when the process ends, however it ends.
#[derive(Debug)]
struct SpillFile {
    file: File,
    folder: PathBuf,
    /// One past the last byte handed out.
    end: AtomicU64,
}

/// A range of the temporary file. Dropping it gives the disk space back.
#[derive(Debug)]
pub(crate) struct Spill {
    file: Arc<SpillFile>,
    offset: u64,
    len: u64,
}

impl Spill {
    /// Reserves `len` bytes in `TMPDIR`; if that is not set, in the system's folder for temporary files.
    ///
    /// Fails if the folder is not writable or has not that much space.
    pub(crate) fn new(len: u64) -> Result<Self> {
        let file = SpillFile::current()?;
        if sys::free_space(&file.file, &file.folder).is_ok_and(|free| free < len) {
            return Err(file.error(io::ErrorKind::StorageFull.into(), len));
        }
        let offset = file.end.fetch_add(len, Ordering::Relaxed);
        if offset.checked_add(len).is_none_or(|end| end > limits::FILE_BYTES) {
            return Err(file.error(io::ErrorKind::FileTooLarge.into(), len));
        }
        Ok(Spill { file, offset, len })
    }

    /// Writes `bytes` at `offset` within the range.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = self.position(offset, bytes.len())?;
        sys::write_all_at(&self.file.file, at, bytes).map_err(|error| self.file.error(error, self.len))
    }

    /// Fills `out` with the bytes at `offset` within the range.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let at = self.position(offset, out.len())?;
        let read = sys::read_exact_at(&self.file.file, at, out);
        read.map_err(|error| Error::io("cannot read a temporary file", error).in_file(&self.file.folder))
    }

    /// Maps the bytes into memory.
    pub(crate) fn map(&self) -> Result<Mmap> {
        let fail = |error| Error::io("cannot map a temporary file", error).in_file(&self.file.folder);
        let len =
            usize::try_from(self.len).map_err(|_| Error::limit("a temporary file larger than the address space"))?;
        // SAFETY: the file has no name, so that no other process changes or truncates it, and this one writes other ranges
        // only once these are mapped.
        unsafe { MmapOptions::new().offset(self.offset).len(len).map(&self.file.file) }.map_err(fail)
    }

    fn position(&self, offset: u64, count: usize) -> Result<u64> {
        let is_within = offset.checked_add(count as u64).is_some_and(|end| end <= self.len);
        // Cannot overflow: `new` bounds the end of the range.
        if is_within {
            Ok(self.offset + offset)
        } else {
            Err(Error::internal("a range lies outside its spilled bytes"))
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // Where a file system cannot free a part of a file, the space is free when the last range is dropped.
        sys::unreserve(&self.file.file, self.offset, self.len);
    }
}

impl SpillFile {
    fn current() -> Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = current.upgrade() {
            return Ok(file);
        }
        let folder = folder();
        let file = sys::create_temporary(&folder).map_err(|error| {
            let action = "cannot create a temporary file for compressed or transposed tensors; \
                          set the environment variable TMPDIR to a folder with space";
            Error::io(action, error).in_file(&folder)
        })?;
        let file = Arc::new(SpillFile { file, folder, end: AtomicU64::new(0) });
        *current = Arc::downgrade(&file);
        Ok(file)
    }

    fn error(&self, error: io::Error, len: u64) -> Error {
        let action = format!(
            "cannot write a temporary file for a compressed or transposed tensor of {len} bytes; \
             set the environment variable TMPDIR to a folder with space"
        );
        Error::io(&action, error).in_file(&self.folder)
    }
}

fn folder() -> PathBuf {
    let named = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    named.map_or_else(sys::temporary_folder, PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_have_no_name() {
        let (a, b) = (Spill::new(10).unwrap(), Spill::new(20).unwrap());
        a.write_at(0, &[1; 10]).unwrap();
        b.write_at(0, &[2; 20]).unwrap();
        let mut out = [0; 4];
        a.read_at(6, &mut out).unwrap();
        assert_eq!(out, [1; 4]);
        drop(a);
        b.read_at(16, &mut out).unwrap();
        assert_eq!(out, [2; 4]);
        for error in [b.read_at(17, &mut out), b.write_at(u64::MAX, &out)] {
            assert!(error.unwrap_err().to_string().contains("outside"));
        }
        if cfg!(windows) {
            // There it has a name while it is open.
            return;
        }
        let left = std::fs::read_dir(folder()).unwrap().flatten();
        let ours = format!(".trinart-spill-{}", std::process::id());
        assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&ours)));
    }

    #[test]
    fn names_the_folder_that_has_no_space() {
        let error = Spill::new(1 << 60).unwrap_err().to_string();
        assert!(error.contains("TMPDIR") && error.contains(folder().to_str().unwrap()), "{error}");
    }
}
