use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use memmap2::Mmap;

use super::image::Image;
use super::remote::{self, RemoteFile};
use super::sys;
use crate::error::{Error, OrInternal, Result};

/// A regular file, or one behind an [address](super::remote), readable at any offset from any thread.
///
/// Ranges are checked against the length the file had when it was opened. A file that was truncated since then is an
/// error.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

/// Where the bytes of a source are.
#[derive(Debug)]
enum Bytes {
    Here { file: File, modified: Option<SystemTime>, map: OnceLock<Mmap> },
    Remote { file: Arc<dyn RemoteFile>, image: OnceLock<Image> },
}

impl Source {
    /// Opens a file for reading.
    ///
    /// Fails for folders, pipes and devices: they have no length to check offsets against.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref();
        if let Some(address) = remote::address(path) {
            let file = remote::open(&address).map_err(|error| error.in_file(path))?;
            return Ok(Arc::new(Source {
                path: path.to_owned(),
                len: file.bytes(),
                bytes: Bytes::Remote { file, image: OnceLock::new() },
            }));
        }
        let fail = |error| {
            let held = "cannot open it: another program has it open and does not share it; close it there";
            Error::io(if sys::is_held(&error) { held } else { "cannot open" }, error).in_file(path)
        };
        // Checked before opening: opening a pipe would wait for a writer.
        let kind = fs::metadata(path).map_err(fail)?;
        if !kind.is_file() {
            let found = if kind.is_dir() { "a folder" } else { "not a regular file (a pipe or a device)" };
            return Err(Error::unsupported(format!("{found}; expected a checkpoint file")).in_file(path));
        }
        let file = sys::open_input(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        // Something else may have replaced the file since the check.
        if !sys::is_regular(&file).map_err(fail)? {
            return Err(Error::unsupported("not a regular file; expected a checkpoint file").in_file(path));
        }
        Ok(Arc::new(Source {
            path: path.to_owned(),
            len: metadata.len(),
            bytes: Bytes::Here { file, modified: metadata.modified().ok(), map: OnceLock::new() },
        }))
    }

    /// Whether the file is behind an address, so that each read may cost a request.
    pub fn is_remote(&self) -> bool {
        matches!(self.bytes, Bytes::Remote { .. })
    }

    /// The sha256 of the file, lower-case hexadecimal, as its server states it. It has not been compared with the bytes.
    pub fn stated_sha256(&self) -> Option<&str> {
        match &self.bytes {
            Bytes::Remote { file, .. } => file.stated_sha256(),
            Bytes::Here { .. } => None,
        }
    }

    /// The path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes when it was opened.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` with the bytes at `offset`. Fails if the file ends before.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        // A file that grew since it was opened must not make a read succeed past `len`.
        let is_within = offset.checked_add(out.len() as u64).is_some_and(|end| end <= self.len);
        let read = match &self.bytes {
            _ if !is_within => Err(io::ErrorKind::UnexpectedEof.into()),
            Bytes::Here { file, .. } => sys::read_exact_at(file, offset, out),
            Bytes::Remote { file, .. } => return file.read_at(offset, out).map_err(|error| error.in_file(&self.path)),
        };
        read.map_err(|error| {
            let error = match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::malformed(format!(
                    "the file ends before the {} bytes expected here; it was cut short",
                    out.len()
                )),
                _ => Error::io("cannot read", error),
            };
            error.at(offset).in_file(&self.path)
        })
    }

    /// Asks the kernel to read a range ahead. Returns at once.
    pub(crate) fn prefetch(&self, offset: u64, len: u64) {
        if let Bytes::Here { file, .. } = &self.bytes {
            sys::prefetch(file, offset, len);
        }
    }

    /// Reads the bytes `offset..offset + len` into memory. The caller must have bounded `len`.
    ///
    /// Fails if the range reaches past the end of the file.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let outside = || {
            Error::malformed(format!("expected {len} bytes here, the whole file has {}", self.len))
                .at(offset)
                .in_file(&self.path)
        };
        offset.checked_add(len).filter(|&end| end <= self.len).ok_or_else(outside)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| outside())?];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Maps the whole file into memory, without copying it.
    ///
    /// Fails if the file was truncated since it was opened. Of a file behind an address, it is the image that was set.
    ///
    /// # Safety
    ///
    /// While the slice is in use, no process may change or truncate the file. A truncation ends this process with SIGBUS;
    /// a change makes the slice's bytes change. Code that writes an output must use [`Source::read_at`] instead, which
    /// has no such requirement.
    pub(crate) unsafe fn map(&self) -> Result<&[u8]> {
        if self.len == 0 {
            return Ok(&[]);
        }
        let (file, kept) = match &self.bytes {
            Bytes::Here { file, map, .. } => (file, map),
            Bytes::Remote { image, .. } => {
                return Ok(image.get().or_internal("nothing was fetched of a file")?.bytes());
            }
        };
        // SAFETY: the mapping is read-only, and `self` keeps it alive as long as the slice is borrowed. That the file does
        // not change meanwhile is the caller's contract.
        let map = unsafe { Mmap::map(file) };
        let map = map.map_err(|error| Error::io("cannot map", error).in_file(&self.path))?;
        let map = kept.get_or_init(|| map);
        let found = usize::try_from(self.len).ok().and_then(|len| map.get(..len));
        found.ok_or_else(|| Error::mismatch("the file was cut short while it was being read").in_file(&self.path))
    }

    /// Sets what [`Self::map`] returns for a file behind an address.
    pub(crate) fn set_image(&self, new: Image) {
        if let Bytes::Remote { image, .. } = &self.bytes {
            image.get_or_init(|| new);
        }
    }

    /// Removes the pages of the mapping from this process's memory. They are read again when needed.
    pub(crate) fn release_pages(&self) {
        match &self.bytes {
            Bytes::Here { map, .. } => map.get().into_iter().for_each(sys::release_pages),
            Bytes::Remote { image, .. } => image.get().into_iter().for_each(Image::release_pages),
        }
    }

    /// Fails if the file's length or modification time changed since it was opened: what was read may be inconsistent.
    /// Asks the server for a file behind an address.
    pub fn check_unchanged(&self) -> Result<()> {
        let (file, modified) = match &self.bytes {
            Bytes::Here { file, modified, .. } => (file, modified),
            Bytes::Remote { file, .. } => return file.check_unchanged().map_err(|error| error.in_file(&self.path)),
        };
        let fail = |error| Error::io("cannot read the metadata", error).in_file(&self.path);
        let now = file.metadata().map_err(fail)?;
        if now.len() != self.len || now.modified().ok() != *modified {
            return Err(Error::mismatch("the file was changed while it was being read").in_file(&self.path));
        }
        Ok(())
    }

    /// Returns a reader of the whole file, with its own position.
    pub(crate) fn reader(self: &Arc<Self>) -> SourceReader {
        SourceReader { source: Arc::clone(self), position: 0 }
    }

    /// Returns a reader of the bytes `offset..offset + len`. It ends early where the file does.
    pub(crate) fn reader_of(self: &Arc<Self>, offset: u64, len: u64) -> BufReader<Take<SourceReader>> {
        BufReader::new(SourceReader { source: Arc::clone(self), position: offset }.take(len))
    }
}

