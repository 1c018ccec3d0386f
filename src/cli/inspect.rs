use std::path::Path;

use super::Exit;
use super::args::Inspect;
use super::each::{Names, each};
use super::output::{published, published_text};
use super::terminal::Terminal;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::report::Inspection;

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
    let known = if checkpoint.file_bytes() <= HASHED { published(&checkpoint, terminal)? } else { None };
    Ok(Inspection::new(&checkpoint, known.map(published_text), keys))
}
