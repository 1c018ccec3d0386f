//! Reads and writes that bypass the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file for direct I/O; `None` if the file system does not support it.
pub(super) fn open_direct(path: &Path) -> Option<File> {
    const DIRECT: i32 = OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(DIRECT).open(path).ok()
}

/// Returns whether the file system refuses direct I/O.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Reads until `out` is full or the file ends, and returns the number of bytes read.
pub(super) fn read_up_to(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
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
