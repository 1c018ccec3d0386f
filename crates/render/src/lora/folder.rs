//! A folder with LoRAs.

use std::path::{Path, PathBuf};

use crate::files::files_under;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::{PyValue, StoredCheckpoint};

/// Extensions of LoRAs, as in WebUI.
const EXTENSIONS: [&str; 3] = ["safetensors", "pt", "ckpt"];

/// The metadata field with the name that a LoRA was trained under.
const ALIAS: &str = "ss_output_name";

/// The LoRAs in a folder and its subfolders.
pub(super) struct LoraFolder {
    path: PathBuf,
    files: Vec<PathBuf>,
}

impl LoraFolder {
    /// Lists a folder. Fails if it cannot be read, or if it is too large.
    pub(super) fn list(path: &Path) -> Result<Self> {
        let files = files_under(path, &EXTENSIONS)?;
        Ok(LoraFolder { path: path.to_owned(), files })
    }

    /// Returns the LoRA of a name: the file name without its extension or, if no file has that name, `ss_output_name` in
    /// its metadata. Fails unless there is exactly one.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf> {
        let has_name = |path: &&PathBuf| path.file_stem().is_some_and(|stem| stem == name);
        let mut found: Vec<&PathBuf> = self.files.iter().filter(has_name).collect();
        if found.is_empty() {
            found = self.files.iter().filter(|path| alias(path).is_some_and(|alias| alias == name)).collect();
        }
        match found.as_slice() {
            [path] => Ok((*path).clone()),
            [] => Err(Error::missing(format!("no LoRA is named {name:?}")).in_file(&self.path)),
            [first, second, ..] => {
                let (first, second) = (first.display(), second.display());
                let message = format!("several LoRAs are named {name:?}: {first} and {second}; rename one of them");
                Err(Error::usage(message).in_file(&self.path))
            }
        }
    }
}

/// The name that a LoRA was trained under. `None` for unreadable files, which are not the one that is looked for.
fn alias(path: &Path) -> Option<String> {
    let checkpoint = StoredCheckpoint::open(path).ok()?;
    match checkpoint.metadata().get(ALIAS)? {
        PyValue::Str(alias) => Some(alias.clone()),
        _ => None,
    }
}
