//! The command `diff`.

use super::Exit;
use super::args::Diff as Command;
use super::terminal::Terminal;
use crate::formats::{OpenOptions, Result};
use crate::models::Checkpoint;
use crate::ops::Compare;
use crate::report::Difference;

/// Compares two checkpoints. Exits with 1 if they differ.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    match diff(command, terminal) {
        Ok(difference) => {
            terminal.result(|| difference.to_text(), &difference);
            if difference.equal { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}

fn diff(command: &Command, terminal: &Terminal) -> Result<Difference> {
    // A comparison makes nothing of its inputs, so dangerous pickles are no obstacle.
    let options = OpenOptions::new().keep_dangers();
    let a = Checkpoint::open_with(&command.a, &options)?;
    let b = Checkpoint::open_with(&command.b, &options)?;
    Compare::new(&a, &b).jobs(terminal.jobs()).progress(terminal).run()
}
