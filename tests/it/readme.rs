//! Runs the transcripts of the README and compares the output.

use std::path::Path;
use std::process::Command;

/// A command of a transcript and its expected output.
struct Step {
    command: String,
    printed: String,
}

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
