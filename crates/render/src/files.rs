//! Lists files.

use std::fs;
use std::path::{Path, PathBuf};

use trinart_ckpt_formats::error::{Error, Result};

/// Maximum depth of subfolders.
const DEPTH: usize = 16;

/// Maximum number of files and subfolders.
const ENTRIES: usize = 100_000;

/// Lists the files with these extensions in a folder and its subfolders, sorted by path.
///
/// Fails if a folder cannot be read, or if there are too many.
pub(crate) fn files_under(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders, mut count) = (Vec::new(), vec![(path.to_owned(), 0)], 0_usize);
    while let Some((folder, depth)) = folders.pop() {
        let fail = |error| Error::io("cannot read", error).in_file(&folder);
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            count += 1;
            if count > ENTRIES || depth > DEPTH {
                return Err(Error::limit("too many files or subfolders").in_file(path));
            }
            let extension = path.extension().map(|it| it.to_string_lossy().to_lowercase()).unwrap_or_default();
            if path.is_dir() {
                folders.push((path, depth + 1));
            } else if extensions.contains(&extension.as_str()) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
