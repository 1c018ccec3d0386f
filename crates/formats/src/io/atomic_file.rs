use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::io::staging::{
    ATTEMPTS, check_in_use, check_name, check_parent, exists, recover, replace_error, replace_in_two_steps, resolve,
    staging_name,
};
use crate::io::{AlignedBuffer, Overwrite, sys};

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
        Self::create_by(destination, overwrite, sys::create_nameless)
    }

    /// Creates the file with `nameless`, or under a hidden name if that returns none.
    fn create_by(
        destination: &Path,
        overwrite: Overwrite,
        nameless: impl FnOnce(&Path) -> Option<(File, PathBuf)>,
    ) -> Result<Self> {
        Self::check_destination(destination, overwrite)?;
        let (target, folder, name) = resolve(destination)?;
        recover(&folder, &name);
        // An old file may be back in its place.
        Self::check_destination(destination, overwrite)?;
        let made = |file: File, path: PathBuf, is_named: bool| {
            let direct = sys::open_uncached(&path);
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
            let keep = created.permissions_to_keep();
            if let Some(permissions) = keep.as_ref().and_then(sys::permissions_while_written) {
                created.set_permissions(permissions)?;
            }
            Ok(created)
        };
        if let Some((file, path)) = nameless(&folder) {
            return made(file, path, false);
        }
        for _ in 0..ATTEMPTS {
            let path = folder.join(staging_name(&name));
            let staged = sys::create_staged(&path);
            let staged = staged
                .map_err(|error| Error::io("cannot create a temporary file next to it", error).in_file(destination))?;
            if let Some(file) = staged {
                return made(file, path, true);
            }
        }
        Err(Error::conflict("no free name for a temporary file next to it").in_file(destination))
    }

    /// The permissions of the file that is replaced, if there is one.
    fn permissions_to_keep(&self) -> Option<Permissions> {
        let found = fs::metadata(&self.destination).ok().filter(|_| self.overwrite == Overwrite::Replace)?;
        Some(sys::permissions_to_keep(&found))
    }

    fn set_permissions(&self, permissions: Permissions) -> Result<()> {
        let set = self.file.set_permissions(permissions);
        set.map_err(|error| Error::io("cannot set the permissions", error).in_file(&self.destination))
    }

    /// Fails if `destination` must not be written: it exists and `overwrite` refuses to replace it, it is not a regular
    /// file, it is a dangling symbolic link, its parent folder does not exist, or its name is not one of a file. On Windows,
    /// fails also if another program has it open in a way that prevents its replacement.
    pub fn check_destination(destination: &Path, overwrite: Overwrite) -> Result<()> {
        check_name(destination)?;
        match fs::metadata(destination) {
            Ok(found) if !found.is_file() => {
                Err(Error::conflict("exists and is not a regular file").in_file(destination))
            }
            Ok(_) if overwrite == Overwrite::Refuse => Err(exists(destination)),
            Ok(_) => check_in_use(destination),
            Err(_) => check_parent(destination),
        }
    }

    /// Writes a whole file to the disk, which replaces the destination when it is persisted. Fails as [`Self::create`] does, or
    /// if the disk is full.
    pub fn stage(destination: &Path, overwrite: Overwrite, bytes: &[u8]) -> Result<Self> {
        let file = Self::create(destination, overwrite)?;
        file.reserve(bytes.len() as u64)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        Ok(file)
    }

    /// Writes a whole file under its final name. Fails as [`Self::stage`] and [`Self::persist`] do.
    pub fn write(destination: &Path, overwrite: Overwrite, bytes: &[u8]) -> Result<()> {
        Self::stage(destination, overwrite, bytes)?.persist()
    }

    /// Sets the file's length to `len` bytes and allocates the space. Fails if the disk has too little.
    pub fn reserve(&self, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        sys::reserve(&self.file, len).map_err(|error| self.write_error(error))
    }

    /// Writes the first `len` bytes of `buffer` at `offset`, a multiple of [`AlignedBuffer::LEN`]. Callable from any
    /// thread.
    ///
    /// Bypasses the page cache where possible: a file of gigabytes would evict useful pages, and allocating pages for it
    /// costs more than the disk does.
    pub(crate) fn write_block(&self, offset: u64, buffer: &AlignedBuffer, len: usize) -> Result<()> {
        let (whole, rest) = buffer.slice(0..len)?.split_at(AlignedBuffer::align_down(len));
        let rest_offset = offset + whole.len() as u64;
        match self.direct.as_ref().map(|direct| sys::write_all_at(direct, offset, whole)) {
            Some(Ok(())) => {}
            None => self.write_at(offset, whole)?,
            // Some file systems accept the flag on open and refuse the first write.
            Some(Err(error)) if sys::is_refusal(&error) => self.write_at(offset, whole)?,
            Some(Err(error)) => return Err(self.write_error(error)),
        }
        if rest.is_empty() { Ok(()) } else { self.write_at(rest_offset, rest) }
    }

    /// Reads `len` bytes at `offset`, a multiple of [`AlignedBuffer::LEN`], into the start of `buffer`. Reads from the
    /// disk rather than from the page cache where possible.
    pub(crate) fn read_block(&self, offset: u64, buffer: &mut AlignedBuffer, len: usize) -> Result<()> {
        if let Some(direct) = &self.direct {
            match sys::read_up_to(direct, offset, buffer.bytes_mut()) {
                Ok(count) if count >= len => return Ok(()),
                Ok(_) => {
                    return Err(
                        Error::unverified("the written file is shorter than planned").in_file(&self.destination)
                    );
                }
                Err(error) if sys::is_refusal(&error) => {}
                Err(error) => return Err(Error::io("cannot read the output back", error).in_file(&self.destination)),
            }
        }
        let read = sys::read_exact_at(&self.file, offset, buffer.slice_mut(0..len)?);
        read.map_err(|error| Error::io("cannot read the output back", error).in_file(&self.destination))
    }

    /// Writes `bytes` at `offset`. Callable from any thread.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let _one_at_a_time = self.buffered_write.lock().unwrap_or_else(PoisonError::into_inner);
        sys::write_all_at(&self.file, offset, bytes).map_err(|error| self.write_error(error))
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
    /// Fails if the destination has appeared meanwhile and must not be replaced, or if a program has it open and the system
    /// does not replace open files.
    pub fn persist(mut self) -> Result<()> {
        if let Some(permissions) = self.permissions_to_keep() {
            self.set_permissions(permissions)?;
        }
        if !self.is_named {
            match self.link() {
                Ok(true) => return self.finish(),
                Ok(false) => {}
                Err(error) => return Err(self.persist_error(error)),
            }
        }
        let replaces = self.overwrite == Overwrite::Replace;
        let rename = || sys::rename(&self.file, &self.path, &self.destination, replaces);
        let renamed = match rename() {
            Err(error) if replaces && sys::is_in_use(&error) => replace_in_two_steps(&self.destination, rename),
            other => other,
        };
        renamed.map_err(|error| self.persist_error(error))?;
        self.finish()
    }

    /// Gives a nameless file a name: that of the destination if it is free, else a temporary one. Returns whether it is the
    /// destination.
    fn link(&mut self) -> io::Result<bool> {
        match sys::link(&self.path, &self.destination) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.overwrite == Overwrite::Replace => {}
            Err(error) => return Err(error),
        }
        // Only a rename replaces a file. The lock protects the name from other processes until then.
        let (folder, name) = (self.destination.parent(), self.destination.file_name());
        let (Some(folder), Some(name)) = (folder, name) else { return Err(io::ErrorKind::InvalidInput.into()) };
        for _ in 0..ATTEMPTS {
            let path = folder.join(staging_name(name));
            match sys::link(&self.path, &path) {
                Ok(()) => {
                    (self.path, self.is_named) = (path, true);
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn persist_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.destination),
            _ => replace_error("cannot move the finished file into place", error, &self.destination),
        }
    }

    fn finish(mut self) -> Result<()> {
        self.persisted = true;
        if let Some(folder) = self.destination.parent() {
            sys::sync_folder(folder);
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
            // Best effort: the next run for this destination tries again.
            let _ = sys::discard(&self.file, &self.path);
        }
    }
}

#[cfg(test)]
mod tests;
