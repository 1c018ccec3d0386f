//! The command `audit`.

use std::path::Path;

use etcetera::BaseStrategy;

use super::args::Audit as Command;
use super::exit::Exit;
use super::pictures;
use super::remedies;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::{Audit, Memory};
use crate::report::{AuditLine, AuditReport};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{AtomicFile, Overwrite};
use trinart_ckpt_formats::walk;

/// Audits folders. Exits with 1 if there are findings.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let overwrite = Overwrite::allowed(command.force);
    // An audit can take long.
    if let Some(Err(error)) = command.html.as_ref().map(|path| AtomicFile::check_destination(path, overwrite)) {
        terminal.failure(&error);
        return Exit::Error;
    }
    let memory = (command.deep && !command.no_cache).then(memory).flatten();
    let audit = Audit::new(&command.paths)
        .select(command.select.iter().copied())
        .ignore(command.ignore.iter().copied())
        .deep(command.deep)
        .set_if_some(memory.as_ref(), Audit::memory)
        .set_if_some(terminal.jobs(), Audit::jobs)
        .progress(terminal);
    let audit = command.vae_dir.iter().fold(audit, |audit, folder| audit.vae_folder(folder));
    let report = audit.run().map(|report| report.with_commands(&remedies::command));
    let report = report.and_then(|report| {
        if let Some(path) = &command.html {
            write_page(&report, path, overwrite)?;
        }
        Ok(report)
    });
    terminal.expect_several(command.paths.len() > 1 || command.paths.iter().any(|path| walk::is_folder_of_files(path)));
    if let (true, Ok(report)) = (terminal.is_lines(), &report) {
        let is_wanted = |line: &&AuditLine<'_>| !command.only_problems || !line.findings.is_empty();
        report.lines().iter().filter(is_wanted).for_each(|line| terminal.line(line));
        terminal.summary(&report.summary());
        return exit(report);
    }
    let report = match command.only_problems && terminal.is_json() {
        true => report.map(AuditReport::without_files_without_findings),
        false => report,
    };
    terminal.finish(report, |report| report.to_text_with(command.only_problems, terminal.colors()), exit)
}

/// The memory in the user's cache folder; `None` without one.
fn memory() -> Option<Memory> {
    let folder = etcetera::choose_base_strategy().ok()?.cache_dir();
    Some(Memory::new(folder.join("trinart-ckpt").join("audit.redb")))
}

fn write_page(report: &AuditReport, path: &Path, overwrite: Overwrite) -> Result<()> {
    let page = report.to_html(&pictures::data_address)?;
    AtomicFile::write(path, overwrite, page.as_bytes())
}

fn exit(report: &AuditReport) -> Exit {
    if report.findings.is_empty() { Exit::Success } else { Exit::Negative }
}
