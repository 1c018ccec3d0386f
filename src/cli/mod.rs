//! The command line: what was typed, what it means, what is printed, how it ends.

mod args;
mod convert;
mod diff;
mod each;
mod hash;
mod hints;
mod inspect;
mod merge_vae;
mod output;
#[cfg(feature = "render")]
mod render;
mod scan;
mod terminal;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::formats::error::{Error, Kind};
use args::{Arguments, Command};
use terminal::Terminal;

/// How a run ends: the answer is yes, the answer is no, or it could not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Exit {
    Yes = 0,
    No = 1,
    Failed = 2,
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.kind() {
            Kind::Unverified => Exit::No,
            _ => Exit::Failed,
        }
    }
}

/// Runs the program with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for; anything else is a usage error. Both know where to print themselves.
            let exit = if error.use_stderr() { Exit::Failed } else { Exit::Yes };
            let _ = error.print();
            return ExitCode::from(exit as u8);
        }
    };
    let terminal = Terminal::new(&arguments.common);
    let exit = match &arguments.command {
        Command::MergeVae(command) => merge_vae::run(command, &terminal),
        Command::Convert(command) => convert::run(command, &terminal),
        Command::Inspect(command) => inspect::run(command, &terminal),
        Command::Diff(command) => diff::run(command, &terminal),
        Command::Hash(command) => hash::run(command, &terminal),
        Command::Scan(command) => scan::run(command, &terminal),
        #[cfg(feature = "render")]
        Command::RenderCheck(command) => render::run(command, &terminal),
    };
    let exit = if exit == Exit::Yes && terminal.is_unheard() { Exit::Failed } else { exit };
    ExitCode::from(exit as u8)
}
