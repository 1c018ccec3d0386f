//! The command `diff`.

use super::args::Diff as Command;
use super::exit::Exit;
use super::hints;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::{Compare, CompareFolders, CompareOptions};
use crate::report::{Difference, FolderDifference};
use trinart_ckpt_formats::error::Error;
use trinart_ckpt_formats::{OpenOptions, Result, walk};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::measures::Tolerance;

/// Compares two checkpoints, or two folders of them. Exits with 1 if they differ.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    if walk::is_folder_of_files(&command.a) && walk::is_folder_of_files(&command.b) {
        let exit = |difference: &FolderDifference| match (difference.has_failed(), difference.equal) {
            (true, _) => Exit::Error,
            (false, true) => Exit::Success,
            (false, false) => Exit::Negative,
        };
        terminal.expect_several(true);
        let difference = folders(command, terminal);
        if let (true, Ok(difference)) = (terminal.is_lines(), &difference) {
            difference.files.iter().for_each(|file| terminal.line(file));
            terminal.summary(&difference.summary());
            return exit(difference);
        }
        return terminal.finish(difference, FolderDifference::to_text, exit);
    }
    let exit = |difference: &Difference| if difference.equal { Exit::Success } else { Exit::Negative };
    terminal.finish(diff(command, terminal), |report| report.to_text_with(&hints::tip, terminal.colors()), exit)
}

fn options(command: &Command) -> CompareOptions {
    let options = CompareOptions::default();
    let options = command.component.iter().fold(options, |options, &it| options.component(it.into()));
    let options = command.ignore.iter().fold(options, |options, &it| options.ignore(it.into()));
    let default = Tolerance::default();
    let tolerance = Tolerance {
        relative: command.rtol.unwrap_or(default.relative),
        absolute: command.atol.unwrap_or(default.absolute),
    };
    options.set_if_some(command.stats.then_some(tolerance), CompareOptions::measure)
}

fn diff(command: &Command, terminal: &Terminal) -> Result<Difference> {
    // A comparison writes nothing, so dangerous pickles in its inputs do no harm.
    let open = OpenOptions::new().keep_dangers();
    let a = Checkpoint::open_with(&command.a, &open)?;
    let b = Checkpoint::open_with(&command.b, &open)?;
    let compare = Compare::new(&a, &b).options(options(command)).progress(terminal);
    compare.set_if_some(terminal.jobs(), Compare::jobs).run()
}

fn folders(command: &Command, terminal: &Terminal) -> Result<FolderDifference> {
    if command.stats {
        return Err(Error::usage("--stats measures the differences of two checkpoints, not of folders"));
    }
    let compare = CompareFolders::new(&command.a, &command.b).options(options(command)).progress(terminal);
    compare.set_if_some(terminal.jobs(), CompareFolders::jobs).run()
}