/// `Read` and `Seek` over a [`Source`].
#[derive(Debug)]
pub(crate) struct SourceReader {
    source: Arc<Source>,
    position: u64,
}

impl Read for SourceReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = match &self.source.bytes {
            Bytes::Here { file, .. } => sys::read_at(file, self.position, out)?,
            Bytes::Remote { .. } => {
                let left = self.source.len.saturating_sub(self.position).min(out.len() as u64) as usize;
                let (out, _) = out.split_at_mut(left);
                self.source.read_at(self.position, out).map_err(io::Error::other)?;
                left
            }
        };
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }
}

impl Seek for SourceReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.source.len.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().write_all(bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn reads_and_maps_the_same_bytes() {
        let (_folder, path) = file_of(b"0123456789");
        let source = Source::open(&path).unwrap();
        let mut out = [0; 4];
        source.read_at(3, &mut out).unwrap();
        assert_eq!(&out, b"3456");
        assert_eq!(source.read(3, 4).unwrap(), b"3456");
        assert_eq!(source.read(10, 0).unwrap(), b"");
        // SAFETY: nothing changes the files of this test.
        assert_eq!(unsafe { source.map() }.unwrap(), b"0123456789");
        let (_folder, empty) = file_of(b"");
        let empty = Source::open(&empty).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { empty.map() }.unwrap(), b"");
    }

    #[test]
    fn rejects_ranges_past_the_end() {
        let (_folder, path) = file_of(b"0123456789");
        let source = Source::open(&path).unwrap();
        assert!(source.read(7, 4).is_err());
        assert!(source.read(u64::MAX, 2).is_err());
        let error = source.read_at(7, &mut [0; 4]).unwrap_err();
        assert_eq!(error.offset(), Some(7));
    }

    #[test]
    fn rejects_folders_and_missing_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Source::open(folder.path()).unwrap_err().to_string().contains("a folder"));
        assert!(Source::open(folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_truncated_file_is_an_error_not_a_signal() {
        let (_folder, path) = file_of(&[7; 100_000]);
        let source = Source::open(&path).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
        assert!(source.read(0, 100_000).unwrap_err().to_string().contains("cut short"));
        // SAFETY: nothing changes the file from here on.
        assert!(unsafe { source.map() }.unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn detects_a_file_that_changed() {
        let (_folder, path) = file_of(b"0123456789");
        let source = Source::open(&path).unwrap();
        source.check_unchanged().unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        assert!(source.check_unchanged().is_err());
        assert!(source.read_at(10, &mut [0]).is_err(), "a byte that was appended later");
    }
}
