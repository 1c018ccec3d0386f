use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::AlignedBuffer;
use crate::io::staging::{check_parent, exists, remove, remove_leftovers, resolve, staging_name, sync_folder};

/// How to treat an existing destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overwrite {
    /// Fail and keep what exists.
    #[default]
    Refuse,
    /// Replace it in one step, once the output is complete.
    Replace,
}

/// A file that replaces its destination in one step, or not at all.
///
/// It is written under a hidden name in the destination's folder, synced, then renamed. Dropping it before
/// [`AtomicFile::persist`] removes it. The file is locked while its process runs: the next [`AtomicFile::create`] for the
/// same destination removes unlocked leftovers of killed processes.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    /// The same file opened for direct I/O; `None` if the file system does not support it.
    direct: Option<File>,
    /// Serializes writes through the page cache: the kernel admits one thread at a time and lets the others spin.
    buffered_write: Mutex<()>,
    path: PathBuf,
    destination: PathBuf,
    overwrite: Overwrite,
    persisted: bool,
}

impl AtomicFile {
    /// Creates an empty file for `destination`. If that is a symbolic link, the file it points to is replaced.
    ///
    /// Fails as [`AtomicFile::check_destination`] does, or if the folder is not writable.
    pub fn create(destination: &Path, overwrite: Overwrite) -> Result<Self> {
        let fail = |action: &str, error| Error::io(action, error).in_file(destination);
        Self::check_destination(destination, overwrite)?;
        let (target, folder, name) = resolve(destination)?;
        remove_leftovers(&folder, &name);
        // A concurrent process may remove the file as a leftover before it is locked here. Then retry.
        for attempt in 0..100_u32 {
            let path = folder.join(staging_name(&name, attempt));
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(fail("cannot create a temporary file next to it", error)),
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                // On a file system without locks, leftovers are not recognized and stay.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Whether the file was not removed, or replaced by another one, before it was locked.
            let still_ours = match (file.metadata(), fs::metadata(&path)) {
                (Ok(ours), Ok(there)) => ours.ino() == there.ino(),
                _ => false,
            };
            if still_ours {
                return Ok(AtomicFile {
                    direct: open_direct(&path),
                    file,
                    buffered_write: Mutex::new(()),
                    path,
                    destination: target,
                    overwrite,
                    persisted: false,
                });
            }
        }
        Err(Error::conflict("no free name for a temporary file next to it").in_file(destination))
    }

    /// Fails if `destination` must not be written: it exists and `overwrite` refuses to replace it, it is not a regular
    /// file, it is a dangling symbolic link, or its parent folder does not exist.
    pub fn check_destination(destination: &Path, overwrite: Overwrite) -> Result<()> {
        match fs::metadata(destination) {
            Ok(found) if !found.is_file() => {
                Err(Error::conflict("exists and is not a regular file").in_file(destination))
            }
            Ok(_) if overwrite == Overwrite::Refuse => Err(exists(destination)),
            Ok(_) => Ok(()),
            Err(_) => check_parent(destination),
        }
    }

    /// Sets the file's length to `len` bytes and allocates the space. Fails if the disk has too little.
    pub fn reserve(&self, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Without preallocation, a full disk is found while writing.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.file.set_len(len).map_err(|error| self.write_error(error))
            }
            Err(errno) => Err(self.write_error(errno.into())),
        }
    }

    /// Writes the first `len` bytes of `buffer` at `offset`, a multiple of [`AlignedBuffer::LEN`]. Callable from any
    /// thread.
    ///
    /// Bypasses the page cache where possible: a file of gigabytes would evict useful pages, and allocating pages for it
    /// costs more than the disk does.
    pub(crate) fn write_block(&self, offset: u64, buffer: &AlignedBuffer, len: usize) -> Result<()> {
        let (whole, rest) = buffer.slice(0..len)?.split_at(AlignedBuffer::align_down(len));
        let rest_offset = offset + whole.len() as u64;
        match self.direct.as_ref().map(|direct| direct.write_all_at(whole, offset)) {
            Some(Ok(())) => {}
            None => self.write_at(offset, whole)?,
            // Some file systems accept the flag on open and refuse the first write.
            Some(Err(error)) if is_refusal(&error) => self.write_at(offset, whole)?,
            Some(Err(error)) => return Err(self.write_error(error)),
        }
        if rest.is_empty() { Ok(()) } else { self.write_at(rest_offset, rest) }
    }

    /// Reads `len` bytes at `offset`, a multiple of [`AlignedBuffer::LEN`], into the start of `buffer`. Reads from the
    /// disk rather than from the page cache where possible.
    pub(crate) fn read_block(&self, offset: u64, buffer: &mut AlignedBuffer, len: usize) -> Result<()> {
        if let Some(direct) = &self.direct {
            match read_up_to(direct, offset, buffer.bytes_mut()) {
                Ok(count) if count >= len => return Ok(()),
                Ok(_) => {
                    return Err(
                        Error::unverified("the written file is shorter than planned").in_file(&self.destination)
                    );
                }
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(Error::io("cannot read the output back", error).in_file(&self.destination)),
            }
        }
        let read = self.file.read_exact_at(buffer.slice_mut(0..len)?, offset);
        read.map_err(|error| Error::io("cannot read the output back", error).in_file(&self.destination))
    }

    /// Writes `bytes` at `offset`. Callable from any thread.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let _one_at_a_time = self.buffered_write.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, offset).map_err(|error| self.write_error(error))
    }

    /// Flushes the content to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.write_error(error))
    }

    /// The temporary path of the content.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path that [`AtomicFile::persist`] moves the content to.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Renames the file to its destination. Call [`AtomicFile::sync`] first.
    ///
    /// Fails if the destination has appeared meanwhile and must not be replaced.
    pub fn persist(mut self) -> Result<()> {
        let flags = match self.overwrite {
            Overwrite::Replace => RenameFlags::empty(),
            Overwrite::Refuse => RenameFlags::NOREPLACE,
        };
        let here = rustix::fs::CWD;
        let renamed = match rustix::fs::renameat_with(here, &self.path, here, &self.destination, flags) {
            // The file system lacks the flag: check, then rename.
            Err(Errno::INVAL | Errno::NOSYS) => {
                Self::check_destination(&self.destination, self.overwrite)?;
                fs::rename(&self.path, &self.destination)
            }
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.destination),
            _ => Error::io("cannot move the finished file into place", error).in_file(&self.destination),
        })?;
        self.persisted = true;
        if let Some(folder) = self.path.parent() {
            sync_folder(folder);
        }
        Ok(())
    }

    fn write_error(&self, error: io::Error) -> Error {
        let action = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space for the output; nothing was written",
            io::ErrorKind::FileTooLarge => "the output is larger than this file system or limit allows",
            _ => "cannot write",
        };
        Error::io(action, error).in_file(&self.destination)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.persisted {
            remove(&self.path);
        }
    }
}

