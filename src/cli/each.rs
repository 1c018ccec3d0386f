//! Runs a command on several files. A file that fails does not stop the others.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Serialize;

use super::exit::Exit;
use super::progress::Queue;
use super::terminal::Terminal;
use crate::ops::Inputs;
use crate::report::Failure;
use trinart_ckpt_formats::error::{Error, Kind, Result};

/// How to combine the results of several files. The JSON document is `{LIST: [result | {FILE: path, "error": …}]}`.
pub(super) struct Names {
    /// The JSON field of the list of results.
    pub list: &'static str,
    /// The JSON field of the path of a file that failed.
    pub file: &'static str,
    /// Separates the texts of two results.
    pub between: &'static str,
}

/// The result of one file.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<R> {
    Done(R),
    Failed {
        #[serde(flatten)]
        file: IndexMap<&'static str, String>,
        error: Failure,
    },
}

/// Runs `work` on each file that the paths stand for, and prints results and errors at once; a JSON document comes at the
/// end. Stops if it is interrupted. Returns the highest exit code.
pub(super) fn each<R: Serialize>(
    paths: &[PathBuf],
    names: &Names,
    terminal: &Terminal,
    work: impl Fn(&Path) -> Result<R>,
    text: impl Fn(&R) -> String,
) -> Exit {
    let inputs = Inputs::list(paths);
    let mut queue = Queue::new(&inputs, terminal);
    let (mut exit, mut entries, mut count) = (Exit::Success, Vec::new(), 0);
    let mut add = |entry: Entry<R>| match terminal.is_lines() {
        true => terminal.line(&entry),
        false if terminal.is_json() => entries.push(entry),
        false => {
            if let Entry::Done(result) = &entry {
                let between = if count > 0 { names.between } else { "" };
                terminal.text(|| format!("{between}{}", text(result)));
                count += 1;
            }
        }
    };
    let failed = |path: &Path, error: &Error| {
        terminal.error(error);
        let file = IndexMap::from([(names.file, path.to_string_lossy().into_owned())]);
        Entry::Failed { file, error: Failure::from(error) }
    };
    for error in &inputs.errors {
        exit = exit.max(Exit::of(error));
        add(failed(error.file().unwrap_or(Path::new("")), error));
    }
    for input in &inputs.files {
        queue.next(&input.path);
        match work(&input.path) {
            Ok(result) => add(Entry::Done(result)),
            Err(error) => {
                exit = exit.max(Exit::of(&error));
                add(failed(&input.path, &error));
                if error.kind() == Kind::Interrupted {
                    break;
                }
            }
        }
    }
    terminal.document(&IndexMap::from([(names.list, entries)]));
    exit
}
