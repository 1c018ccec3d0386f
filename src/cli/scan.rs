//! The command `scan`.

use super::args::Scan as Command;
use super::exit::Exit;
use super::hints;
use super::terminal::Terminal;
use crate::ops::Scan;
use crate::report::{ScanReport, ScannedFile};
use trinart_ckpt_formats::danger::Allowed;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::is_dir;

/// Scans each path. Exits with 1 if a file is dangerous or unknown, even if others could not be scanned.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    terminal.expect_several(command.paths.len() > 1 || command.paths.iter().any(|path| is_dir(path)));
    let print = |file: &ScannedFile| {
        if let Some(error) = &file.error {
            terminal.error(error);
        }
        if terminal.is_lines() {
            terminal.line(file);
        }
    };
    let report = allowed(&command.allow)
        .and_then(|allowed| Scan::new(&command.paths).allow(allowed).progress(terminal).run_each(print));
    if let (true, Ok(report)) = (terminal.is_lines(), &report) {
        terminal.summary(&report.summary);
        return exit(report);
    }
    let text = |report: &ScanReport| match terminal.is_quiet() {
        true => report.findings_to_text_with(&hints::tip, terminal.colors()),
        false => report.to_text_with(&hints::tip, terminal.colors()),
    };
    terminal.finish_always(report, text, exit)
}

fn exit(report: &ScanReport) -> Exit {
    match (report.summary.dangerous + report.summary.unknown, report.summary.unreadable) {
        (0, 0) => Exit::Success,
        (0, _) => Exit::Error,
        _ => Exit::Negative,
    }
}

/// Collects the names of the option `--allow`, each a pattern or a file of patterns.
fn allowed(options: &[String]) -> Result<Allowed> {
    let mut allowed = Allowed::new();
    for option in options {
        match option.strip_prefix('@') {
            Some(file) => allowed.add_file(file)?,
            None => allowed.add(option)?,
        }
    }
    Ok(allowed)
}
