//! Scans files that Python's libraries write and load.
//!
//! Needs the Python environment that `python3 tests/peers/install.py` creates. Without it every test here is skipped
//! with a message.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::peers::Peers;
use crate::support::{self, Folder};

/// The path and the verdict of each file in a folder that the scan lists.
fn verdicts(folder: &Path) -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&run!["scan", folder, "--json=document"].stdout).unwrap();
    let text = |file: &Value, field: &str| file[field].as_str().unwrap().to_owned();
    document["files"].as_array().unwrap().iter().map(|file| (text(file, "file"), text(file, "verdict"))).collect()
}

/// Asserts that a folder has this number of files, and that each of them is safe.
#[track_caller]
fn assert_all_safe(folder: &Path, expected: usize) {
    let verdicts = verdicts(folder);
    let others: Vec<_> = verdicts.iter().filter(|(_, verdict)| verdict != "safe").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(verdicts.len(), expected);
}

#[test]
fn finds_every_file_that_acts_when_python_loads_it() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let inert = peers.write_scan_files("acting", folder.path(), &[]);
    assert_eq!(inert, "[]", "files that do not act do not test anything");
    let verdicts = verdicts(folder.path());
    let missed: Vec<_> =
        verdicts.iter().filter(|(_, verdict)| verdict != "dangerous" && verdict != "unreadable").collect();
    assert!(missed.is_empty(), "{missed:?}");
    // Each file is listed: none is skipped.
    assert_eq!(verdicts.len(), fs::read_dir(folder.path()).unwrap().count());
    assert!(verdicts.len() > 150);
}

#[test]
fn rates_clean_checkpoints_safe() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    peers.write_scan_files("clean", folder.path(), &["40"]);
    assert_all_safe(folder.path(), 40);
    let output = folder.join("converted");
    fs::create_dir(&output).unwrap();
    let mut arguments = ["convert", "--to", "safetensors", "--out-dir"].map(OsString::from).to_vec();
    arguments.push(output.clone().into());
    arguments.extend((0..40).map(|index| folder.join(&format!("{index}.ckpt")).into()));
    assert_eq!(support::run(&arguments).code, Some(0));
    assert_all_safe(&output, 40);
}

#[test]
fn rates_honest_files_of_other_kinds_safe() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    peers.write_scan_files("honest", folder.path(), &[]);
    assert_all_safe(folder.path(), fs::read_dir(folder.path()).unwrap().count());
}
