//! The command `completions`.

use clap_complete::Shell;
use schemars::JsonSchema;
use serde::Serialize;

use super::args::{Arguments, Completions as Command};
use super::exit::Exit;
use super::terminal::Terminal;

/// A completion script.
#[derive(Serialize, JsonSchema)]
pub(super) struct Script {
    shell: String,
    script: String,
}

/// Prints the completion script of a shell.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let mut definition = Arguments::definition();
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut definition, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if command.shell == Shell::Bash {
        // clap_complete 4.6 spells a name with a hyphen in two ways in its state machine, and then completes commands only.
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
        // bash would split these values at their spaces. The options that have them accept _ instead.
        for argument in definition.get_subcommands().flat_map(clap::Command::get_arguments) {
            let values = argument.get_possible_values();
            let names: Vec<_> = values.iter().map(|value| value.get_name()).collect();
            if names.iter().any(|name| name.contains(' ')) {
                let spelled: Vec<_> = names.iter().map(|name| name.replace(' ', "_").to_ascii_lowercase()).collect();
                script = script.replace(&names.join(" "), &spelled.join(" "));
            }
        }
    }
    let script = Script { shell: command.shell.to_string(), script };
    terminal.finish_always(Ok(script), |it| it.script.clone(), |_| Exit::Success)
}
