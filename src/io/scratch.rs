use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::Block;
use crate::io::beside::{exists, remove_leftovers, resolve, scratch_name, sync_folder};

/// What to do about a destination that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It is an error, and what is there stays.
    Refuse,
    /// It is replaced, in one step, by the finished file.
    Replace,
}

/// A file on its way to its destination: written beside it, synced, renamed; removed if it is dropped before.
///
/// The destination is always what it was or the whole new file. A scratch file is locked while its program lives; one
/// that a killed program left behind is recognised by the missing lock and removed by the next [`Scratch::create`]
/// for the same destination.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    /// The same file without the page cache, where the file system has that.
    direct: Option<File>,
    /// Taken to write through the page cache: the kernel lets one thread do that at a time, and lets the others spin.
    writing: Mutex<()>,
    path: PathBuf,
    destination: PathBuf,
    overwrite: Overwrite,
    persisted: bool,
}

impl Scratch {
    /// An empty scratch file for `destination`. A destination that is a symbolic link means the file it points to.
    pub fn create(destination: &Path, overwrite: Overwrite) -> Result<Self> {
        let fail = |action: &str, error| Error::io(action, error).in_file(destination);
        Self::check_destination(destination, overwrite)?;
        let (target, folder, name) = resolve(destination)?;
        remove_leftovers(&folder, &name);
        // A leftover's cleaner may lock and remove our file between its creation and our lock; then try again.
        for attempt in 0..100_u32 {
            let path = folder.join(scratch_name(&name, attempt));
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(fail("cannot create a scratch file beside it", error)),
            };
            let _ = file.try_lock();
            let still_ours = match (file.metadata(), fs::metadata(&path)) {
                (Ok(ours), Ok(there)) => ours.ino() == there.ino(),
                _ => false,
            };
            if still_ours {
                return Ok(Scratch {
                    direct: open_direct(&path),
                    file,
                    writing: Mutex::new(()),
                    path,
                    destination: target,
                    overwrite,
                    persisted: false,
                });
            }
        }
        Err(Error::conflict("no free name for a scratch file beside it").in_file(destination))
    }

    /// An error if `destination` may not be written: it exists and must not be replaced, or it is not a file.
    pub fn check_destination(destination: &Path, overwrite: Overwrite) -> Result<()> {
        match fs::metadata(destination) {
            Ok(found) if !found.is_file() => {
                Err(Error::conflict("exists and is not a regular file; it is left as it is").in_file(destination))
            }
            Ok(_) if overwrite == Overwrite::Refuse => Err(exists(destination)),
            Ok(_) => Ok(()),
            // To write there would be to guess; to replace it would lose the link.
            Err(_) if fs::symlink_metadata(destination).is_ok_and(|found| found.is_symlink()) => {
                Err(Error::conflict("a symbolic link that leads to no file; it is left as it is").in_file(destination))
            }
            Err(_) => Ok(()),
        }
    }

    /// Makes the file `len` bytes long and claims the space now, so that a full disk is found before the first byte.
    pub fn reserve(&self, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // File systems without it still take the length; a full disk is then found while writing.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.file.set_len(len).map_err(|error| self.write_error(error))
            }
            Err(errno) => Err(self.write_error(errno.into())),
        }
    }

    /// Writes the first `len` bytes of a block at `offset`, a multiple of [`Block::LEN`]; any thread may.
    ///
    /// Past the page cache where that is possible. A file of gigabytes would only push out of it what is of use, and
    /// finding pages for it costs more than the disk does.
    pub fn write_block(&self, offset: u64, block: &Block, len: usize) -> Result<()> {
        let bytes = block.bytes().get(..len).unwrap_or_default();
        let (whole, rest) = bytes.split_at(Block::aligned(len));
        let rest_offset = offset + whole.len() as u64;
        match self.direct.as_ref().map(|direct| direct.write_all_at(whole, offset)) {
            Some(Ok(())) => {}
            // Some file systems say so only now.
            None => self.write_at(offset, whole)?,
            Some(Err(error)) if is_refusal(&error) => self.write_at(offset, whole)?,
            Some(Err(error)) => return Err(self.write_error(error)),
        }
        if rest.is_empty() { Ok(()) } else { self.write_at(rest_offset, rest) }
    }

    /// Reads `len` bytes at `offset`, a multiple of [`Block::LEN`], into the start of a block: from the disk, where that
    /// is possible, rather than from memory.
    pub fn read_block(&self, offset: u64, block: &mut Block, len: usize) -> Result<()> {
        if let Some(direct) = &self.direct {
            match read_up_to(direct, offset, block.bytes_mut()) {
                Ok(count) if count >= len => return Ok(()),
                Ok(_) => {
                    return Err(
                        Error::unverified("the written file is shorter than planned").in_file(&self.destination)
                    );
                }
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(Error::io("cannot read what was written", error).in_file(&self.destination)),
            }
        }
        let out = block.bytes_mut().get_mut(..len).unwrap_or_default();
        let read = self.file.read_exact_at(out, offset);
        read.map_err(|error| Error::io("cannot read what was written", error).in_file(&self.destination))
    }

    /// Writes `bytes` at `offset`; any thread may.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, offset).map_err(|error| self.write_error(error))
    }

    /// Forces the content to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.write_error(error))
    }

    /// Where the content is for now, to be read again before it is made final.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the content will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Puts the file in its place, in one step. Call [`Scratch::sync`] before.
    pub fn persist(mut self) -> Result<()> {
        let flags = match self.overwrite {
            Overwrite::Replace => RenameFlags::empty(),
            Overwrite::Refuse => RenameFlags::NOREPLACE,
        };
        let here = rustix::fs::CWD;
        let renamed = match rustix::fs::renameat_with(here, &self.path, here, &self.destination, flags) {
            // File systems without the flag: look, then rename.
            Err(Errno::INVAL | Errno::NOSYS) => {
                Self::check_destination(&self.destination, self.overwrite)?;
                fs::rename(&self.path, &self.destination)
            }
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.destination),
            _ => Error::io("cannot put the finished file in its place", error).in_file(&self.destination),
        })?;
        self.persisted = true;
        // The rename itself has to reach the disk; where folders cannot be synced it will, a little later.
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

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.persisted {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The scratch file once more, to be written past the page cache; `None` where the file system cannot.
fn open_direct(path: &Path) -> Option<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Reads until `out` is full or the file ends.
fn read_up_to(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = out.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What is left behind the end of the file is no whole unit, and cannot be asked for.
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
    fn appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        let scratch = Scratch::create(&destination, Overwrite::Refuse).unwrap();
        scratch.reserve(4).unwrap();
        scratch.write_at(0, b"full").unwrap();
        assert!(!destination.exists());
        scratch.sync().unwrap();
        scratch.persist().unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"full");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn blocks_come_back_as_they_were_written_whatever_the_length_of_the_file() {
        for len in [1, 4095, 4096, 5000, Block::LEN, Block::LEN + 1, 2 * Block::LEN - 7] {
            let folder = tempfile::tempdir().unwrap();
            let scratch = Scratch::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
            scratch.reserve(len as u64).unwrap();
            let content: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            for (index, piece) in content.chunks(Block::LEN).enumerate() {
                let mut block = Block::new();
                block.bytes_mut()[..piece.len()].copy_from_slice(piece);
                scratch.write_block((index * Block::LEN) as u64, &block, piece.len()).unwrap();
            }
            for (index, piece) in content.chunks(Block::LEN).enumerate() {
                let mut block = Block::new();
                scratch.read_block((index * Block::LEN) as u64, &mut block, piece.len()).unwrap();
                assert_eq!(&block.bytes()[..piece.len()], piece, "{len}");
            }
            scratch.persist().unwrap();
            assert_eq!(fs::read(folder.path().join("out")).unwrap(), content);
        }
    }

    #[test]
    fn a_dropped_scratch_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
        scratch.write_at(0, b"half").unwrap();
        drop(scratch);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn an_existing_file_needs_force() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        fs::write(&destination, b"old").unwrap();
        assert!(Scratch::create(&destination, Overwrite::Refuse).is_err());
        let scratch = Scratch::create(&destination, Overwrite::Replace).unwrap();
        scratch.write_at(0, b"new").unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"old");
        scratch.persist().unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        let scratch = Scratch::create(&destination, Overwrite::Refuse).unwrap();
        fs::write(&destination, b"theirs").unwrap();
        assert!(scratch.persist().is_err());
        assert_eq!(fs::read(&destination).unwrap(), b"theirs");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn leftovers_of_killed_programs_go_and_living_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        fs::write(folder.path().join(".out.1-0.trinart-partial"), b"left behind").unwrap();
        let living = Scratch::create(&destination, Overwrite::Refuse).unwrap();
        let second = Scratch::create(&destination, Overwrite::Refuse).unwrap();
        assert_ne!(living.path(), second.path());
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn writes_through_a_symbolic_link() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let scratch = Scratch::create(&link, Overwrite::Replace).unwrap();
        scratch.write_at(0, b"new").unwrap();
        scratch.persist().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        fs::remove_file(&target).unwrap();
        for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
            assert!(Scratch::create(&link, overwrite).unwrap_err().to_string().contains("leads to no file"));
        }
        assert_eq!(names(folder.path()), ["link"]);
    }
}
