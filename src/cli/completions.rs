//! The command `completions`.

use serde::Serialize;

use super::args::{Arguments, Completions as Command};
use super::exit::Exit;
use super::terminal::Terminal;

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

/// Prints the completion script of a shell.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let mut definition = Arguments::definition();
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut definition, name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let script = Script { shell: command.shell.to_string(), script };
    terminal.finish_always(Ok(script), |it| it.script.clone(), |_| Exit::Success)
}
