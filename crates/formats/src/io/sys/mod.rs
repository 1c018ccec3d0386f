//! What differs between operating systems: one set of functions, implemented for each of them.
//!
//! `unix` has what Linux and macOS share. The packages `formats` and `models` have no other conditions on the system.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(target_vendor = "apple")]
mod macos;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(any(target_os = "linux", target_os = "android"))]
use self::{linux as system, unix as family};
#[cfg(target_vendor = "apple")]
use self::{macos as system, unix as family};
#[cfg(windows)]
use self::{windows as system, windows as family};

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
compile_error!("the supported systems are Linux, macOS and Windows");

use std::fs::File;
use std::io;
use std::path::Path;

pub(super) use family::{
    Hold, RENAMES_OPEN_FOLDERS, check_name, check_replaceable, create_staged, discard, discard_folder, exchange,
    free_space, hold_folder, is_held, is_in_use, is_regular, lock_abandoned, move_to_free, open_input,
    permissions_to_keep, permissions_while_written, plain_canonicalize, release_pages, remove_file, rename,
    rename_folder, sync_folder, temporary_folder,
};
pub(crate) use family::{Identity, identity};
pub(super) use system::{create_nameless, link, open_uncached, prefetch, reserve, unreserve};

/// Returns whether a file system refuses I/O that bypasses the page cache.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Creates a file that is gone when it is closed, however the process ends, and that no other user may open.
pub(super) fn create_temporary(folder: &Path) -> io::Result<File> {
    family::create_temporary(create_nameless(folder).map(|(file, _)| file), folder)
}

/// Reads at an offset, once. Returns 0 at the end of the file.
pub(super) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    family::read_at(file, offset, out)
}

/// Reads until `out` is full or the file ends, and returns the number of bytes read.
pub(super) fn read_up_to(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = out.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match read_at(file, offset.saturating_add(count as u64), rest) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // At the end of the file the position is no longer aligned, and uncached reads there are refused.
            Err(error) if count > 0 && is_refusal(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Fills `out` with the bytes at `offset`. Fails with [`io::ErrorKind::UnexpectedEof`] if the file ends before.
pub(super) fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    if read_up_to(file, offset, out)? == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all_at(file: &File, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    let mut at = offset;
    while !bytes.is_empty() {
        match family::write_at(file, at, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                at = at.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
