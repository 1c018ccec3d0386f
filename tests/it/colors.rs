//! When output has colors: in a terminal, or where asked for, and never in JSON.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{PROGRAM, Ran, fixture};

const ESCAPE: char = '\x1b';

/// Runs the program into pipes with these variables, and none that a test may have inherited.
fn run_with(variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = Command::new(PROGRAM);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).args(arguments).output().unwrap().into()
}

fn paths() -> [String; 3] {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    [text(fixture("hostile/calls-system.ckpt")), text(fixture("tiny-sd1.ckpt")), text(fixture("tiny-vae.ckpt"))]
}

#[test]
fn pipes_have_no_colors_unless_they_are_forced() {
    let [hostile, a, b] = paths();
    for arguments in [vec!["scan", &hostile], vec!["inspect", &hostile], vec!["diff", &a, &b], vec!["scan", "--help"]] {
        let colored = |variables: &[(&str, &str)], more: &[&str]| {
            let ran = run_with(variables, &[arguments.as_slice(), more].concat());
            (ran.stdout + &ran.stderr).contains(ESCAPE)
        };
        assert!(!colored(&[], &[]), "{arguments:?}");
        assert!(!colored(&[], &["--color", "auto"]), "{arguments:?}");
        assert!(colored(&[("CLICOLOR_FORCE", "1")], &[]), "{arguments:?}");
        assert!(!colored(&[("CLICOLOR_FORCE", "")], &[]), "{arguments:?}");
        assert!(!colored(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &[]), "{arguments:?}");
        assert!(colored(&[("NO_COLOR", "1")], &["--color=always"]), "{arguments:?}");
        assert!(!colored(&[("CLICOLOR_FORCE", "1")], &["--color", "never"]), "{arguments:?}");
    }
}

#[test]
fn json_has_no_colors() {
    let [hostile, a, b] = paths();
    for arguments in [vec!["scan", &hostile], vec!["inspect", &hostile], vec!["diff", &a, &b]] {
        let ran = run_with(&[("CLICOLOR_FORCE", "1")], &[arguments, vec!["--json", "--color", "always"]].concat());
        assert!(ran.stdout.starts_with('{') && !ran.stdout.contains(ESCAPE), "{}", ran.stdout);
    }
}

#[test]
fn errors_have_colors_where_results_have() {
    for arguments in [&["inspect", "missing"][..], &["inspect", "--bogus"]] {
        assert!(!run_with(&[], arguments).stderr.contains(ESCAPE));
        let always = run_with(&[], &[arguments, &["--color", "always"]].concat()).stderr;
        assert!(always.contains(ESCAPE), "{always}");
    }
}

#[test]
fn usage_errors_escape_control_characters() {
    for argument in ["--k\x1b[2J\nforged", "--dtype=\x1b]0;title\x07", "--jobs=\x1b[31m"] {
        for color in ["--color=never", "--color=always"] {
            let ran = run_with(&[], &["convert", color, "a", "-o", "b", argument]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
            let lines = ran.stderr.lines().filter(|line| line.starts_with("forged")).count();
            let is_plain =
                !ran.stderr.contains("\x1b[2J") && !ran.stderr.contains(['\x07']) && !ran.stderr.contains("\x1b]");
            assert!(lines == 0 && is_plain && ran.stderr.contains("u{1b}"), "{:?}", ran.stderr);
        }
    }
}
