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
    lines.map(|line| line.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()).collect()
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
        ("render/networks/style.safetensors", "lora.safetensors"),
    ];
    for (from, to) in copies {
        fs::copy(fixture(from), folder.join(to)).unwrap();
    }
    for empty in ["models", "converted", "pages"] {
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
    for command in commands().iter().filter(|command| *command != "render-check") {
        let examples = examples(command);
        assert!(!examples.is_empty(), "{command} has no examples");
        for arguments in examples {
            let ran = run_in(folder.path(), &arguments);
            // The files that `diff` compares are different in their dtypes or marks, `audit` finds training residue, and the LoRA is
            // for other widths; 2 is an error.
            let is_answer =
                ran.code == Some(0) || (["diff", "audit", "inspect"].contains(&&**command) && ran.code == Some(1));
            assert!(is_answer && ran.stderr.is_empty(), "{arguments:?}: {:?} {}", ran.code, ran.stderr);
        }
    }
}

/// A render takes minutes at the default size, so the examples run without a checkpoint: they must get as far as
/// opening it.
#[cfg(feature = "render")]
#[test]
fn examples_of_render_check_are_valid() {
    let folder = Folder::new();
    let examples = examples("render-check");
    assert!(!examples.is_empty());
    for arguments in examples {
        run_in(folder.path(), &arguments).refused(&[&arguments[1], "cannot open"]);
    }
}

#[test]
fn every_usual_name_of_a_dtype_is_understood() {
    let names = [
        ("F32", vec!["f32", "fp32", "float32", "float", "full", "FP32", "single"]),
        ("F16", vec!["f16", "fp16", "float16", "half", "Half"]),
        ("BF16", vec!["bf16", "bfloat16", "BF16"]),
        ("F8_E4M3", vec!["f8e4m3", "fp8", "float8_e4m3fn", "float8-e4m3fn", "fp8_e4m3fn", "F8_E4M3"]),
        ("F8_E5M2", vec!["f8e5m2", "fp8_e5m2", "float8_e5m2", "F8_E5M2"]),
    ];
    let (base, vae) = (fixture("tiny-sd1.safetensors"), fixture("tiny-vae.ckpt"));
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let plan = |command: &[&str], option: &str, name: &str| {
        let mut arguments: Vec<std::ffi::OsString> = command.iter().map(Into::into).collect();
        arguments.extend([base.clone().into(), "-o".into(), output.clone().into(), option.into(), name.into()]);
        if command == ["merge-vae"] {
            arguments.extend(["--vae".into(), vae.clone().into()]);
        }
        arguments.extend(["--dry-run".into(), "--saturate".into()]);
        crate::support::run(&arguments).done()
    };
    for (command, option) in [("convert", "--dtype"), ("convert", "--vae-dtype"), ("merge-vae", "--vae-dtype")] {
        for (_, aliases) in &names {
            let first = plan(&[command], option, aliases[0]);
            for alias in aliases {
                assert_eq!(plan(&[command], option, alias), first, "{command} {option} {alias}");
            }
        }
    }
    let cast = plan(&["convert"], "--dtype", "float8_e4m3fn");
    assert!(cast.contains("cast F32 to F8_E4M3"), "{cast}");
}

#[test]
fn a_mistyped_word_gets_a_suggestion() {
    let cases: [(&[&str], &str); 8] = [
        (&["covert", "a"], "'convert'"),
        (&["convert", "a", "-o", "b", "--dtpe", "f16"], "'--dtype'"),
        (&["convert", "a", "-o", "b", "--dtype", "flaot16"], "'f16'"),
        (&["convert", "a", "-o", "b", "--dtype", "fp-17"], "'f16'"),
        (&["convert", "a", "-o", "b", "--unet-dtype", "bflaot16"], "'bf16'"),
        (&["merge-vae", "a", "-o", "b", "--vae-dtype", "mach"], "'match'"),
        (&["convert", "a", "-o", "b", "--ema", "dorp"], "'drop'"),
        (&["man", "mergevae"], "'merge-vae'"),
    ];
    for (arguments, suggestion) in cases {
        let ran = Ran::from(Command::new(PROGRAM).args(arguments).output().unwrap());
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert!(ran.stderr.contains("similar") && ran.stderr.contains(suggestion), "{arguments:?}: {}", ran.stderr);
    }
    let unlike = run!["convert", "a", "-o", "b", "--dtype", "int8"];
    assert!(!unlike.stderr.contains("similar"), "{}", unlike.stderr);
}

#[cfg(feature = "render")]
#[test]
fn a_mistyped_sampler_or_schedule_gets_a_suggestion() {
    let render = |option: &str, value: &str| run!["render-check", "missing.ckpt", "-o", "b.png", option, value];
    let cases = [
        ("--sampler", "Eular a", "'Euler a'"),
        ("--sampler", "eular-a", "'Euler a'"),
        ("--sampler", "dpm++ 2m karas", "'DPM++ 2M Karras'"),
        ("--sampler", "DPM++ 3M SDE Exponental", "'DPM++ 3M SDE Exponential'"),
        ("--sampler", "k_eular", "'Euler'"),
        ("--sampler", "UniPCC", "'UniPC'"),
        ("--schedule", "Karas", "'Karras'"),
        ("--schedule", "sgm-unifrom", "'SGM Uniform'"),
        ("--schedule", "auto", "'Automatic'"),
    ];
    for (option, value, suggestion) in cases {
        let ran = render(option, value);
        assert_eq!(ran.code, Some(2), "{value}");
        assert!(ran.stderr.contains("similar") && ran.stderr.contains(suggestion), "{value}: {}", ran.stderr);
    }
    for (option, value) in [("--sampler", "ancestral"), ("--sampler", "xyz"), ("--schedule", "none")] {
        let ran = render(option, value);
        assert_eq!(ran.code, Some(2), "{value}");
        assert!(ran.stderr.contains("possible values") && !ran.stderr.contains("similar"), "{value}: {}", ran.stderr);
    }
    let known = ["Euler a", "euler_a", "EULER-A", "k_euler_a", "k_dpmpp_2m_ka", "dpm++-2m-sde-karras", "ddim_cfg++"];
    for value in known {
        render("--sampler", value).refused(&["missing.ckpt"]);
    }
    for value in ["automatic", "sgm_uniform", "SGM-Uniform", "SGMUniform", "Align Your Steps", "align-your-steps"] {
        render("--schedule", value).refused(&["missing.ckpt"]);
    }
}
