use std::path::Path;

use serde_json::json;

use super::Exit;
use super::args::Scan;
use super::terminal::Terminal;
use crate::danger::Level;
use crate::error::Error;
use crate::io::Progress;
use crate::report::{Failure, Scanned, Scanning};
use crate::scan;

/// Scans each path: the answer is no if one file is dangerous, whatever else could not be read.
pub(super) fn run(command: &Scan, terminal: &Terminal) -> Exit {
    let mut scanner = Scanner { terminal, all: Scanning::default(), texts: String::new() };
    for path in &command.paths {
        let found = scan::find(path);
        let is_folder = path.is_dir();
        for error in &found.errors {
            scanner.failed(path, error);
        }
        scanner.all.links += found.links;
        for file in &found.files {
            if terminal.interrupted() {
                terminal.failure(&Error::interrupted());
                return Exit::Failed;
            }
            scanner.file(file, is_folder);
        }
    }
    let Scanner { all, mut texts, .. } = scanner;
    if all.files.len() != 1 || all.skipped > 0 || all.links > 0 {
        texts.push_str(&all.to_text());
    }
    terminal.result(|| texts, &all);
    match (all.dangerous, all.unreadable) {
        (0, 0) => Exit::Yes,
        (0, _) => Exit::Failed,
        _ => Exit::No,
    }
}

struct Scanner<'a> {
    terminal: &'a Terminal,
    all: Scanning,
    texts: String,
}

impl Scanner<'_> {
    fn file(&mut self, file: &Path, is_in_folder: bool) {
        match scan::scan(file) {
            Ok(Some(found)) => {
                let is_readable = found.problem.is_none();
                if let Some(problem) = &found.problem {
                    self.terminal.error(problem);
                }
                let scanned = Scanned::new(&found);
                match scanned.level() {
                    Level::Dangerous => self.all.dangerous += 1,
                    _ if !is_readable => self.all.unreadable += 1,
                    Level::Suspicious => self.all.suspicious += 1,
                    Level::Harmless => self.all.harmless += 1,
                }
                self.texts.push_str(&scanned.to_text());
                self.all.files.push(serde_json::to_value(&scanned).unwrap_or_default());
            }
            // Any file may lie in a folder; one that was named, or has the name of a checkpoint, should be one.
            Ok(None) if is_in_folder && !scan::is_named_like_a_checkpoint(file) => self.all.skipped += 1,
            Ok(None) => self.failed(file, &scan::not_a_checkpoint(file)),
            Err(error) => self.failed(file, &error),
        }
    }

    fn failed(&mut self, file: &Path, error: &Error) {
        self.terminal.error(error);
        self.all.unreadable += 1;
        self.all
            .files
            .push(json!({ "file": file.to_string_lossy(), "verdict": "not readable", "error": Failure::from(error) }));
    }
}
