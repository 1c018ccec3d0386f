//! Inputs and outputs in S3, with two real servers of its interface.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use trinart_ckpt_formats::tensor::Dtype;

use crate::remote::{content, run_at, server_of};
use crate::support::cloud::{Store, assert_no_secret};
use crate::support::hub::Hub;
use crate::support::{Folder, assert_one_line, fixture, save, tensor};

/// A file of 24 MB: three parts of an upload, and more than a read has.
pub(crate) fn large(folder: &Folder) -> PathBuf {
    let path = folder.join("large.safetensors");
    let numbers =
        |index: u64| (0..500_000_u32).flat_map(|it| ((it % 1000) as f32 + index as f32).to_le_bytes()).collect();
    save(&path, (0..12).map(|index| (format!("layer.{index}.weight"), tensor(Dtype::F32, &[500_000], numbers(index)))));
    path
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn reads_and_writes_objects() {
    for store in Store::all() {
        let folder = Folder::new();
        let path = large(&folder);
        store.put("in/large.safetensors", &fs::read(&path).unwrap());
        for name in ["tiny-sd1.ckpt", "tiny-vae.vae.pt"] {
            store.put(&format!("in/sub/{name}"), &fs::read(fixture(name)).unwrap());
        }
        let report = store.run(&["inspect", "s3://models/in/large.safetensors", "--json"]).json();
        assert_eq!(report["files"][0]["tensors"], 12);
        let (requests, bytes, _) = store.cost();
        assert!(requests == 1 && bytes < 1_000_000, "{}: {requests} requests, {bytes} bytes", store.name);
        // A prefix is a folder.
        let report: Value = store.run(&["inspect", "s3://models/in", "--json=document"]).json();
        let files = report["files"].as_array().unwrap().iter();
        let files: Vec<&str> = files.map(|it| it["file"].as_str().unwrap()).collect();
        let found = ["large.safetensors", "sub/tiny-sd1.ckpt", "sub/tiny-vae.vae.pt"];
        assert_eq!(files, found.map(|name| format!("s3://models/in/{name}")));

        let local = folder.join("local.safetensors");
        store.run(&["convert", text(&path), "-o", text(&local), "-q"]).done();
        let output = "s3://models/out/large.safetensors";
        store.log();
        let report = store.run(&["convert", "s3://models/in/large.safetensors", "-o", output, "--json"]).json();
        assert_eq!((&report["verified"], &report["output"]), (&true.into(), &output.into()));
        assert!(store.get("out/large.safetensors").unwrap() == fs::read(&local).unwrap());
        let log = store.log();
        let parts = log.iter().filter(|asked| asked.method == "PUT" && asked.path.contains("partNumber=")).count();
        assert_eq!(parts, 3);
        let read: u64 = log.iter().filter(|asked| asked.path.contains("/in/")).map(|asked| asked.sent).sum();
        let len = fs::metadata(&path).unwrap().len();
        assert!((len..len + 1000).contains(&read), "each byte once, and a last look: {read} of {len}");
        // An existing object is replaced on request only.
        let small = fixture("tiny-sd1.ckpt");
        let again = ["convert", text(&small), "-o", output, "-q"];
        store.run(&again).refused(&[output, "already exists", "--force"]);
        store.run(&[&again[..], &["--force"]].concat()).done();
        assert!(store.get("out/large.safetensors").unwrap().len() < 2_000_000);
        // A folder of inputs and outputs.
        let batch = ["merge-vae", "s3://models/in/sub/tiny-sd1.ckpt", "--vae", "s3://models/in/sub/tiny-vae.vae.pt"];
        let batch = [&batch[..], &["--out-dir", "s3://models/merged", "--skip-existing", "--json=document"]].concat();
        store.run(&batch).json();
        let (vae, expected) = (fixture("tiny-vae.vae.pt"), folder.join("expected.ckpt"));
        store.run(&["merge-vae", text(&small), "--vae", text(&vae), "-o", text(&expected), "-q"]).done();
        assert!(store.get("merged/tiny-sd1.ckpt").unwrap() == fs::read(expected).unwrap());
        store.log();
        store.run(&batch).json();
        assert!(!store.cost().2, "a rerun writes nothing");
    }
}

#[test]
fn says_in_one_line_what_is_wrong_and_no_secret() {
    for store in Store::all() {
        let base = fixture("tiny-sd1.ckpt");
        let base = text(&base);
        let mut all = String::new();
        for (arguments, words) in [
            (vec!["inspect", "s3://models/nothing.ckpt"], &["s3://models/nothing.ckpt", "no such object"][..]),
            (vec!["inspect", "s3://models"], &["s3://models"]),
            (vec!["inspect", "s3://no-bucket/a.ckpt"], &["s3://no-bucket/a.ckpt", "no such"]),
            (vec!["inspect", "s3://no-bucket/folder"], &["s3://no-bucket/folder", "no such"]),
            (vec!["convert", base, "-o", "s3://models/folder", "--to", "diffusers"], &["a folder cannot be written"]),
            (vec!["convert", base, "-o", "https://localhost/a.ckpt"], &["expected a path or s3://"]),
        ] {
            let ran = store.run(&arguments);
            assert_eq!(ran.code, Some(2), "{}: {arguments:?}", store.name);
            let first = ran.stderr.lines().next().map(|line| format!("{line}\n"));
            assert_one_line(first.as_deref().unwrap(), words);
            all += &(ran.stdout + &ran.stderr);
        }
        if store.name == "s3s-fs" {
            store.put("a.ckpt", &fs::read(base).unwrap());
            for arguments in [&["inspect", "s3://models/a.ckpt"][..], &["convert", base, "-o", "s3://models/b.ckpt"]] {
                let mut command = store.command(arguments);
                command.env("AWS_SECRET_ACCESS_KEY", format!("{}Wrong", Store::SECRET));
                let ran = crate::support::Ran::from(command.output().unwrap());
                ran.refused(&["refuses the credentials"]);
                all += &ran.stderr;
            }
            assert_eq!(store.get("b.ckpt"), None);
        }
        assert_no_secret(&all);
    }
}

/// The paths and contents of a batch's results: what became of each output.
fn outcomes(document: &Value) -> Vec<String> {
    let outcome = |result: &Value| match (&result["skipped"], &result["output"]) {
        (Value::String(reason), _) => reason.clone(),
        (_, Value::String(output)) => output.clone(),
        _ => result["error"]["message"].as_str().unwrap().to_owned(),
    };
    document["results"].as_array().unwrap().iter().map(outcome).collect()
}

#[test]
fn an_update_writes_what_has_changed_alone() {
    for store in Store::all() {
        let folder = Folder::new();
        let file = |value: f32| {
            let path = folder.join("file.safetensors");
            let _ = fs::remove_file(&path);
            save(&path, [("layer.weight".to_owned(), tensor(Dtype::F32, &[4], value.to_le_bytes().repeat(4)))]);
            fs::read(path).unwrap()
        };
        for (index, name) in ["a", "b"].iter().enumerate() {
            store.put(&format!("in/{name}.safetensors"), &file(index as f32));
        }
        let update = |options: &[&str]| {
            let run = ["convert", "s3://models/in", "--out-dir", "s3://models/in/out", "--update", "--json=document"];
            let ran = store.run(&[&run[..], options].concat());
            (outcomes(&serde_json::from_str(&ran.stdout).unwrap()), store.cost().2)
        };
        let [a, b] = ["a", "b"].map(|name| format!("s3://models/in/out/{name}.safetensors"));
        assert_eq!(update(&["--dtype", "f16"]).0, [a.clone(), b.clone()], "{}", store.name);
        assert_eq!(update(&["--dtype", "f16"]), (vec!["up-to-date".to_owned(); 2], false));
        // Another input, and other options.
        store.put("in/b.safetensors", &file(7.0));
        assert_eq!(update(&["--dtype", "f16"]).0, ["up-to-date".to_owned(), b.clone()]);
        assert_eq!(update(&["--dtype", "bf16"]).0, [a.clone(), b.clone()]);
        assert_eq!(update(&["--dtype", "bf16"]), (vec!["up-to-date".to_owned(); 2], false));
        let expected = folder.join("expected.safetensors");
        let input = folder.write("b.safetensors", file(7.0));
        run_at(None, &["convert", text(&input), "-o", text(&expected), "--dtype", "bf16", "-q"]).done();
        assert!(store.get("in/out/b.safetensors").unwrap() == fs::read(&expected).unwrap());
        // One that no such run has written stays.
        let plain = ["convert", text(&input), "-o", "s3://models/in/out/b.safetensors", "--force", "-q"];
        store.run(&plain).done();
        store.log();
        let (found, wrote) = update(&["--dtype", "bf16"]);
        assert!(found[0] == "up-to-date" && found[1].contains("already exists") && !wrote, "{found:?}");

        // A single output, of a file on this machine.
        let output = "s3://models/single.safetensors";
        let one = ["convert", text(&input), "-o", output, "--dtype", "f16", "--json", "--update"];
        assert_eq!(store.run(&one).json()["output"], output);
        store.log();
        assert_eq!(store.run(&one).json()["skipped"], "up-to-date");
        assert!(!store.cost().2);
        fs::write(&input, file(8.0)).unwrap();
        assert_eq!(store.run(&one).json()["output"], output);
        let skip = ["convert", text(&input), "-o", output, "--json", "--skip-existing"];
        assert_eq!(store.run(&skip).json()["skipped"], "exists");
    }
}

#[test]
fn an_update_of_a_merge_follows_the_vae() {
    for store in Store::all() {
        let vae = fs::read(fixture("tiny-vae.vae.pt")).unwrap();
        store.put("a.ckpt", &fs::read(fixture("tiny-sd1.ckpt")).unwrap());
        store.put("a.vae.pt", &vae);
        store.put("vae.pt", &vae);
        for given in [&["--vae", "s3://models/vae.pt"][..], &[]] {
            let output = format!("s3://models/{}.ckpt", given.len());
            let merge = ["merge-vae", "s3://models/a.ckpt", "-o", &output, "--json", "--update"];
            let merge = [&merge[..], given].concat();
            assert_eq!(store.run(&merge).json()["output"], output);
            assert_eq!(store.run(&merge).json()["skipped"], "up-to-date", "{given:?}");
            // A VAE of the same tensors in another container.
            let key = if given.is_empty() { "a.vae.pt" } else { "vae.pt" };
            store.put(key, &fs::read(fixture("tiny-vae.ckpt")).unwrap());
            assert_eq!(store.run(&merge).json()["output"], output, "{given:?}");
        }
    }
}

#[test]
fn files_beside_an_object_are_found() {
    for store in Store::all() {
        let folder = Folder::new();
        let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.vae.pt"));
        store.put("in/model.ckpt", &fs::read(&base).unwrap());
        let found = store.run(&["merge-vae", "s3://models/in/model.ckpt", "-o", "s3://models/x.ckpt"]);
        found.refused(&["s3://models/in/model.ckpt", "no VAE beside the checkpoint", "--vae"]);
        // Another model's, by its name.
        store.put("in/model-v2.vae.pt", &fs::read(&vae).unwrap());
        let found = store.run(&["merge-vae", "s3://models/in/model.ckpt", "-o", "s3://models/x.ckpt"]);
        found.refused(&["model-v2.vae.pt", "may belong to another checkpoint"]);
        store.put("in/model.vae.pt", &fs::read(&vae).unwrap());
        for (name, content) in [("model.txt", "words"), ("model.preview.png", "a picture"), ("other.txt", "no")] {
            store.put(&format!("in/{name}"), content.as_bytes());
        }
        store.run(&["merge-vae", "s3://models/in/model.ckpt", "-o", "s3://models/out/beside.ckpt", "-q"]).done();
        let expected = folder.join("expected.ckpt");
        let local = folder.join("model.ckpt");
        fs::copy(&base, &local).unwrap();
        fs::copy(&vae, folder.join("model.vae.pt")).unwrap();
        run_at(None, &["merge-vae", text(&local), "-o", text(&expected), "-q"]).done();
        assert!(store.get("out/beside.ckpt").unwrap() == fs::read(&expected).unwrap(), "{}", store.name);

        // Carried from S3 to S3, to a folder, and back. A VAE stays with its checkpoint.
        let there = folder.join("there");
        let carry = |input: &str, to: &str, options: &[&str]| {
            let run = ["convert", input, "--out-dir", to, "--sidecars", "carry", "--to", "safetensors", "-q"];
            store.run(&[&run[..], options].concat())
        };
        carry("s3://models/in/model.ckpt", "s3://models/carried", &[]).done();
        carry("s3://models/in/model.ckpt", text(&there), &[]).done();
        carry(text(&there.join("model.safetensors")), "s3://models/back", &[]).done();
        for name in ["model.txt", "model.preview.png", "model.vae.pt"] {
            let right = store.get(&format!("in/{name}")).unwrap();
            assert!(store.get(&format!("carried/{name}")).unwrap() == right, "{name}");
            assert!(fs::read(there.join(name)).unwrap() == right, "{name}");
            assert!(store.get(&format!("back/{name}")).unwrap() == right, "{name}");
        }
        assert_eq!((store.get("carried/other.txt"), store.get("carried/model-v2.vae.pt")), (None, None));
        // What is there with other content stays, unless it may be replaced.
        store.put("carried/model.txt", b"other words");
        let input = "s3://models/in/model.ckpt";
        let again = carry(input, "s3://models/carried", &["--skip-existing"]);
        assert_eq!(again.code, Some(0));
        assert_eq!(store.get("carried/model.txt").unwrap(), b"other words");
        carry(input, "s3://models/carried", &["--force"]).done();
        assert_eq!(store.get("carried/model.txt").unwrap(), b"words");
    }
}

#[test]
fn the_yaml_beside_an_object_says_what_the_model_predicts() {
    for store in Store::all() {
        let folder = Folder::new();
        let yaml = "model:\n  params:\n    parameterization: v\n";
        let base = fs::read(fixture("tiny-sd1.ckpt")).unwrap();
        let local = folder.write("model.ckpt", &base);
        folder.write("model.yaml", yaml);
        store.put("in/model.ckpt", &base);
        store.put("in/model.yaml", yaml.as_bytes());
        let (expected, output) = (folder.join("expected.safetensors"), folder.join("output.safetensors"));
        run_at(None, &["convert", text(&local), "-o", text(&expected), "-q"]).done();
        store.run(&["convert", "s3://models/in/model.ckpt", "-o", text(&output), "-q"]).done();
        assert!(fs::read(&output).unwrap() == fs::read(&expected).unwrap());
        assert_eq!(fs::read(output.with_extension("yaml")).unwrap(), yaml.as_bytes());
        store.run(&["convert", "s3://models/in/model.ckpt", "-o", "s3://models/out/model.ckpt", "-q"]).done();
        assert_eq!(store.get("out/model.yaml").unwrap(), yaml.as_bytes());
    }
}

#[test]
fn files_beside_a_file_of_a_hub_are_found_and_those_of_other_servers_are_not_looked_for() {
    let folder = Folder::new();
    let (base, vae) = (content(&fixture("tiny-sd1.ckpt")), content(&fixture("tiny-vae.vae.pt")));
    let files = [("sub/model.ckpt", base.clone()), ("sub/model.vae.pt", vae.clone()), ("model.vae.pt", base.clone())];
    let hub = Hub::start(&files, true);
    let (local, expected, output) = (folder.join("model.ckpt"), folder.join("e.ckpt"), folder.join("o.ckpt"));
    fs::copy(fixture("tiny-sd1.ckpt"), &local).unwrap();
    fs::copy(fixture("tiny-vae.vae.pt"), folder.join("model.vae.pt")).unwrap();
    run_at(None, &["merge-vae", text(&local), "-o", text(&expected), "-q"]).done();
    run_at(Some(&hub), &["merge-vae", "hf://owner/name/sub/model.ckpt", "-o", text(&output), "-q"]).done();
    assert!(fs::read(&output).unwrap() == fs::read(&expected).unwrap());

    let server = server_of(&[("model.ckpt", base), ("model.vae.pt", vae)]);
    let url = server.url("/model.ckpt");
    let ran = run_at(None, &["merge-vae", &url, "-o", text(&folder.join("x.ckpt"))]);
    ran.refused(&[&url, "lists no files", "--vae"]);
    let carry = ["convert", &url, "--out-dir", text(folder.path()), "--sidecars", "carry", "--to", "safetensors"];
    let ran = run_at(None, &carry);
    assert!(ran.code == Some(0) && (ran.stdout + &ran.stderr).contains("did not look for files beside"));
}
