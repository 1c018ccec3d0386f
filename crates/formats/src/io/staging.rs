//! Shared parts of [`AtomicFile`](super::AtomicFile) and [`AtomicFolder`](super::AtomicFolder): hidden names next to the
//! destination, and the removal of what killed processes left behind.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::error::{Error, Hint, Result};

/// Names to try: other processes may have taken some, or remove a file of that name as a leftover before it is locked.
pub(super) const ATTEMPTS: u32 = 1000;

const SUFFIX: &str = ".trinart-partial";

/// Resolves a destination, following symbolic links. Returns its path, its parent folder and its file name.
pub(super) fn resolve(destination: &Path) -> Result<(PathBuf, PathBuf, OsString)> {
    // A destination that does not exist yet cannot be canonicalized; its path is used unchanged.
    let target = fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
    let name = target.file_name().ok_or_else(|| Error::usage("the output has no file name").in_file(destination))?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = name.to_owned();
    Ok((target, folder, name))
}

/// Fails if a destination that does not exist cannot be created: it is a dangling symbolic link, or its parent folder does
/// not exist or is not a folder.
pub(super) fn check_parent(destination: &Path) -> Result<()> {
    // Creating the target would be a guess, and replacing the link would lose it.
    if fs::symlink_metadata(destination).is_ok_and(|found| found.is_symlink()) {
        return Err(Error::conflict("a symbolic link whose target does not exist").in_file(destination));
    }
    let (_, folder, _) = resolve(destination)?;
    let shown = folder.display();
    let error = match fs::metadata(&folder) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => Error::conflict(format!("{shown} is not a folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Error::missing(format!("the folder {shown} does not exist"))
        }
        Err(error) => Error::io(&format!("cannot access the folder {shown}"), error),
    };
    Err(error.in_file(destination))
}

/// Returns `.NAME.PID-N.trinart-partial`, with NAME cut so that the result fits in 255 bytes. No two calls in a process
/// return the same.
pub(super) fn staging_name(name: &OsStr) -> OsString {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut staging = prefix(name);
    staging.push(format!("{}-{}{SUFFIX}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed)));
    staging
}

fn prefix(name: &OsStr) -> OsString {
    let name: String = name.to_string_lossy().chars().take(48).collect();
    OsString::from(format!(".{name}."))
}

/// Creates a file without a name in a folder, and returns it with the path by which this process can open it: nothing is left
/// of it if the process is killed. `None` if the file system or the system does not support that.
pub(super) fn create_nameless(folder: &Path) -> Option<(File, PathBuf)> {
    const TMPFILE: i32 = OFlags::TMPFILE.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(TMPFILE).open(folder).ok()?;
    // Locked for the moment between its first name and the last, see `link`.
    file.try_lock().ok()?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let is_reachable =
        fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|ours| ours.ino() == found.ino()));
    is_reachable.then_some((file, path))
}

/// Removes the staging files and folders that killed processes left for this destination.
///
/// Best effort: a leftover that cannot be removed costs disk space, not correctness.
pub(super) fn remove_leftovers(folder: &Path, name: &OsStr) {
    let prefix = prefix(name).to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (found, path) = (entry.file_name(), entry.path());
        let found = found.to_string_lossy();
        if found.starts_with(&prefix)
            && found.ends_with(SUFFIX)
            && let Some(_lock) = lock_abandoned(&path)
        {
            remove(&path);
        }
    }
}

/// Removes a staging file or folder. Best effort, see [`remove_leftovers`].
pub(super) fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Locks a staging file or folder. Returns `None` if a running process holds the lock, or if the path is neither.
///
/// The lock must be held during the removal: the process that creates a file of this name then sees that it was removed.
fn lock_abandoned(path: &Path) -> Option<File> {
    fs::symlink_metadata(path).ok().filter(|found| found.is_file() || found.is_dir())?;
    // Between the opening and the lock, another process may have removed the file, and a third one may have created a file of
    // the same name.
    File::open(path).ok().filter(|file| file.try_lock().is_ok() && is_at(file, path))
}

/// Returns whether the path still leads to an open file or folder.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

/// Flushes a folder's entries to the disk.
///
/// Best effort: some file systems cannot sync a folder and flush it later by themselves.
pub(super) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// The error for a destination that exists and must not be replaced.
pub(super) fn exists(destination: &Path) -> Error {
    Error::conflict("already exists").with_hint(Hint::Overwrite).in_file(destination)
}
