//! Runs a command on several files. A file that fails does not stop the others.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Serialize;

use super::exit::Exit;
use super::terminal::Terminal;
use crate::report::Failure;
use trinart_ckpt_formats::error::{Kind, Result};

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

/// Runs `work` on each path. Prints errors at once and all results at the end. Stops if it is interrupted. Returns the
/// highest exit code.
pub(super) fn each<R: Serialize>(
    paths: &[PathBuf],
    names: &Names,
    terminal: &Terminal,
    work: impl Fn(&Path) -> Result<R>,
    text: impl Fn(&R) -> String,
) -> Exit {
    let mut exit = Exit::Success;
    let mut entries = Vec::new();
    let mut texts = Vec::new();
    for path in paths {
        match work(path) {
            Ok(result) => {
                texts.push(text(&result));
                entries.push(Entry::Done(result));
            }
            Err(error) => {
                exit = exit.max(Exit::of(&error));
                terminal.error(&error);
                let file = IndexMap::from([(names.file, path.to_string_lossy().into_owned())]);
                entries.push(Entry::Failed { file, error: Failure::from(&error) });
                if error.kind() == Kind::Interrupted {
                    break;
                }
            }
        }
    }
    let document = IndexMap::from([(names.list, entries)]);
    terminal.result(|| texts.join(names.between), &document);
    exit
}
