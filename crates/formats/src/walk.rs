//! The files of a folder and its subfolders.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::{Identity, identity};
use crate::limits;

/// The files below a path, each once, whatever number of links lead to it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// Files, sorted by path.
    pub files: Vec<PathBuf>,
    /// Number of sockets, pipes and devices.
    pub special: usize,
    /// Errors of folders that could not be read, and of links that lead nowhere.
    pub errors: Vec<Error>,
}

/// What was listed so far.
#[derive(Default)]
struct Lister {
    listing: Listing,
    /// The path by which each file is listed.
    files: HashMap<Identity, PathBuf>,
    folders: HashSet<Identity>,
    /// The folder that is listed, without links.
    root: PathBuf,
    /// Folders to list.
    pending: Vec<PathBuf>,
}

/// Lists every file below a folder. Follows symbolic links. A path that is not a folder is listed itself.
pub fn list_files(path: &Path) -> Listing {
    if !path.is_dir() {
        return Listing { files: vec![path.to_owned()], ..Listing::default() };
    }
    // A folder that cannot be resolved cannot be listed, either.
    let mut lister = Lister { root: path.canonicalize().unwrap_or_default(), ..Lister::default() };
    if let Err(error) = lister.add(path.to_owned()) {
        lister.listing.errors.push(error.in_file(path));
    }
    while let Some(folder) = lister.pending.pop() {
        if let Err(error) = lister.list(&folder) {
            lister.listing.errors.push(error.in_file(&folder));
        }
    }
    let Lister { mut listing, files, .. } = lister;
    listing.files = files.into_values().collect();
    listing.files.sort();
    listing
}

impl Lister {
    fn list(&mut self, folder: &Path) -> Result<()> {
        let fail = |error| Error::io("cannot list the folder", error);
        for entry in fs::read_dir(folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if self.files.len() == limits::SCAN_FILES {
                let found = format!("more files than the limit of {}; the rest was not scanned", limits::SCAN_FILES);
                self.pending.clear();
                return Err(Error::limit(found));
            }
            if let Err(error) = self.add(path.clone()) {
                self.listing.errors.push(error.in_file(&path));
            }
        }
        Ok(())
    }

    /// Whether a link leads out of the folder that is listed, to one that contains it.
    fn is_above(&self, link: &Path) -> bool {
        link.canonicalize().is_ok_and(|target| target != self.root && self.root.starts_with(target))
    }

    /// Adds a file, or a folder to list, unless it was added before by another path.
    fn add(&mut self, path: PathBuf) -> Result<()> {
        let is_link = path.is_symlink();
        let what = if is_link { "cannot follow the link" } else { "cannot read" };
        let fail = |error| Error::io(what, error);
        let metadata = fs::metadata(&path).map_err(fail)?;
        let identity = identity(&path).map_err(fail)?;
        if metadata.is_dir() {
            if is_link && self.is_above(&path) {
                return Err(Error::unsupported(
                    "the link leads to a folder that contains the one being scanned; it was not followed",
                ));
            }
            if self.folders.insert(identity) {
                self.pending.push(path);
            }
        } else if !metadata.is_file() {
            self.listing.special += 1;
        } else {
            match self.files.entry(identity) {
                Entry::Vacant(entry) => drop(entry.insert(path)),
                // The name that tells most: caches link names to files that are named by hash.
                Entry::Occupied(mut entry) => {
                    let rank = |path: &PathBuf| (path.extension().is_none(), path.clone());
                    if rank(&path) < rank(entry.get()) {
                        entry.insert(path);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether the file's extension is one of pickles.
pub(super) fn is_named_like_a_pickle(path: &Path) -> bool {
    has_extension(path, &["bin", "ckpt", "dill", "joblib", "p", "pickle", "pkl", "pt", "pth", "sav", "th"])
}

/// Whether the file's extension is one that only checkpoints and arrays have. In a folder, such a file is reported even if
/// it is not one. Tokenizers and other data have `.bin` and `.model`, too.
pub fn is_named_like_a_checkpoint(path: &Path) -> bool {
    const EXTENSIONS: [&str; 12] =
        ["ckpt", "dill", "joblib", "npy", "npz", "pickle", "pkl", "pt", "pt2", "pth", "safetensors", "sft"];
    has_extension(path, &EXTENSIONS)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}
