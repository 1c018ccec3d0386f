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

/// A LoRA or an embedding that a prompt loads.
#[derive(Debug, Clone)]
pub(crate) struct UsedNetwork {
    pub(crate) kind: NetworkKind,
    /// The name that the prompt uses.
    pub(crate) name: String,
    /// WebUI's hash: twelve digits.
    pub(crate) hash: String,
    pub(crate) path: PathBuf,
}

/// A kind of networks that prompts load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkKind {
    Embedding,
    Lora,
}

impl NetworkKind {
    pub(crate) const ALL: [NetworkKind; 2] = [NetworkKind::Embedding, NetworkKind::Lora];

    /// The field of the parameters with the names and hashes, as WebUI writes it.
    pub(crate) fn field(self) -> &'static str {
        match self {
            NetworkKind::Embedding => "TI hashes",
            NetworkKind::Lora => "Lora hashes",
        }
    }

    /// How a model site's extension begins the names of its files.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            NetworkKind::Embedding => "embed",
            NetworkKind::Lora => "lora",
        }
    }
}
