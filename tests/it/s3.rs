//! Inputs and outputs in S3, with a real server of its interface.

use std::fs;

use serde_json::Value;
use trinart_ckpt_formats::tensor::Dtype;

use crate::support::cloud::Store;
use crate::support::{Folder, assert_one_line, fixture, save, tensor};

/// A file of 24 MB: three parts of an upload, and more than a read has.
fn large(folder: &Folder) -> std::path::PathBuf {
    let path = folder.join("large.safetensors");
    let numbers =
        |index: u64| (0..500_000_u32).flat_map(|it| ((it % 1000) as f32 + index as f32).to_le_bytes()).collect();
    save(&path, (0..12).map(|index| (format!("layer.{index}.weight"), tensor(Dtype::F32, &[500_000], numbers(index)))));
    path
}

#[test]
fn reads_and_writes_objects() {
    let Some(store) = Store::start() else { return };
    let folder = Folder::new();
    let path = large(&folder);
    store.put("in/large.safetensors", &fs::read(&path).unwrap());
    for name in ["tiny-sd1.ckpt", "tiny-vae.vae.pt"] {
        store.put(&format!("in/sub/{name}"), &fs::read(fixture(name)).unwrap());
    }
    store.log();
    let report = store.run(&["inspect", "s3://models/in/large.safetensors", "--json"]).json();
    assert_eq!(report["files"][0]["tensors"], 12);
    let log = store.log();
    assert!(log.len() == 1 && log[0].2 < 1_000_000, "{log:?}");
    // A prefix is a folder.
    let report: Value = store.run(&["inspect", "s3://models/in", "--json=document"]).json();
    let files: Vec<&str> = report["files"].as_array().unwrap().iter().map(|it| it["file"].as_str().unwrap()).collect();
    let found = ["large.safetensors", "sub/tiny-sd1.ckpt", "sub/tiny-vae.vae.pt"];
    assert_eq!(files, found.map(|name| format!("s3://models/in/{name}")));

    let local = folder.join("local.safetensors");
    store.run(&["convert", path.to_str().unwrap(), "-o", local.to_str().unwrap(), "-q"]).done();
    let output = "s3://models/out/large.safetensors";
    let report = store.run(&["convert", "s3://models/in/large.safetensors", "-o", output, "--json"]).json();
    assert_eq!((&report["verified"], &report["output"]), (&true.into(), &output.into()));
    assert!(store.get("out/large.safetensors").unwrap() == fs::read(&local).unwrap());
    let parts = store.log().iter().filter(|(method, path, _)| method == "PUT" && path.contains("partNumber=")).count();
    assert_eq!(parts, 3);
    // An existing object is replaced on request only.
    let small = fixture("tiny-sd1.ckpt");
    let again = ["convert", small.to_str().unwrap(), "-o", output, "-q"];
    store.run(&again).refused(&[output, "already exists", "--force"]);
    store.run(&[&again[..], &["--force"]].concat()).done();
    assert!(store.get("out/large.safetensors").unwrap().len() < 2_000_000);
    // A folder of inputs and outputs.
    let batch = ["merge-vae", "s3://models/in/sub/tiny-sd1.ckpt", "--vae", "s3://models/in/sub/tiny-vae.vae.pt"];
    let batch = [&batch[..], &["--out-dir", "s3://models/merged", "--skip-existing", "--json=document"]].concat();
    store.run(&batch).json();
    let (vae, expected) = (fixture("tiny-vae.vae.pt"), folder.join("expected.ckpt"));
    store
        .run(&[
            "merge-vae",
            small.to_str().unwrap(),
            "--vae",
            vae.to_str().unwrap(),
            "-o",
            expected.to_str().unwrap(),
            "-q",
        ])
        .done();
    assert!(store.get("merged/tiny-sd1.ckpt").unwrap() == fs::read(expected).unwrap());
    store.log();
    store.run(&batch).json();
    assert!(store.log().iter().all(|(method, ..)| method != "PUT"), "a rerun writes nothing");
}

#[test]
fn an_upload_that_fails_leaves_nothing() {
    let Some(store) = Store::start() else { return };
    let folder = Folder::new();
    let path = large(&folder);
    store.ask("GET", "/_test/refuse?2", b"");
    let output = "s3://models/out.safetensors";
    let ran = store.run(&["convert", path.to_str().unwrap(), "-o", output]);
    ran.refused(&[output, "refuses the credentials"]);
    assert_eq!(store.get("out.safetensors"), None);
    assert_eq!(store.open_uploads(), "0");
    // What was there before stays.
    store.put("out.safetensors", b"before");
    store.run(&["convert", path.to_str().unwrap(), "-o", output, "--force"]).refused(&[output]);
    assert_eq!(store.get("out.safetensors").unwrap(), b"before");
    assert_eq!(store.open_uploads(), "0");
}

#[test]
fn says_in_one_line_what_is_wrong_and_no_secret() {
    let Some(store) = Store::start() else { return };
    let base = fixture("tiny-sd1.ckpt");
    let base = base.to_str().unwrap();
    let mut all = String::new();
    for (arguments, words) in [
        (vec!["inspect", "s3://models/nothing.ckpt"], &["s3://models/nothing.ckpt", "no such object"][..]),
        (vec!["inspect", "s3://models"], &["s3://models"]),
        (vec!["inspect", "s3://no-bucket/a.ckpt"], &["s3://no-bucket/a.ckpt"]),
        (vec!["convert", base, "-o", "s3://models/folder", "--to", "diffusers"], &["a folder cannot be written"]),
        (vec!["convert", base, "-o", "https://localhost/a.ckpt"], &["expected a path or s3://"]),
        (vec!["convert", base, "--out-dir", "s3://models/out", "--update"], &["no record of earlier runs"]),
    ] {
        let ran = store.run(&arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert_one_line(ran.stderr.lines().next().map(|line| format!("{line}\n")).as_deref().unwrap(), words);
        all += &(ran.stdout + &ran.stderr);
    }
    assert!(!all.contains(Store::SECRET) && !all.contains("KeyIdOfTheTest"), "{all}");
}