/// Opens a file for direct I/O; `None` if the file system does not support it.
fn open_direct(path: &Path) -> Option<File> {
    const DIRECT: i32 = OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(DIRECT).open(path).ok()
}

/// Returns whether the file system refuses direct I/O.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Reads until `out` is full or the file ends, and returns the number of bytes read.
fn read_up_to(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = out.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // At the end of the file the position is no longer aligned, and direct reads there are refused.
            Err(error) if count > 0 && is_refusal(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_destination_appears_only_when_complete() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        let file = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
        file.reserve(4).unwrap();
        file.write_at(0, b"full").unwrap();
        assert!(!destination.exists());
        file.sync().unwrap();
        file.persist().unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"full");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn reads_back_the_blocks_written_at_any_file_length() {
        for len in [1, 4095, 4096, 5000, AlignedBuffer::LEN, AlignedBuffer::LEN + 1, 2 * AlignedBuffer::LEN - 7] {
            let folder = tempfile::tempdir().unwrap();
            let file = AtomicFile::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
            file.reserve(len as u64).unwrap();
            let content: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            for (index, piece) in content.chunks(AlignedBuffer::LEN).enumerate() {
                let mut buffer = AlignedBuffer::new();
                buffer.bytes_mut()[..piece.len()].copy_from_slice(piece);
                file.write_block((index * AlignedBuffer::LEN) as u64, &buffer, piece.len()).unwrap();
            }
            for (index, piece) in content.chunks(AlignedBuffer::LEN).enumerate() {
                let mut buffer = AlignedBuffer::new();
                file.read_block((index * AlignedBuffer::LEN) as u64, &mut buffer, piece.len()).unwrap();
                assert_eq!(&buffer.bytes()[..piece.len()], piece, "{len}");
            }
            file.persist().unwrap();
            assert_eq!(fs::read(folder.path().join("out")).unwrap(), content);
        }
    }

    #[test]
    fn rejects_a_destination_whose_folder_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        for (name, word) in [("nodir/out", "nodir does not exist"), ("file/out", "not a folder"), ("a/b/c", "a/b does")]
        {
            let error = AtomicFile::check_destination(&folder.path().join(name), Overwrite::Replace).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = AtomicFile::check_destination(Path::new("nodir/out"), Overwrite::Refuse).unwrap_err();
        assert_eq!(error.message(), "the folder nodir does not exist");
        AtomicFile::check_destination(Path::new("out-of-this-test"), Overwrite::Refuse).unwrap();
    }

    #[test]
    fn dropping_the_file_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
        file.write_at(0, b"half").unwrap();
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn replaces_an_existing_file_only_when_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        fs::write(&destination, b"old").unwrap();
        assert!(AtomicFile::create(&destination, Overwrite::Refuse).is_err());
        let file = AtomicFile::create(&destination, Overwrite::Replace).unwrap();
        file.write_at(0, b"new").unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"old");
        file.persist().unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"new");
    }

    #[test]
    fn keeps_a_file_that_appears_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        let file = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
        fs::write(&destination, b"theirs").unwrap();
        assert!(file.persist().is_err());
        assert_eq!(fs::read(&destination).unwrap(), b"theirs");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn removes_leftovers_of_killed_processes_only() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        fs::write(folder.path().join(".out.1-0.trinart-partial"), b"left behind").unwrap();
        let running = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
        let second = AtomicFile::create(&destination, Overwrite::Refuse).unwrap();
        assert_ne!(running.path(), second.path());
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn writes_through_a_symbolic_link() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let file = AtomicFile::create(&link, Overwrite::Replace).unwrap();
        file.write_at(0, b"new").unwrap();
        file.persist().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        fs::remove_file(&target).unwrap();
        for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
            assert!(AtomicFile::create(&link, overwrite).unwrap_err().to_string().contains("does not exist"));
        }
        assert_eq!(names(folder.path()), ["link"]);
    }
}
