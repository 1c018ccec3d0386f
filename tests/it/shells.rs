//! Completion scripts in the shells that run them, and manual pages in the programs that show them. A test is skipped with
//! a message if its program is missing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::help::commands;
use crate::support::{Folder, Ran};

/// Whether a program can be started. Prints a message if not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn bash_completes_commands_options_values_and_files() {
    if !has("bash") {
        return;
    }
    let folder = Folder::new();
    let script = folder.write("script.bash", run!["completions", "bash"].done());
    let complete = |line: &str| -> String {
        let words = line.split(' ').collect::<Vec<_>>();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        // bash calls the function that is registered for the command with the command, the word and the word before it. Its
        // compopt fails elsewhere.
        let test = format!(
            "compopt() {{ :; }}; source '{}'; registered=$(complete -p trinart-ckpt) || exit 1; \
             registered=${{registered##*-F }}; COMP_WORDS=({} {}); COMP_CWORD={}; \
             ${{registered%% *}} trinart-ckpt '{last}' '{before}'; IFS='|'; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            words[..words.len() - 1].join(" "),
            if last.is_empty() { "''" } else { last },
            words.len() - 1
        );
        let ran = Ran::from(Command::new("bash").args(["--norc", "--noprofile", "-c", &test]).output().unwrap());
        ran.done().trim_end().to_owned()
    };
    assert_eq!(complete("trinart-ckpt conv"), "convert");
    assert_eq!(complete("trinart-ckpt convert a.ckpt --text"), "--text-encoder-dtype");
    assert_eq!(complete("trinart-ckpt convert a.ckpt --dtype b"), "bf16");
    assert_eq!(complete("trinart-ckpt scan --color "), "auto|always|never");
    let file = folder.write("a b.ckpt", "");
    let (path, start) = (file.to_str().unwrap(), folder.join("a"));
    for option in ["merge-vae --vae", "merge-vae -o", "audit --html"] {
        assert_eq!(complete(&format!("trinart-ckpt {option} {}", start.display())), path, "{option}");
    }
    if cfg!(feature = "render") {
        assert_eq!(complete("trinart-ckpt render-check a.ckpt --sampler dpm++_2m_sde_"), "dpm++_2m_sde_heun");
        assert_eq!(complete("trinart-ckpt render-check a.ckpt --schedule s"), "sgm_uniform|simple");
    }
}

#[test]
fn zsh_completes_commands_options_and_values() {
    if !has("zsh") {
        return;
    }
    let folder = Folder::new();
    folder.write("_trinart-ckpt", run!["completions", "zsh"].done());
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/complete.zsh");
    let mut lines = vec!["trinart-ckpt conv", "trinart-ckpt convert --text", "trinart-ckpt convert --dtype b"];
    let mut expected =
        vec!["trinart-ckpt convert", "trinart-ckpt convert --text-encoder-dtype", "trinart-ckpt convert --dtype bf16"];
    if cfg!(feature = "render") {
        lines.push("trinart-ckpt render-check --schedule SG");
        expected.push(r"trinart-ckpt render-check --schedule SGM\ Uniform");
    }
    let ran = Command::new("zsh").arg("-f").arg(driver).arg(folder.path()).args(lines).output().unwrap();
    let printed = Ran::from(ran).done();
    // A value may follow an option after = or a space.
    let completed: Vec<_> = printed.lines().map(|line| line.trim_end_matches([' ', '='])).collect();
    assert_eq!(completed, expected);
}

#[test]
fn fish_completes_commands_options_and_values() {
    if !has("fish") {
        return;
    }
    let folder = Folder::new();
    let script = folder.write("script.fish", run!["completions", "fish"].done());
    let complete = |line: &str| -> Vec<String> {
        let test = format!("source '{}'; complete -C 'trinart-ckpt {line}'", script.display());
        let printed = Ran::from(Command::new("fish").args(["--no-config", "-c", &test]).output().unwrap()).done();
        printed.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
    };
    assert_eq!(complete("conv"), ["convert"]);
    assert_eq!(complete("scan --al"), ["--allow"]);
    assert_eq!(complete("scan --color "), ["always", "auto", "never"]);
    assert_eq!(complete("--color "), ["always", "auto", "never"]);
    assert_eq!(complete("completions "), ["bash", "elvish", "fish", "powershell", "zsh"]);
    assert_eq!(complete("man sc"), ["scan"]);
    if cfg!(feature = "render") {
        assert_eq!(complete("render-check a.ckpt --sampler dpm++_2m_sde_"), ["dpm++_2m_sde_heun"]);
    }
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run!["completions", shell].done();
        for command in commands() {
            assert!(script.contains(&command), "{shell} does not complete {command}");
        }
        assert!(!script.contains('\x1b'), "{shell}");
    }
}

#[test]
fn the_manual_renders_without_warnings() {
    let folder = Folder::new();
    fs::create_dir(folder.join("pages")).unwrap();
    let written = run!["man", "--out-dir", folder.join("pages")].done();
    assert_eq!(written.lines().count(), commands().len() + 1, "{written}");
    run!["man", "--out-dir", folder.join("pages")].refused(&["already exists", "--force"]);
    run!["man", "--out-dir", folder.join("pages"), "--force"].done();
    let whole = folder.write("whole.1", run!["man"].done());
    let pages: Vec<_> = written.lines().map(Path::new).chain([whole.as_path()]).collect();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains("\n.SH NAME\ntrinart\\-ckpt") && text.contains("EXIT STATUS"), "{text}");
        if has("man") {
            let ran =
                Command::new("man").args(["--warnings=w", "-l"]).arg(page).env("MANPAGER", "cat").output().unwrap();
            let shown = Ran::from(ran).done();
            assert!(shown.contains("EXIT STATUS") && shown.contains("--json"), "{shown}");
        }
        if has("mandoc") {
            let ran = Command::new("mandoc").args(["-T", "lint"]).arg(page).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
        }
    }
    let whole = run!["man"].done();
    for command in commands() {
        assert!(whole.contains(&format!("\n.SH \"TRINART-CKPT {}\"\n", command.to_uppercase())), "{command}");
    }
}
