//! The command line: parses arguments, runs the operation, prints its report and returns the exit code.

mod args;
mod convert;
mod diff;
mod each;
mod exit;
mod hash;
mod hints;
mod inspect;
mod merge_vae;
mod output;
#[cfg(feature = "render")]
mod render;
mod scan;
mod set_if_some;
mod terminal;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use exit::Exit;
use terminal::Terminal;
use trinart_ckpt_formats::error::printable;

/// Escapes the control characters of each line.
fn printable_lines(text: &str) -> String {
    text.trim_end().lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Runs the program and returns its exit code. The first argument is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let are_printable = arguments.iter().all(|argument| !argument.to_string_lossy().contains(char::is_control));
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap returns help and version as errors too; it prints those on stdout, and usage errors on stderr.
            let exit = if error.use_stderr() { Exit::Error } else { Exit::Success };
            // Without a working stderr, the exit code is all that is left.
            let _ = if are_printable {
                error.print()
            } else {
                // clap repeats arguments as they are.
                writeln!(std::io::stderr(), "{}", printable_lines(&error.to_string()))
            };
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
    // A success that could not be printed is an error.
    let exit = if exit == Exit::Success && terminal.has_lost_result() { Exit::Error } else { exit };
    ExitCode::from(exit as u8)
}
