use std::path::Path;

use super::Exit;
use super::args::Hash;
use super::each::{Names, each};
use super::terminal::Terminal;
use crate::models::checkpoint::Checkpoint;
use crate::models::hash::content_hash;
use crate::formats::error::Result;
use crate::formats::containers::Container;
use crate::models::{Component, published, vae};
use crate::models::plan::translate;
use crate::report::{Hashes, LeftOut};

/// Hashes each file.
pub(super) fn run(command: &Hash, terminal: &Terminal) -> Exit {
    let names = Names { list: "files", file: "file", between: "\n" };
    each(&command.files, &names, terminal, |path| hash(path, terminal), Hashes::to_text)
}

fn hash(path: &Path, terminal: &Terminal) -> Result<Hashes> {
    let (checkpoint, _) = translate::to_ldm(Checkpoint::open(path)?)?;
    let is_folder = checkpoint.contents().container == Container::Diffusers;
    let file = if is_folder { None } else { Some(checkpoint.file_hashes(terminal.jobs(), terminal)?) };
    let known = file.as_ref().and_then(|file| published::identify(checkpoint.file_bytes(), &file.sha256));
    let state_dict = &checkpoint.contents().state_dict;
    let mut components = Vec::new();
    for &component in Component::ALL {
        let tensors = || state_dict.iter().filter(|(key, _)| Component::from_key(key) == component);
        if tensors().next().is_none() {
            continue;
        }
        // The autoencoder of a file of its own has the keys it would have in a checkpoint.
        let canonical = tensors().map(|(key, tensor)| (vae::canonical_key(key), tensor));
        let hash = content_hash(canonical, terminal.jobs(), terminal).map_err(|error| error.in_file(path))?;
        components.push((component, hash));
    }
    Ok(Hashes::new(path, file, known, components, LeftOut::unreadable(checkpoint.contents())))
}
