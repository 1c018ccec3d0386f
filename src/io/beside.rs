//! What scratch files and scratch folders have in common: they lie beside their destination, under a hidden name that
//! tells whose they are, and go when their program has died.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const SUFFIX: &str = ".trinart-partial";

/// Where an output goes, following a symbolic link; the folder that is in, and its name there.
pub(super) fn resolve(destination: &Path) -> Result<(PathBuf, PathBuf, OsString)> {
    let target = fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
    let name = target.file_name().ok_or_else(|| Error::usage("the output needs a name").in_file(destination))?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = name.to_owned();
    Ok((target, folder, name))
}

/// `.NAME.PID-N.trinart-partial`, hidden, with as much of the name as leaves room within 255 bytes.
pub(super) fn scratch_name(name: &OsStr, attempt: u32) -> OsString {
    let mut scratch = prefix(name);
    scratch.push(format!("{}-{attempt}{SUFFIX}", std::process::id()));
    scratch
}

fn prefix(name: &OsStr) -> OsString {
    let name: String = name.to_string_lossy().chars().take(48).collect();
    OsString::from(format!(".{name}."))
}

/// Removes what killed programs left behind of this output.
pub(super) fn remove_leftovers(folder: &Path, name: &OsStr) {
    let prefix = prefix(name).to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (found, path) = (entry.file_name(), entry.path());
        let found = found.to_string_lossy();
        if !found.starts_with(&prefix) || !found.ends_with(SUFFIX) || !is_abandoned(&path) {
            continue;
        }
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// Whether no living program holds the lock of this scratch file or folder.
fn is_abandoned(path: &Path) -> bool {
    let is_real = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() || found.is_dir());
    is_real && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Forces the names in a folder to the disk; where folders cannot be synced they will be, a little later.
pub(super) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// The error of an output that is there already.
pub(super) fn exists(destination: &Path) -> Error {
    Error::conflict("exists already; --force replaces it").in_file(destination)
}
