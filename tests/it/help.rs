//! What `-h` and `--help` print, and whether their examples run.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Folder, PROGRAM, Ran, fixture};

/// The commands that `-h` lists.
pub(crate) fn commands() -> Vec<String> {
    let help = run!["-h"].done();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned());
    commands.filter(|command| command != "help").collect()
}

/// Prints help as on a terminal of 100 columns.
fn help(arguments: &[&str]) -> String {
    Ran::from(Command::new(PROGRAM).args(arguments).env("COLUMNS", "100").output().unwrap()).done()
}

#[test]
fn a_summary_fits_on_one_screen() {
    for command in commands() {
        let help = help(&[&command, "-h"]);
        assert!(help.lines().count() <= 40, "{} lines:\n{help}", help.lines().count());
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
    assert!(help(&["-h"]).lines().count() <= 40);
}

#[test]
fn options_are_in_groups_and_general_ones_last() {
    for command in commands() {
        let help = help(&[&command, "-h"]);
        let headings: Vec<_> = help.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
        assert!(!headings.contains(&"Options:") && !headings.contains(&"Arguments:"), "{command}: {headings:?}");
        assert_eq!(headings.last(), Some(&"General:"), "{command}: {headings:?}");
        let general = help.split("General:\n").nth(1).unwrap();
        for option in ["--json", "--quiet", "--jobs", "--color", "--help"] {
            assert!(general.contains(option), "{command}: no {option} under General");
        }
    }
}

#[test]
fn help_names_each_default_once() {
    for command in commands() {
        let help = help(&[&command, "--help"]);
        let options = help.split("\n\n").filter(|part| part.trim_start().starts_with('-'));
        for option in options {
            assert!(option.matches("[default: ").count() <= 1, "{command}: {option}");
            assert!(!option.contains("y default"), "{command}: {option}");
        }
    }
}

#[test]
fn help_lists_exit_codes() {
    for command in commands() {
        let help = help(&[&command, "--help"]);
        let codes = help.split("Exit codes:\n").nth(1).unwrap_or_else(|| panic!("{command} names no exit codes"));
        assert!(codes.starts_with("  0  ") && codes.contains("\n  2  "), "{command}: {codes}");
    }
    assert!(help(&["--help"]).contains("Exit codes:\n  0  "));
}

/// The examples of a command, without the name of the program.
fn examples(command: &str) -> Vec<Vec<String>> {
    let help = help(&[command, "--help"]);
    let part = help.split("Examples:\n").nth(1).unwrap_or_else(|| panic!("{command} has no examples"));
    let lines = part.lines().filter_map(|line| line.strip_prefix("  trinart-ckpt "));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// A folder with the files that examples name.
fn folder_of_examples() -> Folder {
    let folder = Folder::new();
    let copies = [
        ("tiny-sd1.ckpt", "model.ckpt"),
        ("tiny-sd1-legacy.ckpt", "other.ckpt"),
        ("tiny-sd1.safetensors", "model.safetensors"),
        ("tiny-vae.ckpt", "vae.pt"),
        ("tiny-vae.ckpt", "model.vae.pt"),
    ];
    for (from, to) in copies {
        fs::copy(fixture(from), folder.join(to)).unwrap();
    }
    for empty in ["models", "converted"] {
        fs::create_dir(folder.join(empty)).unwrap();
    }
    fs::copy(fixture("tiny-vae.ckpt"), folder.join("models/vae.pt")).unwrap();
    run!["convert", fixture("tiny-sd1.safetensors"), "-o", folder.join("diffusers/")].done();
    folder
}

fn run_in(folder: &Path, arguments: &[String]) -> Ran {
    Command::new(PROGRAM).args(arguments).current_dir(folder).output().unwrap().into()
}

#[test]
fn examples_run() {
    let folder = folder_of_examples();
    // Rendering takes minutes at the default size; `render_check` runs these examples.
    for command in commands().iter().filter(|command| *command != "render-check") {
        let examples = examples(command);
        assert!(!examples.is_empty(), "{command} has no examples");
        for arguments in examples {
            let ran = run_in(folder.path(), &arguments);
            // The files that `diff` compares are different in their dtypes or marks; 2 is an error.
            let is_answer = ran.code == Some(0) || (command == "diff" && ran.code == Some(1));
            assert!(is_answer && ran.stderr.is_empty(), "{arguments:?}: {:?} {}", ran.code, ran.stderr);
        }
    }
}
