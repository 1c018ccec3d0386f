//! The option `--vae-dir`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::exit::Exit;
use super::terminal::Terminal;
use crate::ops::{KnownVaes, vae_folder_of};
use trinart_ckpt_formats::error::Error;
use trinart_ckpt_formats::io::parallel;

/// The VAEs to identify others with.
pub(super) struct Vaes {
    /// `None` without a folder.
    pub(super) known: Option<KnownVaes>,
    /// Whether the command line names the folder, rather than the place of the inputs.
    pub(super) is_requested: bool,
}

/// Opens the VAEs in the folders, or without one those in the folder of VAEs of the WebUI in which the inputs lie. Prints an
/// error and returns the exit code for a path that is not a folder.
pub(super) fn read(folders: &[PathBuf], inputs: &[PathBuf], terminal: &Terminal) -> Result<Vaes, Exit> {
    let is_requested = !folders.is_empty();
    let folders: BTreeSet<PathBuf> = match is_requested {
        true => folders.iter().cloned().collect(),
        false => inputs.iter().filter_map(|input| vae_folder_of(input)).collect(),
    };
    let folders: Vec<PathBuf> = folders.into_iter().collect();
    let jobs = terminal.jobs().unwrap_or_else(parallel::default_jobs);
    let read = match folders.iter().find(|folder| !folder.is_dir()) {
        Some(folder) => Err(Error::usage("not a folder of VAEs").in_file(folder)),
        None if folders.is_empty() => return Ok(Vaes { known: None, is_requested }),
        None => KnownVaes::read(&folders, jobs, terminal),
    };
    read.map(|known| Vaes { known: Some(known), is_requested }).map_err(|error| {
        terminal.failure(&error);
        Exit::Error
    })
}
