use std::path::{Path, PathBuf};

use tempfile::TempDir;

use trinart_ckpt_formats::{Error, Result};

/// A temporary folder for outputs that go to an address. It is removed at the end.
pub(super) struct Staging {
    folder: TempDir,
}

impl Staging {
    /// Creates a folder in `TMPDIR`.
    pub(super) fn new() -> Result<Self> {
        let created = tempfile::Builder::new().prefix("trinart-ckpt-").tempdir();
        let folder = created.map_err(|error| Error::io("cannot create a temporary folder", error))?;
        Ok(Staging { folder })
    }

    /// The path of an output in the folder, under its own name.
    pub(super) fn path_of(&self, output: &Path) -> Result<PathBuf> {
        let name = output.file_name().ok_or_else(|| Error::usage("the address has no file name").in_file(output))?;
        Ok(self.folder.path().join(name))
    }

    /// Names the output in an error about the file in the folder.
    pub(super) fn naming(&self, output: &Path, error: Error) -> Error {
        match output.parent() {
            Some(parent) => error.relocated(self.folder.path(), parent),
            None => error,
        }
    }
}
