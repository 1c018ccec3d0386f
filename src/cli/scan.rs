//! The command `scan`.

use super::Exit;
use super::args::Scan as Command;
use super::terminal::Terminal;
use crate::ops::Scan;

/// Scans each path. Exits with 1 if a file is dangerous, even if others could not be scanned.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let scan = Scan::new(&command.paths).progress(terminal);
    let report = scan.run_each(|file| {
        if let Some(error) = &file.error {
            terminal.error(error);
        }
    });
    match report {
        Ok(report) => {
            terminal.result(|| report.to_text(), &report);
            match (report.dangerous, report.unreadable) {
                (0, 0) => Exit::Yes,
                (0, _) => Exit::Failed,
                _ => Exit::No,
            }
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}
