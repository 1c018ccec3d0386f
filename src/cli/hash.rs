//! The command `hash`.

use super::args::Hash as Command;
use super::each::{Names, each};
use super::exit::Exit;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::HashCheckpoint;
use crate::report::Hashes;

/// Hashes each file.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let names = Names { list: "files", file: "file", between: "\n" };
    let hash = |path: &_| {
        HashCheckpoint::new(path).progress(terminal).set_if_some(terminal.jobs(), HashCheckpoint::jobs).run()
    };
    each(&command.files, &names, terminal, hash, Hashes::to_text)
}
