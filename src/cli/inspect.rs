//! The command `inspect`.

use super::args::Inspect as Command;
use super::each::{Names, each};
use super::exit::Exit;
use super::hints;
use super::terminal::Terminal;
use crate::ops::Inspect;
use crate::report::Inspection;

/// Inspects each file.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let names = Names { list: "files", file: "file", between: "\n" };
    let inspect = |path: &_| Inspect::new(path).keys(command.keys).progress(terminal).run();
    let text = |report: &Inspection| report.to_text_with(&hints::tip, terminal.colors());
    each(&command.files, &names, terminal, inspect, text)
}
