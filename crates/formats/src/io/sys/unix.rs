//! What Linux and macOS share.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

/// Whether a folder can be renamed while files in it are open.
pub(crate) const RENAMES_OPEN_FOLDERS: bool = true;

pub(crate) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    file.read_at(out, offset)
}

pub(crate) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    file.write_at(bytes, offset)
}

/// Opens a file for reading. Does not wait if a pipe has replaced it.
pub(crate) fn open_input(path: &Path) -> io::Result<File> {
    const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)
}

/// Returns whether an open file is a regular one.
pub(crate) fn is_regular(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.is_file())
}

/// The identity of a file or folder: its device and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u64, u64);

fn identity_in(found: &Metadata) -> Identity {
    Identity(found.dev(), found.ino())
}

/// Returns the identity of the file or folder that a path leads to. Follows symbolic links.
pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|found| identity_in(&found))
}

/// Removes the pages of a mapping from this process's memory. They are read again when needed.
pub(crate) fn release_pages(map: &Mmap) {
    // SAFETY: the mapping is of a file and read-only, so no content is lost.
    let advised = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
    // Only advice: if it fails, the process needs more memory.
    let _ = advised;
}

/// The folder for temporary files, unless the user names one: `/var/tmp`, which unlike `/tmp` is on a disk.
pub(crate) fn temporary_folder() -> PathBuf {
    if Path::new("/var/tmp").is_dir() { "/var/tmp".into() } else { std::env::temp_dir() }
}

/// Makes a file without a name one that no other user may read. Without such a file, creates one and removes its name.
pub(crate) fn create_temporary(nameless: Option<File>, folder: &Path) -> io::Result<File> {
    if let Some(file) = nameless {
        file.set_permissions(Permissions::from_mode(0o600))?;
        return Ok(file);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    for attempt in 0..100_u32 {
        let path = folder.join(format!(".trinart-spill-{}-{attempt}", std::process::id()));
        match options.open(&path) {
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Returns the free bytes on the disk of an open file. `_folder` is the folder of the file.
pub(crate) fn free_space(file: &File, _folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::fstatvfs(file)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Resolves symbolic links.
pub(crate) fn plain_canonicalize(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// Fails if the system would not create a file of this name. Any name is possible here.
pub(crate) fn check_name(_: &str) -> Result<(), &'static str> {
    Ok(())
}

/// Fails if an existing destination cannot be replaced at present. Open files can be, here.
pub(crate) fn check_replaceable(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns whether an operation has failed because another program has a file open. It never does here.
pub(crate) fn is_held(_: &io::Error) -> bool {
    false
}

/// Returns whether an operation may have failed because a file is open. It never does here.
pub(crate) fn is_in_use(_: &io::Error) -> bool {
    false
}

/// The permissions that a new file takes over from the one that it replaces.
pub(crate) fn permissions_to_keep(replaced: &Metadata) -> Permissions {
    Permissions::from_mode(replaced.mode() & 0o777)
}

/// The permissions of a file while it is written, if it is going to have those of `keep`: users who may not read the old
/// content may not read the new one either.
pub(crate) fn permissions_while_written(keep: &Permissions) -> Option<Permissions> {
    Some(Permissions::from_mode(keep.mode() | 0o600))
}

/// Creates a file under a temporary name, and locks it: [`lock_abandoned`] fails for it while this process runs. `None` if
/// another process has taken the name or removed the file: then try another name.
pub(crate) fn create_staged(path: &Path) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        other => other?,
    };
    // A concurrent process may have removed the file as a leftover before it was locked here. On a file system without
    // locks, leftovers are not recognized and stay.
    let is_locked = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    Ok((is_locked && is_at(&file, path)).then_some(file))
}

/// An open folder, locked so that other processes do not remove it as a leftover. Without a file if it cannot be opened.
#[derive(Debug)]
pub(crate) struct Hold(Option<File>);

/// Locks a new folder, as [`create_staged`] does.
pub(crate) fn hold_folder(path: &Path) -> Option<Hold> {
    let lock = File::open(path).ok();
    if let Some(Err(TryLockError::WouldBlock)) = lock.as_ref().map(File::try_lock) {
        return None;
    }
    lock.as_ref().map_or_else(|| path.is_dir(), |lock| is_at(lock, path)).then_some(Hold(lock))
}

/// Locks a temporary file or folder that another process has left. Returns `None` if the process runs.
///
/// The lock must be held during the removal: the process that creates a file of this name then sees that it was removed.
pub(crate) fn lock_abandoned(path: &Path) -> Option<File> {
    // Between the opening and the lock, another process may have removed the file, and a third one may have created a file of
    // the same name.
    File::open(path).ok().filter(|file| file.try_lock().is_ok() && is_at(file, path))
}

/// Returns whether the path still leads to an open file or folder.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(found)) => identity_in(&open) == identity_in(&found),
        _ => false,
    }
}

/// Removes an open temporary file.
pub(crate) fn discard(_: &File, path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Removes a temporary folder with all that is in it.
pub(crate) fn discard_folder(hold: Option<Hold>, path: &Path) -> io::Result<()> {
    let removed = fs::remove_dir_all(path);
    drop(hold.and_then(|Hold(lock)| lock));
    removed
}

/// Removes a file, whatever its permissions.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Renames an open file in one step, and replaces the file of that name if `replace` allows it.
pub(crate) fn rename(_: &File, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace { fs::rename(from, to) } else { move_to_free(from, to) }
}

/// Renames a file or folder. Fails if the new name is taken.
pub(crate) fn move_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system lacks the flag: check, then rename.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        other => Ok(other?),
    }
}

/// Renames a folder in one step, and replaces an empty folder of that name. Fails if it is not empty.
pub(crate) fn rename_folder(_: Option<&Hold>, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Exchanges two folders in one step. Fails with [`io::ErrorKind::Unsupported`] if the file system cannot do that.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
        other => Ok(other?),
    }
}

/// Flushes a folder's entries to the disk.
///
/// Best effort: some file systems cannot sync a folder and flush it later by themselves.
pub(crate) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
