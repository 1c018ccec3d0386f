use std::path::Path;

use super::Exit;
use super::args::Inspect;
use super::each::{Names, each};
use super::output::published;
use super::terminal::Terminal;
use crate::models::checkpoint::Checkpoint;
use crate::formats::error::Result;
use crate::formats::containers::Container;
use crate::models::plan::translate;
use crate::report::{Inspection, components};

/// Files up to this size are hashed where that may tell which published file they are; larger ones would make
/// whoever only wants to look wait for seconds.
const HASHED: u64 = 1 << 29;

/// Looks at each file.
pub(super) fn run(command: &Inspect, terminal: &Terminal) -> Exit {
    let names = Names { list: "files", file: "file", between: "\n" };
    each(&command.files, &names, terminal, |path| inspect(path, command.keys, terminal), Inspection::to_text)
}

fn inspect(path: &Path, keys: bool, terminal: &Terminal) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(path)?;
    let is_folder = checkpoint.contents().container == Container::Diffusers;
    let is_small = checkpoint.file_bytes() <= HASHED && !is_folder;
    let known = if is_small { published(&checkpoint, terminal)? } else { None };
    let detection = translate::detect_checkpoint(&checkpoint);
    // In LDM names a folder's components are those of a checkpoint; one that cannot be translated is shown as it is.
    let translated =
        translate::to_ldm(checkpoint.clone()).map_or_else(|_| checkpoint.clone(), |(translated, _)| translated);
    let components = components(&translated.contents().state_dict, detection.architecture());
    Ok(Inspection::new(&checkpoint, components, &detection, known, keys))
}
