//! The files of a folder and its subfolders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files below a path.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// Files, sorted by path.
    pub files: Vec<PathBuf>,
    /// Number of symbolic links. They are not followed because they may lead out of the folder.
    pub links: usize,
    /// Errors of folders that could not be read.
    pub errors: Vec<Error>,
}

/// Lists every file below a folder. A path that is not a folder is listed itself.
pub fn list_files(path: &Path) -> Listing {
    let mut listing = Listing::default();
    if !path.is_dir() {
        listing.files.push(path.to_owned());
        return listing;
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        if let Err(error) = list(&folder, &mut folders, &mut listing) {
            listing.errors.push(error.in_file(&folder));
        }
    }
    listing.files.sort();
    listing
}

fn list(folder: &Path, folders: &mut Vec<PathBuf>, listing: &mut Listing) -> Result<()> {
    let fail = |error| Error::io("cannot list the folder", error);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_symlink() {
            listing.links += 1;
        } else if kind.is_dir() {
            folders.push(entry.path());
        } else if kind.is_file() {
            listing.files.push(entry.path());
        }
    }
    Ok(())
}

/// Whether the file's extension is one of pickles.
pub(super) fn is_named_like_a_pickle(path: &Path) -> bool {
    has_extension(path, &["ckpt", "pickle", "pkl", "pt", "pth"])
}

/// Whether the file's extension is one of checkpoints. In a folder, such a file is reported even if it is not one.
pub fn is_named_like_a_checkpoint(path: &Path) -> bool {
    const EXTENSIONS: [&str; 16] = [
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
    has_extension(path, &EXTENSIONS)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}
