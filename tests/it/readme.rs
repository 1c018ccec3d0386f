//! Runs the transcripts of the README and compares the output.

use std::path::Path;
#[cfg(unix)]
use std::process::Command;

use serde_json::Value;

use crate::support::{Folder, fixture};

#[cfg(unix)]
/// A command of a transcript and its expected output.
struct Step {
    command: String,
    printed: String,
}

#[cfg(unix)]
fn transcripts(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), printed: String::new() }),
                None => steps.last_mut().unwrap().printed.push_str(&format!("{line}\n")),
            }
        }
    }
    steps
}

/// The transcripts show paths with slashes.
#[cfg(unix)]
#[test]
fn transcripts_match_the_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let steps = transcripts(&std::fs::read_to_string(root.join("README.md")).unwrap());
    assert!(steps.len() >= 6, "the README has fewer transcripts than expected");
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("fixtures"), folder.path().join("fixtures")).unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    let mut exit = String::new();
    for step in steps {
        if step.command == "echo $?" {
            assert_eq!(format!("{exit}\n"), step.printed);
            continue;
        }
        let arguments = step.command.strip_prefix("trinart-ckpt ").expect("transcripts run only trinart-ckpt");
        let output = Command::new(env!("CARGO_BIN_EXE_trinart-ckpt"))
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let printed = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8(printed).unwrap(), step.printed, "$ {}", step.command);
        exit = output.status.code().unwrap().to_string();
    }
}

#[test]
fn the_json_table_lists_every_field() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("\n## JSON\n").nth(1).unwrap();
    let folder = Folder::new();
    let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.ckpt"));
    let output = folder.join("out.safetensors");
    let runs = [
        ("[`merge-vae`]", run!["merge-vae", &base, "--vae", &vae, "-o", &output, "--json"]),
        ("`convert --out-dir`", run!["convert", &base, "--out-dir", folder.path(), "--to", "ckpt", "--json"]),
        ("[`inspect`]", run!["inspect", &base, "--keys", "--json"]),
        ("[`hash`]", run!["hash", &base, "--json"]),
        ("[`audit`]", run!["audit", &base, "--deep", "--no-cache", "--json"]),
        ("[`diff`]", run!["diff", &base, &vae, "--json"]),
        ("[`scan`]", run!["scan", &base, "--json"]),
        ("An error", run!["inspect", "--json", folder.join("missing"), "-q"]),
    ];
    for (start, ran) in runs {
        let line = section.lines().find(|line| line.trim_start_matches("| ").starts_with(start)).unwrap();
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        let fields = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let listed = match start {
            "An error" => fields(&document["files"][0]["error"]),
            "`convert --out-dir`" => fields(&document),
            _ => {
                let of_file = document["files"].get(0).map_or_else(Vec::new, fields);
                [fields(&document), of_file].concat()
            }
        };
        for field in listed.iter().filter(|field| *field != "schema") {
            let is_listed = [format!("`{field}`"), format!("\"{field}\"")].iter().any(|word| line.contains(word));
            assert!(is_listed, "{start}: {field} is not in {line}");
        }
    }
}
