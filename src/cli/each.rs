//! The same command on several files: one that fails does not stop the others.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Exit;
use super::terminal::Terminal;
use crate::formats::error::{Kind, Result};
use crate::report::Failure;

/// How the results of a command are put together; in JSON, `{LIST: [result | {FILE: path, "error": …}]}`.
pub(super) struct Names {
    pub list: &'static str,
    pub file: &'static str,
    /// What stands between the texts of two results.
    pub between: &'static str,
}

/// Runs `work` on each path; prints the results together, the errors as they come. An interrupt ends it.
pub(super) fn each<R: Serialize>(
    paths: &[PathBuf],
    names: &Names,
    terminal: &Terminal,
    work: impl Fn(&Path) -> Result<R>,
    text: impl Fn(&R) -> String,
) -> Exit {
    let mut exit = Exit::Yes;
    let mut documents = Vec::new();
    let mut texts = Vec::new();
    for path in paths {
        match work(path) {
            Ok(result) => {
                texts.push(text(&result));
                documents.push(serde_json::to_value(&result).unwrap_or_default());
            }
            Err(error) => {
                exit = exit.max(Exit::from(&error));
                terminal.error(&error);
                documents.push(json!({ names.file: path.to_string_lossy(), "error": Failure::from(&error) }));
                if error.kind() == Kind::Interrupted {
                    break;
                }
            }
        }
    }
    let document = Value::Object(Map::from_iter([(names.list.to_owned(), Value::Array(documents))]));
    terminal.result(|| texts.join(names.between), &document);
    exit
}
