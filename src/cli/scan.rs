//! The command `scan`.

use super::args::Scan as Command;
use super::exit::Exit;
use super::hints;
use super::terminal::Terminal;
use crate::ops::Scan;
use crate::report::ScannedFile;

/// Scans each path. Exits with 1 if a file is dangerous or unknown, even if others could not be scanned.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let print_error = |file: &ScannedFile| {
        if let Some(error) = &file.error {
            terminal.error(error);
        }
    };
    let report = Scan::new(&command.paths).progress(terminal).run_each(print_error);
    terminal.finish_always(
        report,
        |report| match terminal.is_quiet() {
            true => report.findings_to_text_with(&hints::tip, terminal.colors()),
            false => report.to_text_with(&hints::tip, terminal.colors()),
        },
        |report| match (report.dangerous + report.unknown, report.unreadable) {
            (0, 0) => Exit::Success,
            (0, _) => Exit::Error,
            _ => Exit::Negative,
        },
    )
}
