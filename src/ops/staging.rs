use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use trinart_ckpt_formats::{Error, Result};

/// A temporary folder for outputs that go to an address. It is removed at the end.
pub(super) struct Staging {
    folder: PathBuf,
}

impl Staging {
    /// Creates a folder in `TMPDIR`.
    pub(super) fn new() -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("trinart-ckpt-{}-{number}", std::process::id()));
        // Fails if something is there: nothing of others is used or removed.
        let created = fs::create_dir(&folder);
        created.map_err(|error| Error::io("cannot create a temporary folder", error).in_file(&folder))?;
        Ok(Staging { folder })
    }

    /// The path of an output in the folder, under its own name.
    pub(super) fn path_of(&self, output: &Path) -> Result<PathBuf> {
        let name = output.file_name().ok_or_else(|| Error::usage("the address has no file name").in_file(output))?;
        Ok(self.folder.join(name))
    }

    /// Names the output in an error about the file in the folder.
    pub(super) fn naming(&self, output: &Path, error: Error) -> Error {
        match output.parent() {
            Some(parent) => error.relocated(&self.folder, parent),
            None => error,
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed is a temporary file of the system.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
