//! The JSON Schemas in `docs/schema`: they are those of the reports, and what the commands print fits them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use jsonschema::Validator;
use serde_json::Value;

use crate::support::{Folder, Ran, fixture, run};
use trinart_ckpt::cli::schemas;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/schema")
}

/// Writes the files with `UPDATE_SCHEMAS=1`.
#[test]
fn the_files_are_those_of_the_reports() {
    let is_update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    let mut expected = Vec::new();
    for (command, schema) in schemas() {
        let (path, text) =
            (folder().join(format!("{command}.json")), serde_json::to_string_pretty(&schema).unwrap() + "\n");
        if is_update {
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        let is_current = found.lines().eq(text.lines());
        assert!(is_current, "{} is outdated; UPDATE_SCHEMAS=1 cargo test --test it schema:: writes it", path.display());
        expected.push(format!("{command}.json"));
    }
    if !cfg!(feature = "render") {
        expected.push("render-check.json".to_owned());
    }
    let names = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unknown: Vec<String> = names.filter(|name| !expected.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The documents that a command prints: one, or one per line.
fn documents(ran: &Ran) -> Vec<Value> {
    match serde_json::from_str(&ran.stdout) {
        Ok(document) => vec![document],
        Err(_) => ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    }
}

/// Asserts that each document fits the schema of its command, and does not without any one of its fields that every document
/// of its kind has.
#[track_caller]
fn assert_fits(validator: &Validator, command: &str, ran: &Ran, count: usize) {
    let found = documents(ran);
    assert_eq!(found.len(), count, "{command}: {} {}", ran.stdout, ran.stderr);
    for document in found {
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{command}: {errors:?} in {document}");
        for field in ["schema", "file", "files", "results", "ledger", "summary", "pages", "script"] {
            // The error of a file is also one of the command.
            if field == "file" && document.get("error").is_some() {
                continue;
            }
            let mut less = document.clone();
            if less.as_object_mut().unwrap().remove(field).is_some() {
                assert!(!validator.is_valid(&less), "{command} fits without {field}: {less}");
            }
        }
    }
}

#[test]
fn what_the_commands_print_fits() {
    let validators: BTreeMap<&str, Validator> = schemas()
        .into_iter()
        .map(|(command, schema)| (command, jsonschema::validator_for(schema.as_value()).unwrap()))
        .collect();
    let folder = Folder::new();
    for (from, to) in [
        ("tiny-sd1.ckpt", "models/a.ckpt"),
        ("tiny-sd1.safetensors", "models/sub/b.safetensors"),
        ("tiny-vae.ckpt", "models/a.vae.pt"),
        ("hostile/calls-system.ckpt", "models/evil.ckpt"),
    ] {
        fs::create_dir_all(folder.join("models/sub")).unwrap();
        folder.copy_fixture(from, to);
    }
    folder.write("models/cut.safetensors", "cut");
    folder.write("models/left.safetensors.part", "half");
    let (models, base) = (folder.join("models"), fixture("tiny-sd1.ckpt"));
    let (vae, missing) = (fixture("tiny-vae.ckpt"), folder.join("missing.ckpt"));
    let (merged, small) = (folder.join("merged.safetensors"), folder.join("small.ckpt"));
    let checked = |arguments: &[&dyn AsRef<std::ffi::OsStr>], count: usize| {
        let words: Vec<OsString> = arguments.iter().map(|word| word.as_ref().to_owned()).collect();
        let command = words[0].to_str().unwrap();
        assert_fits(&validators[command], command, &run(&words), count);
    };
    checked(&[&"merge-vae", &base, &"--vae", &vae, &"-o", &merged, &"--json"], 1);
    checked(&[&"merge-vae", &models, &"--out-dir", &folder.join("out"), &"--to", &"ckpt", &"--json"], 6);
    checked(&[&"convert", &base, &"--prune", &"--dtype", &"f16", &"-o", &small, &"--json"], 1);
    checked(&[&"convert", &base, &"-o", &folder.join("folder/"), &"--to", &"diffusers", &"--json", &"--dry-run"], 1);
    checked(&[&"convert", &models, &"--out-dir", &folder.join("new"), &"--to", &"ckpt", &"--json=document"], 1);
    checked(&[&"convert", &missing, &"-o", &small, &"--json"], 1);
    for command in ["inspect", "hash"] {
        checked(&[&command, &base, &"--json"], 1);
        checked(&[&command, &models, &"--json"], 5);
        checked(&[&command, &missing, &"--json"], 1);
    }
    checked(&[&"inspect", &merged, &"--keys", &"--tree=3", &"--vae-dir", &models, &"--json"], 1);
    checked(&[&"audit", &models, &"--json"], 7);
    checked(&[&"audit", &models, &"--json=document", &"--deep", &"--no-cache"], 1);
    checked(&[&"scan", &models, &"--json"], 6);
    checked(&[&"scan", &base, &"--json"], 1);
    checked(&[&"scan", &base, &"--allow", &"*", &"--json"], 1);
    checked(&[&"diff", &base, &merged, &"--json"], 1);
    checked(&[&"diff", &base, &missing, &"--json"], 1);
    checked(&[&"diff", &models, &folder.join("new"), &"--json=document"], 1);
    checked(&[&"completions", &"bash", &"--json"], 1);
    #[cfg(feature = "render")]
    {
        let (model, picture) = (fixture("small_model/small.ckpt"), folder.join("a.png"));
        let options = ["--steps", "2", "--size", "64x64", "--json"];
        let [steps, two, size, small, json] = options.each_ref();
        checked(&[&"render-check", &model, &"-o", &picture, steps, two, size, small, json], 1);
        let models = [&models, &folder.join("pictures")];
        checked(&[&"render-check", models[0], &"--out-dir", models[1], size, small, steps, two, json], 4);
    }
    checked(&[&"man", &"convert", &"--json"], 1);
}
