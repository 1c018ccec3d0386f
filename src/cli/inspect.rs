use std::path::Path;

use serde::Serialize;

use super::Exit;
use super::args::Inspect;
use super::output::{published, published_text};
use super::terminal::Terminal;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::report::{Failure, Inspection};

/// Files up to this size are hashed where that may tell which published file they are; larger ones would make
/// whoever only wants to look wait for seconds.
const HASHED: u64 = 1 << 29;

/// Looks at each file; one that cannot be read does not stop the others.
pub(super) fn run(command: &Inspect, terminal: &Terminal) -> Exit {
    let mut exit = Exit::Yes;
    let mut files = Vec::new();
    for path in &command.files {
        match inspect(path, command.keys, terminal) {
            Ok(inspection) => files.push(Entry::Found(Box::new(inspection))),
            Err(error) => {
                exit = exit.max(Exit::from(&error));
                terminal.error(&error);
                files.push(Entry::Failed { file: path.to_string_lossy().into_owned(), error: (&error).into() });
            }
        }
    }
    let document = Document { files };
    terminal.result(|| document.to_text(), &document);
    exit
}

fn inspect(path: &Path, keys: bool, terminal: &Terminal) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(path)?;
    let known = if checkpoint.file_bytes() <= HASHED { published(&checkpoint, terminal)? } else { None };
    Ok(Inspection::new(&checkpoint, known.map(published_text), keys))
}

#[derive(Serialize)]
struct Document {
    files: Vec<Entry>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Found(Box<Inspection>),
    Failed { file: String, error: Failure },
}

impl Document {
    fn to_text(&self) -> String {
        let blocks = self.files.iter().filter_map(|entry| match entry {
            Entry::Found(inspection) => Some(inspection.to_text()),
            Entry::Failed { .. } => None,
        });
        blocks.collect::<Vec<_>>().join("\n")
    }
}
