//! The files of a folder and of all folders in it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What lies below a path.
#[derive(Debug, Default)]
pub struct Found {
    /// Files, in the order of their names.
    pub files: Vec<PathBuf>,
    /// Symbolic links, which are not followed: what they lead to may lie anywhere.
    pub links: usize,
    /// Folders that could not be read.
    pub errors: Vec<Error>,
}

/// Every file below a folder; of a path that is no folder, itself.
pub fn find(path: &Path) -> Found {
    let mut found = Found::default();
    if !path.is_dir() {
        found.files.push(path.to_owned());
        return found;
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        if let Err(error) = list(&folder, &mut folders, &mut found) {
            found.errors.push(error.in_file(&folder));
        }
    }
    found.files.sort();
    found
}

fn list(folder: &Path, folders: &mut Vec<PathBuf>, found: &mut Found) -> Result<()> {
    let fail = |error| Error::io("cannot list the folder", error);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_symlink() {
            found.links += 1;
        } else if kind.is_dir() {
            folders.push(entry.path());
        } else if kind.is_file() {
            found.files.push(entry.path());
        }
    }
    Ok(())
}

/// Whether a file's name promises a pickle.
pub(super) fn is_named_like_a_pickle(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| matches!(ending.as_str(), "ckpt" | "pickle" | "pkl" | "pt" | "pth"))
}

/// Whether a file's name promises a checkpoint, so that one that is none has to be spoken of.
pub fn is_named_like_a_checkpoint(path: &Path) -> bool {
    const ENDINGS: [&str; 16] = [
        "bin",
        "ckpt",
        "dat",
        "data",
        "joblib",
        "model",
        "npy",
        "npz",
        "pickle",
        "pkl",
        "pt",
        "pt2",
        "pth",
        "safetensors",
        "tar",
        "th",
    ];
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}
