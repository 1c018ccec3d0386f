//! The command `completions`.

use clap::{Arg, Command as Definition, ValueHint};
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
    let mut definition = Arguments::definition().mut_subcommands(|it| it.mut_args(as_files));
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut definition, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match command.shell {
        Shell::Bash => {
            // clap_complete 4.6 spells a name with a hyphen in two ways in its state machine, and then completes commands only.
            script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
            script = without_spaces(script, &definition, |names| names.join(" "));
        }
        Shell::Fish => {
            script = without_spaces(script, &definition, |names| names.join("\\t''\n") + "\\t''");
            // The value of the last option is not complete yet, which makes fish fail to parse the options before a command.
            script = script.replace("\n    or return\n", "\n    or return 0\n");
            script.push_str(&fish_positional_values(&definition));
        }
        _ => {}
    }
    let script = Script { shell: command.shell.to_string(), script };
    terminal.finish_always(Ok(script), |it| it.script.clone(), |_| Exit::Success)
}

/// Spells the values that have spaces with `_` instead, which their options accept: the shell would split them. `listed` is how
/// its script lists values.
fn without_spaces(mut script: String, definition: &Definition, listed: impl Fn(&[String]) -> String) -> String {
    for argument in definition.get_subcommands().flat_map(Definition::get_arguments) {
        let names = values(argument);
        if names.iter().any(|name| name.contains(' ')) {
            let spelled: Vec<_> = names.iter().map(|name| name.replace(' ', "_").to_ascii_lowercase()).collect();
            script = script.replace(&listed(&names), &listed(&spelled));
        }
    }
    script
}

/// The names of the values of an argument.
fn values(argument: &Arg) -> Vec<String> {
    argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
}

/// Completes the values of positional arguments in fish, which clap_complete 4.6 leaves out.
fn fish_positional_values(definition: &Definition) -> String {
    let name = definition.get_name();
    let function = name.replace('-', "_");
    let mut lines = String::new();
    for command in definition.get_subcommands() {
        for argument in command.get_positionals() {
            let values = values(argument);
            if !values.is_empty() {
                lines += &format!(
                    "complete -c {name} -n \"__fish_{function}_using_subcommand {}\" -f -a \"{}\"\n",
                    command.get_name(),
                    values.join(" ")
                );
            }
        }
    }
    lines
}

/// Marks paths as those of files: only then does bash keep the spaces of a name together.
fn as_files(argument: Arg) -> Arg {
    match argument.get_value_hint() {
        ValueHint::AnyPath => argument.value_hint(ValueHint::FilePath),
        _ => argument,
    }
}
