use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FallocateFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::direct::{is_refusal, open_direct, read_up_to};
use crate::io::staging::{
    ATTEMPTS, check_parent, create_nameless, exists, is_at, remove, remove_leftovers, resolve, staging_name,
    sync_folder,
};
use crate::io::{AlignedBuffer, Overwrite};

/// A file that replaces its destination in one step, or not at all.
///
/// It is written without a name in the destination's folder, synced, then given one; where the file system requires names,
/// under a hidden one. Dropping it before [`AtomicFile::persist`] removes it. A named file is locked while its process runs:
/// the next [`AtomicFile::create`] for the same destination removes unlocked leftovers of killed processes.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    /// The same file opened for direct I/O; `None` if the file system does not support it.
    direct: Option<File>,
    /// Serializes writes through the page cache: the kernel admits one thread at a time and lets the others spin.
    buffered_write: Mutex<()>,
    path: PathBuf,
    /// Whether `path` is a name in the folder, and not one of this process only.
    is_named: bool,
    destination: PathBuf,
    overwrite: Overwrite,
    persisted: bool,
}

impl AtomicFile {
    /// Creates an empty file for `destination`. If that is a symbolic link, the file it points to is replaced. A file that is
    /// replaced gives its permissions to the new one.
    ///
    /// Fails as [`AtomicFile::check_destination`] does, or if the folder is not writable.
    pub fn create(destination: &Path, overwrite: Overwrite) -> Result<Self> {
        Self::create_by(destination, overwrite, create_nameless)
    }

    /// Creates the file with `nameless`, or under a hidden name if that returns none.
    fn create_by(
        destination: &Path,
        overwrite: Overwrite,
        nameless: impl FnOnce(&Path) -> Option<(File, PathBuf)>,
    ) -> Result<Self> {
        let fail = |action: &str, error| Error::io(action, error).in_file(destination);
        Self::check_destination(destination, overwrite)?;
        let (target, folder, name) = resolve(destination)?;
        remove_leftovers(&folder, &name);
        let made = |file: File, path: PathBuf, is_named: bool| {
            let direct = open_direct(&path);
            let created = AtomicFile {
                direct,
                file,
                buffered_write: Mutex::new(()),
                path,
                is_named,
                destination: target.clone(),
                overwrite,
                persisted: false,
            };
            // Users who may not read the old content may not read the new one either, also not while it is written.
            if let Some(mode) = created.mode_of_destination() {
                created.set_mode(mode | 0o600)?;
            }
            Ok(created)
        };
        if let Some((file, path)) = nameless(&folder) {
            return made(file, path, false);
        }
        // A concurrent process may remove the file as a leftover before it is locked here. Then retry.
        for _ in 0..ATTEMPTS {
            let path = folder.join(staging_name(&name));
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
            // Whether the file was not removed before it was locked.
            if is_at(&file, &path) {
                return made(file, path, true);
            }
        }
        Err(Error::conflict("no free name for a temporary file next to it").in_file(destination))
    }

    /// The permissions of the file that is replaced, if there is one.
    fn mode_of_destination(&self) -> Option<u32> {
        let found = fs::metadata(&self.destination).ok().filter(|_| self.overwrite == Overwrite::Replace)?;
        Some(found.mode() & 0o777)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        let set = self.file.set_permissions(fs::Permissions::from_mode(mode));
        set.map_err(|error| Error::io("cannot set the permissions", error).in_file(&self.destination))
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

    /// The temporary path of the content. Only this process can open it.
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
        if let Some(mode) = self.mode_of_destination() {
            self.set_mode(mode)?;
        }
        if !self.is_named {
            match self.link() {
                Ok(true) => return self.finish(),
                Ok(false) => {}
                Err(error) => return Err(self.persist_error(error)),
            }
        }
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
        renamed.map_err(|error| self.persist_error(error))?;
        self.finish()
    }

    /// Gives a nameless file a name: that of the destination if it is free, else a temporary one. Returns whether it is the
    /// destination.
    fn link(&mut self) -> io::Result<bool> {
        let here = rustix::fs::CWD;
        let link = |path: &Path| rustix::fs::linkat(here, &self.path, here, path, AtFlags::SYMLINK_FOLLOW);
        match link(&self.destination) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) if self.overwrite == Overwrite::Replace => {}
            Err(errno) => return Err(errno.into()),
        }
        // Only a rename replaces a file. The lock protects the name from other processes until then.
        let (folder, name) = (self.destination.parent(), self.destination.file_name());
        let (Some(folder), Some(name)) = (folder, name) else { return Err(io::ErrorKind::InvalidInput.into()) };
        for _ in 0..ATTEMPTS {
            let path = folder.join(staging_name(name));
            match link(&path) {
                Ok(()) => {
                    (self.path, self.is_named) = (path, true);
                    return Ok(false);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn persist_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.destination),
            _ => Error::io("cannot move the finished file into place", error).in_file(&self.destination),
        }
    }

    fn finish(mut self) -> Result<()> {
        self.persisted = true;
        if let Some(folder) = self.destination.parent() {
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
        if !self.persisted && self.is_named {
            remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
