use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

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
    path: PathBuf,
    destination: PathBuf,
    overwrite: Overwrite,
    persisted: bool,
}

const SUFFIX: &str = ".trinart-partial";

impl Scratch {
    /// An empty scratch file for `destination`. A destination that is a symbolic link means the file it points to.
    pub fn create(destination: &Path, overwrite: Overwrite) -> Result<Self> {
        let fail = |action: &str, error| Error::io(action, error).in_file(destination);
        Self::check_destination(destination, overwrite)?;
        let target = match fs::canonicalize(destination) {
            Ok(target) => target,
            Err(_) => destination.to_owned(),
        };
        let name =
            target.file_name().ok_or_else(|| Error::usage("the output needs a file name").in_file(destination))?;
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        remove_leftovers(&folder, name);
        // A leftover's cleaner may lock and remove our file between its creation and our lock; then try again.
        for attempt in 0..100_u32 {
            let path = folder.join(scratch_name(name, attempt));
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
                return Ok(Scratch { file, path, destination: target, overwrite, persisted: false });
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
            _ => Ok(()),
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

    /// Writes `bytes` at `offset`; any thread may.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
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
        if let Some(folder) = self.path.parent().and_then(|folder| File::open(folder).ok()) {
            let _ = folder.sync_all();
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

fn exists(destination: &Path) -> Error {
    Error::conflict("exists already; --force replaces it").in_file(destination)
}

/// `.NAME.PID-N.trinart-partial`, hidden, with as much of the name as leaves room within 255 bytes.
fn scratch_name(name: &OsStr, attempt: u32) -> OsString {
    let mut scratch = scratch_prefix(name);
    scratch.push(format!("{}-{attempt}{SUFFIX}", std::process::id()));
    scratch
}

fn scratch_prefix(name: &OsStr) -> OsString {
    let name: String = name.to_string_lossy().chars().take(48).collect();
    OsString::from(format!(".{name}."))
}

fn remove_leftovers(folder: &Path, name: &OsStr) {
    let prefix = scratch_prefix(name).to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        if found.starts_with(&prefix) && found.ends_with(SUFFIX) && is_abandoned(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether no living program holds the lock of this scratch file.
fn is_abandoned(path: &Path) -> bool {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    is_file && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
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
    }
}
