//! Runs a command on several files. A file that fails does not stop the others.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::envelopes::{FileEntry, FileList};
use super::exit::Exit;
use super::progress::Queue;
use super::terminal::Terminal;
use crate::ops::Inputs;
use crate::report::Failure;
use trinart_ckpt_formats::error::{Error, Kind, Result};

/// Runs `work` on each file that the paths stand for, and prints results and errors at once; one JSON document of all comes
/// at the end. Stops if it is interrupted. Returns the highest exit code, which `exit_of` returns for each result.
pub(super) fn each<R: Serialize>(
    paths: &[PathBuf],
    terminal: &Terminal,
    work: impl Fn(&Path) -> Result<R>,
    text: impl Fn(&R) -> String,
    exit_of: impl Fn(&R) -> Exit,
) -> Exit {
    let inputs = Inputs::list(paths);
    terminal.expect_several(inputs.are_several());
    let mut queue = Queue::new(&inputs, terminal);
    let (mut exit, mut entries, mut count) = (Exit::Success, Vec::new(), 0);
    let mut add = |entry: FileEntry<R>| match terminal.is_lines() {
        true => terminal.line(&entry),
        false if terminal.is_json() => entries.push(entry),
        false => {
            if let FileEntry::Done(result) = &entry {
                let between = if count > 0 { "\n" } else { "" };
                terminal.text(|| format!("{between}{}", text(result)));
                count += 1;
            }
        }
    };
    let failed = |path: &Path, error: &Error| {
        terminal.error(error);
        FileEntry::Failed { file: path.to_string_lossy().into_owned(), error: Failure::from(error) }
    };
    for error in &inputs.errors {
        exit = exit.max(Exit::of(error));
        add(failed(error.file().unwrap_or(Path::new("")), error));
    }
    for input in &inputs.files {
        queue.next(&input.path);
        match work(&input.path) {
            Ok(result) => {
                exit = exit.max(exit_of(&result));
                add(FileEntry::Done(result));
            }
            Err(error) => {
                exit = exit.max(Exit::of(&error));
                add(failed(&input.path, &error));
                if error.kind() == Kind::Interrupted {
                    break;
                }
            }
        }
    }
    terminal.document(&FileList { files: entries });
    exit
}
