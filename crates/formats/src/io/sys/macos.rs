//! What macOS does differently from Linux: its files always have a name, and all I/O goes through the page cache.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// `None`: all I/O goes through the page cache.
pub(crate) fn open_uncached(_: &Path) -> Option<File> {
    None
}

/// Does nothing: the system reads ahead by itself.
pub(crate) fn prefetch(_: &File, _: u64, _: u64) {}

/// Sets the length of a new file and allocates the space. `len` is not 0. Fails if the disk has too little.
pub(crate) fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // Without preallocation, a full disk is found while writing.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(len),
        other => Ok(other?),
    }
}

/// Does nothing: the space is free once the file is closed.
pub(crate) fn unreserve(_: &File, _: u64, _: u64) {}

/// `None`: a file needs a name.
pub(crate) fn create_nameless(_: &Path) -> Option<(File, PathBuf)> {
    None
}

/// Fails: [`create_nameless`] makes no file that needs a name.
pub(crate) fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
