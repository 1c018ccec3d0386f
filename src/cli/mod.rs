//! The command line: parses arguments, runs the operation, prints its report and returns the exit code.

#[cfg(feature = "remote")]
mod addresses;
mod args;
mod audit;
mod batch;
mod color;
mod completions;
mod convert;
mod diff;
mod each;
mod envelopes;
mod exit;
mod hash;
mod help;
mod hints;
mod inspect;
mod man;
mod merge_vae;
mod output;
// The pages describe the program with all of its features.
#[cfg(test)]
#[cfg(all(feature = "remote", feature = "render"))]
mod pages;
mod pictures;
mod progress;
mod remedies;
#[cfg(feature = "render")]
mod render_check;
mod scan;
mod schema;
mod set_if_some;
mod styles;
mod sys;
mod terminal;
mod vae_dir;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, FromArgMatches};

use args::{Arguments, Command};
use exit::Exit;
pub use schema::schemas;
pub use sys::end_at_once;
use terminal::Terminal;
use trinart_ckpt_formats::error::printable;

/// Runs the program and returns its exit code. The first argument is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    #[cfg(feature = "remote")]
    let arguments = addresses::connect(arguments);
    let color = color::requested(&arguments);
    let arguments = match parse(&arguments, color) {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap returns help and version as errors too; it prints those on stdout, and usage errors on stderr.
            let exit = if error.use_stderr() { Exit::Error } else { Exit::Success };
            // Without a working stderr, the exit code is all that is left.
            let _ = printable_error(&arguments, color, error).print();
            return ExitCode::from(exit as u8);
        }
    };
    let terminal = Terminal::new(&arguments.common, color);
    let exit = match &arguments.command {
        Command::MergeVae(command) => merge_vae::run(command, &terminal),
        Command::Convert(command) => convert::run(command, &terminal),
        Command::Inspect(command) => inspect::run(command, &terminal),
        Command::Diff(command) => diff::run(command, &terminal),
        Command::Audit(command) => audit::run(command, &terminal),
        Command::Hash(command) => hash::run(command, &terminal),
        Command::Scan(command) => scan::run(command, &terminal),
        #[cfg(feature = "render")]
        Command::RenderCheck(command) => render_check::run(command, &terminal),
        Command::Completions(command) => completions::run(command, &terminal),
        Command::Man(command) => man::run(command, &terminal),
    };
    // A success that could not be printed is an error.
    let exit = if exit == Exit::Success && terminal.has_lost_result() { Exit::Error } else { exit };
    ExitCode::from(exit as u8)
}

fn parse(arguments: &[OsString], color: ColorChoice) -> Result<Arguments, clap::Error> {
    let matches = Arguments::definition().color(color).try_get_matches_from(arguments)?;
    Arguments::from_arg_matches(&matches)
}

/// Returns the error that `arguments` would cause with their control characters escaped. clap repeats arguments as they
/// are, and a pasted one could drive the terminal or forge a line.
fn printable_error(arguments: &[OsString], color: ColorChoice, error: clap::Error) -> clap::Error {
    let escaped: Vec<OsString> = arguments.iter().map(|it| printable(&it.to_string_lossy()).into()).collect();
    if escaped == arguments {
        return error;
    }
    match parse(&escaped, color) {
        Err(error) => error,
        // Only the escapes made the arguments valid.
        Ok(_) => {
            Arguments::definition().color(color).error(ErrorKind::InvalidValue, "control characters in an argument")
        }
    }
}
