//! What Linux alone can do.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, OFlags};
use rustix::io::Errno;

/// Opens a file for I/O that bypasses the page cache; `None` if the file system does not support it.
pub(crate) fn open_uncached(path: &Path) -> Option<File> {
    const DIRECT: i32 = OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(DIRECT).open(path).ok()
}

/// Asks the system to read a range ahead. Returns at once.
pub(crate) fn prefetch(file: &File, offset: u64, len: u64) {
    // Only advice: if it fails, the later read takes longer.
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(len), Advice::WillNeed);
}

/// Sets the length of a new file and allocates the space. `len` is not 0. Fails if the disk has too little.
pub(crate) fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // Without preallocation, a full disk is found while writing.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(len),
        other => Ok(other?),
    }
}

/// Gives the disk space of a part of a file back, where the file system can do that.
pub(crate) fn unreserve(file: &File, offset: u64, len: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = rustix::fs::fallocate(file, flags, offset, len.max(1));
}

/// Creates a file without a name in a folder, and returns it with the path by which this process can open it: nothing is left
/// of it if the process is killed. `None` if the file system or the system does not support that.
pub(crate) fn create_nameless(folder: &Path) -> Option<(File, PathBuf)> {
    const TMPFILE: i32 = OFlags::TMPFILE.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(TMPFILE).open(folder).ok()?;
    // Locked for the moment between its first name and the last, see `link`.
    file.try_lock().ok()?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let is_reachable =
        fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|ours| ours.ino() == found.ino()));
    is_reachable.then_some((file, path))
}

/// Gives a nameless file, by its path for this process, a name. Fails if the name is taken.
pub(crate) fn link(nameless: &Path, name: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(CWD, nameless, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}
