//! The option `--vae-dir`.

use std::path::PathBuf;

use super::exit::Exit;
use super::terminal::Terminal;
use crate::ops::KnownVaes;
use trinart_ckpt_formats::error::Error;
use trinart_ckpt_formats::io::parallel;

/// Reads the VAEs in the folders; `None` without a folder. Prints an error and returns the exit code for a path
/// that is not a folder.
pub(super) fn read(folders: &[PathBuf], terminal: &Terminal) -> Result<Option<KnownVaes>, Exit> {
    if folders.is_empty() {
        return Ok(None);
    }
    let read = match folders.iter().find(|folder| !folder.is_dir()) {
        Some(folder) => Err(Error::usage("not a folder of VAEs").in_file(folder)),
        None => KnownVaes::read(folders, terminal.jobs().unwrap_or_else(parallel::default_jobs), terminal),
    };
    read.map(Some).map_err(|error| {
        terminal.failure(&error);
        Exit::Error
    })
}
