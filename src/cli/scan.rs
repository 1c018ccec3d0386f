use std::path::Path;

use super::Exit;
use super::args::Scan;
use super::terminal::Terminal;
use crate::formats::danger::Level;
use crate::formats::error::Error;
use crate::formats::io::Progress;
use crate::report::{ScanReport, ScanSummary, ScannedFile};
use crate::formats::scan;

/// Scans each path. Exits with 1 if a file is dangerous, even if others could not be scanned.
pub(super) fn run(command: &Scan, terminal: &Terminal) -> Exit {
    let mut scanner = Scanner { terminal, summary: ScanSummary::default(), texts: String::new() };
    for path in &command.paths {
        let listing = scan::list_files(path);
        let is_folder = path.is_dir();
        for error in &listing.errors {
            scanner.failed(path, error);
        }
        scanner.summary.links += listing.links;
        for file in &listing.files {
            if terminal.interrupted() {
                terminal.failure(&Error::interrupted());
                return Exit::Failed;
            }
            scanner.file(file, is_folder);
        }
    }
    let Scanner { summary, mut texts, .. } = scanner;
    if summary.files.len() != 1 || summary.skipped > 0 || summary.links > 0 {
        texts.push_str(&summary.to_text());
    }
    terminal.result(|| texts, &summary);
    match (summary.dangerous, summary.unreadable) {
        (0, 0) => Exit::Yes,
        (0, _) => Exit::Failed,
        _ => Exit::No,
    }
}

struct Scanner<'a> {
    terminal: &'a Terminal,
    summary: ScanSummary,
    texts: String,
}

impl Scanner<'_> {
    fn file(&mut self, file: &Path, is_in_folder: bool) {
        match scan::scan(file) {
            Ok(Some(scan)) => {
                if let Some(problem) = &scan.problem {
                    self.terminal.error(problem);
                }
                let report = ScanReport::new(&scan);
                match report.level() {
                    Level::Dangerous => self.summary.dangerous += 1,
                    _ if scan.problem.is_some() => self.summary.unreadable += 1,
                    Level::Suspicious => self.summary.suspicious += 1,
                    Level::Harmless => self.summary.harmless += 1,
                }
                self.texts.push_str(&report.to_text());
                self.summary.files.push(ScannedFile::Report(report));
            }
            // Folders may contain files of any kind. A file that the user named, or with the extension of a checkpoint,
            // should be one.
            Ok(None) if is_in_folder && !scan::is_named_like_a_checkpoint(file) => self.summary.skipped += 1,
            Ok(None) => self.failed(file, &scan::not_a_checkpoint(file)),
            Err(error) => self.failed(file, &error),
        }
    }

    fn failed(&mut self, file: &Path, error: &Error) {
        self.terminal.error(error);
        self.summary.unreadable += 1;
        self.summary.files.push(ScannedFile::failed(file, error));
    }
}
