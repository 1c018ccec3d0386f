//! The command `diff`.

use super::args::Diff as Command;
use super::exit::Exit;
use super::hints;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::Compare;
use crate::report::Difference;
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::Checkpoint;

/// Compares two checkpoints. Exits with 1 if they differ.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let exit = |difference: &Difference| if difference.equal { Exit::Success } else { Exit::Negative };
    terminal.finish(diff(command, terminal), |report| report.to_text_with(&hints::tip, terminal.colors()), exit)
}

fn diff(command: &Command, terminal: &Terminal) -> Result<Difference> {
    // A comparison writes nothing, so dangerous pickles in its inputs do no harm.
    let options = OpenOptions::new().keep_dangers();
    let a = Checkpoint::open_with(&command.a, &options)?;
    let b = Checkpoint::open_with(&command.b, &options)?;
    Compare::new(&a, &b).progress(terminal).set_if_some(terminal.jobs(), Compare::jobs).run()
}
