//! Folders as inputs, and many outputs in one run.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Folder, Ran, fixture, read, run};

/// A folder of models as WebUI users have it: subfolders, sidecars, spaces, a broken file, a diffusers folder.
fn models() -> Folder {
    let folder = Folder::new();
    for sub in ["sub", "other/deep"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    folder.copy_fixture("tiny-sd1.ckpt", "a.ckpt");
    folder.copy_fixture("tiny-sd1.safetensors", "sub/b c.safetensors");
    folder.copy_fixture("tiny-sd1-legacy.ckpt", "other/deep/a.ckpt");
    folder.copy_fixture("tiny-vae.ckpt", "a.vae.pt");
    for sidecar in ["a.preview.png", "a.civitai.info", "a.txt", "sub/b c.json"] {
        folder.write(sidecar, format!("of {sidecar}"));
    }
    folder
}

/// All files below a folder with slashes, sorted, hidden ones included.
fn tree(root: &Path) -> Vec<String> {
    let files = trinart_ckpt::formats::walk::list_files(root).files;
    let name = |file: &std::path::PathBuf| file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
    files.iter().map(name).collect()
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn inspect_and_hash_walk_folders_and_print_a_line_for_each_file() {
    let folder = models();
    folder.write("broken.safetensors", "<html>");
    for command in ["inspect", "hash"] {
        let ran = run![command, folder.path(), "--json"];
        let found = lines(&ran);
        let names: Vec<&Path> = found.iter().map(|line| Path::new(line["file"].as_str().unwrap())).collect();
        let expected = ["a.ckpt", "a.vae.pt", "broken.safetensors", "other/deep/a.ckpt", "sub/b c.safetensors"];
        assert_eq!(names, expected.map(|name| folder.join(name)), "{command}");
        assert!(found.iter().all(|line| line["schema"] == "trinart-ckpt/1"));
        assert_eq!(found.iter().filter(|line| line["error"].is_object()).count(), 1);
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains("a web page") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
    let empty = Folder::new();
    run!["inspect", empty.path()].refused(&["the folder has no checkpoints"]);
}

#[test]
fn json_has_a_line_for_each_of_several_files_and_a_summary() {
    let folder = models();
    folder.write("left.safetensors.crdownload", "half");
    let (one, all, out) = (folder.join("a.ckpt"), folder.path(), Folder::new());
    let given = |command: &str, path: &Path, json: &str| -> String {
        let mut words: Vec<OsString> = vec![command.into(), path.into(), json.into()];
        if command == "convert" {
            words.extend(["--dry-run", "--to", "safetensors", "--out-dir"].map(Into::into));
            words.push(out.path().into());
        }
        let ran = run(&words);
        assert_eq!(ran.stderr, "");
        ran.stdout
    };
    let parsed = |json: &str| -> Value { serde_json::from_str(json).unwrap() };
    let commands: [(&str, &str, &[&str]); 5] = [
        ("inspect", "files", &[]),
        ("hash", "files", &[]),
        ("scan", "files", &["dangerous", "unknown", "safe", "unreadable", "skipped", "allowed"]),
        ("audit", "files", &["files", "findings", "bytes", "deep", "remembered"]),
        ("convert", "results", &["written", "skipped", "failed", "bytes", "dry_run"]),
    ];
    for (command, list, numbers) in commands {
        assert_eq!(parsed(&given(command, &one, "--json"))[list].as_array().unwrap().len(), 1, "{command}");
        let whole = parsed(&given(command, all, "--json=document"));
        let entries = whole[list].as_array().unwrap();
        let mut found: Vec<Value> = given(command, all, "--json").lines().map(parsed).collect();
        assert!(found.iter().all(|line| line["schema"] == "trinart-ckpt/1"), "{command}");
        if !numbers.is_empty() {
            let summary = found.pop().unwrap();
            assert_eq!(summary["summary"].as_object().unwrap().keys().collect::<Vec<_>>(), numbers, "{command}");
        }
        if command == "audit" {
            assert_eq!(found.pop().unwrap()["findings"][0]["code"], "leftover");
        }
        assert!(found.len() >= 4 && found.len() == entries.len(), "{command}: {found:?}");
        for entry in entries {
            let is_same = |line: &&Value| line["file"] == entry["file"] && line["input"] == entry["input"];
            let line = found.iter().find(is_same).unwrap();
            assert!(entry.as_object().unwrap().iter().all(|(field, value)| line[field] == *value), "{line} {entry}");
        }
        let of_one = given(command, &one, "--json=lines");
        assert_eq!(of_one.lines().count(), 1 + usize::from(!numbers.is_empty()), "{command}");
    }
    let found = lines(&run!["audit", all, "--json", "--only-problems", "--select", "leftover"]);
    assert_eq!((found.len(), &found[1]["summary"]["findings"]), (2, &1.into()));
    let found = lines(&run!["diff", all, all, "--json"]);
    assert_eq!((found.len(), &found[4]["summary"]["equal"]), (5, &true.into()));
}

#[test]
fn convert_keeps_the_tree_and_summarizes() {
    let folder = models();
    let out = folder.join("out/new");
    let ran = run!["convert", folder.path(), "--out-dir", &out, "--to", "safetensors"];
    let text = ran.done();
    assert_eq!(tree(&out), ["a.safetensors", "a.vae.safetensors", "other/deep/a.safetensors", "sub/b c.safetensors"]);
    assert!(text.lines().last().unwrap().starts_with("4 written, 0 skipped, 0 failed; "), "{text}");
    let sorted = |path: &Path| {
        let mut rows = read(path);
        rows.sort();
        rows
    };
    assert!(sorted(&out.join("other/deep/a.safetensors")) == sorted(&fixture("tiny-sd1-legacy.ckpt")));
    // The second run does not take the outputs of the first for inputs.
    let again = run!["convert", folder.path(), "--out-dir", &out, "--to", "safetensors", "--skip-existing"].done();
    assert!(again.ends_with("0 written, 4 skipped, 0 failed\n"), "{again}");
    let refused = run!["convert", folder.path(), "--out-dir", &out, "--to", "safetensors"];
    assert_eq!(refused.code, Some(2));
    assert!(refused.stdout.ends_with("0 written, 0 skipped, 4 failed\n"), "{}", refused.stdout);
    assert_eq!(refused.stdout.matches("already exists").count(), 4, "failures are listed again at the end");
    assert_eq!(refused.stderr.matches("(replace it with --force)").count(), 4);
}

#[test]
fn clashes_and_failures_stop_only_their_files() {
    let folder = Folder::new();
    folder.copy_fixture("tiny-sd1.ckpt", "a.ckpt");
    folder.copy_fixture("tiny-sd1.safetensors", "a.safetensors");
    folder.copy_fixture("tiny-sd1.safetensors", "b.safetensors");
    folder.write("c.safetensors", "");
    let out = folder.join("out");
    let ran = run!["convert", folder.path(), "--out-dir", &out, "--to", "safetensors", "--json=document"];
    assert_eq!((ran.code, tree(&out)), (Some(2), vec!["b.safetensors".to_owned()]));
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let numbers = ["written", "skipped", "failed"].map(|name| document[name].as_u64().unwrap());
    assert_eq!(numbers, [1, 0, 3]);
    assert_eq!(ran.stderr.matches("would be written to this path").count(), 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("a.ckpt and ") && ran.stderr.contains("an empty file"), "{}", ran.stderr);
}

#[test]
fn sidecars_go_with_their_checkpoint() {
    let folder = models();
    let out = folder.join("out");
    let carry = |more: &[&str]| {
        let mut arguments = vec!["convert".into(), folder.path().into(), "--out-dir".into(), out.clone().into()];
        arguments.extend(["--to", "safetensors", "--sidecars", "carry"].map(Into::into));
        arguments.extend(more.iter().map(Into::into));
        crate::support::run(&arguments)
    };
    carry(&["--dry-run"]).done();
    assert!(!out.exists());
    carry(&[]).done();
    let expected = [
        "a.civitai.info",
        "a.preview.png",
        "a.safetensors",
        "a.txt",
        "a.vae.pt",
        "other/deep/a.safetensors",
        "sub/b c.json",
        "sub/b c.safetensors",
    ];
    assert_eq!(tree(&out), expected);
    assert_eq!(fs::read(out.join("a.vae.pt")).unwrap(), fs::read(fixture("tiny-vae.ckpt")).unwrap());
    // Another file under the name of a sidecar is kept, and named.
    fs::remove_file(out.join("a.safetensors")).unwrap();
    folder.write("out/a.txt", "mine");
    let text = carry(&["--skip-existing"]).done();
    assert!(text.contains("did not carry over") && text.contains("a.txt is another file"), "{text}");
    assert_eq!(fs::read_to_string(out.join("a.txt")).unwrap(), "mine");
}

#[test]
fn update_writes_what_has_changed() {
    let folder = models();
    let out = folder.join("out");
    let update = |dtype: &str| {
        let ran = run!["convert", folder.path(), "--out-dir", &out, "--dtype", dtype, "--update"];
        let text = ran.done();
        text.lines().last().unwrap().split(';').next().unwrap().to_owned()
    };
    assert_eq!(update("f16"), "4 written, 0 skipped, 0 failed");
    assert_eq!(update("f16"), "0 written, 4 skipped, 0 failed");
    // Another recipe, a changed input, a changed output.
    assert_eq!(update("f32"), "4 written, 0 skipped, 0 failed");
    folder.copy_fixture("tiny-sd1-legacy.ckpt", "a.ckpt");
    folder.write("out/sub/b c.safetensors", "damaged");
    assert_eq!(update("f32"), "2 written, 2 skipped, 0 failed");
    assert!(read(&out.join("sub/b c.safetensors")).len() > 1000);
    // What no such run has written is not replaced.
    folder.copy_fixture("tiny-sd1.ckpt", "foreign.ckpt");
    folder.write("out/foreign.ckpt", "precious");
    let ran = run!["convert", folder.path(), "--out-dir", &out, "--dtype", "f32", "--update"];
    assert!(ran.code == Some(2) && ran.stderr.contains("foreign.ckpt: already exists"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(out.join("foreign.ckpt")).unwrap(), "precious");
}

#[test]
fn merges_one_vae_or_each_its_own_into_many() {
    let folder = models();
    let kl = fixture("tiny-vae.ckpt");
    let vae = |path: &Path| {
        let mut rows = read(path);
        rows.retain(|row| row.0.starts_with("first_stage_model."));
        rows.sort();
        rows
    };
    let one = folder.join("one");
    let text = run!["merge-vae", folder.path(), "--vae", &kl, "--out-dir", &one].done();
    assert_eq!(tree(&one), ["a.ckpt", "other/deep/a.ckpt", "sub/b c.safetensors"]);
    assert!(text.contains("a.vae.pt: skipped, the VAE of a checkpoint beside it"), "{text}");
    assert!(vae(&one.join("a.ckpt")) == vae(&one.join("sub/b c.safetensors")));
    assert!(vae(&one.join("a.ckpt")) != vae(&fixture("tiny-sd1.ckpt")));
    fs::remove_dir_all(&one).unwrap();
    let own = folder.join("own");
    let text = run!["merge-vae", folder.path(), "--out-dir", &own].done();
    assert_eq!(tree(&own), ["a.ckpt"]);
    assert!(text.contains("b c.safetensors: skipped, no VAE beside it"), "{text}");
    // Several checkpoints that are named, and an error that names the checkpoint, not only the VAE.
    let (a, lora) = (folder.join("a.ckpt"), folder.copy_fixture("views.ckpt", "views.ckpt"));
    let ran = run!["merge-vae", &a, &lora, "--vae", &kl, "--out-dir", folder.join("two")];
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("views.ckpt") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("1 written, 0 skipped, 1 failed"), "{}", ran.stdout);
}

#[test]
fn an_existing_folder_gets_a_file_and_a_new_one_a_pipeline() {
    let folder = Folder::new();
    let input = fixture("tiny-sd1.safetensors");
    fs::create_dir(folder.join("shelf")).unwrap();
    for output in ["shelf", "shelf/"] {
        let ran = run!["convert", &input, "-o", folder.join(output), "--force"];
        ran.done();
    }
    run!["convert", &input, "-o", folder.join("shelf"), "--to", "ckpt"].done();
    assert_eq!(tree(&folder.join("shelf")), ["tiny-sd1.ckpt", "tiny-sd1.safetensors"]);
    run!["convert", &input, "-o", folder.join("pipeline/")].done();
    assert!(folder.join("pipeline/model_index.json").is_file());
    // A diffusers folder is one output.
    run!["convert", &input, "-o", folder.join("pipeline")].refused(&["already exists"]);
    run!["convert", folder.path(), "-o", folder.join("x.safetensors")]
        .refused(&["in which there are 3 checkpoints", "--out-dir"]);
}

#[test]
fn a_dry_run_lists_tensors_only_if_asked() {
    let folder = models();
    let out = folder.join("out");
    let short = run!["convert", folder.path(), "--out-dir", &out, "--dry-run"].done();
    assert!(short.lines().count() < 20 && short.contains("4 would be written, 0 skipped, 0 failed"), "{short}");
    let long = run!["convert", folder.path(), "--out-dir", &out, "--dry-run", "-v"].done();
    assert!(long.contains("first_stage_model.encoder.conv_in.weight: kept"));
    assert!(!out.exists());
}

#[test]
fn diff_compares_folders_by_path_and_by_content() {
    let folder = Folder::new();
    for sub in ["a/sub", "b/sub"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    let put = |from: &str, to: &str| drop(folder.copy_fixture(from, to));
    put("tiny-sd1.ckpt", "a/sub/same.ckpt");
    put("tiny-sd1.safetensors", "b/sub/same.safetensors");
    put("tiny-vae.ckpt", "a/old.ckpt");
    put("tiny-vae.ckpt", "b/renamed.pt");
    let (a, b) = (folder.join("a"), folder.join("b"));
    let moved = run!["diff", &a, &b].no();
    assert!(moved.starts_with("different: 2 files, 1 equal, 1 under another name\n"), "{moved}");
    assert!(moved.contains("old.ckpt and renamed.pt: same content under another name"), "{moved}");
    // A copy in another dtype, and a file of one side.
    fs::rename(b.join("renamed.pt"), b.join("old.pt")).unwrap();
    let half = run!["convert", fixture("tiny-sd1.ckpt"), "--dtype", "f32", "-o", b.join("half.safetensors")];
    half.done();
    put("tiny-sd1.ckpt", "a/half.ckpt");
    let text = run!["diff", &a, &b].no();
    assert!(text.contains("half.ckpt and half.safetensors: equal except for dtype"), "{text}");
    run!["diff", &a, &b, "--ignore", "dtype"].done();
    put("views.ckpt", "b/only.ckpt");
    let report = run!["diff", &a, &b, "--ignore", "dtype", "--json=document"].json_of_no();
    let only: Vec<&Value> =
        report["files"].as_array().unwrap().iter().filter(|file| file["result"] == "only-in-b").collect();
    assert!(only.len() == 1 && only[0]["b"] == "only.ckpt" && only[0]["a"].is_null(), "{report}");
    folder.write("b/half.safetensors", "broken");
    assert_eq!(run!["diff", &a, &b].code, Some(2));
    run!["diff", &a, fixture("tiny-sd1.ckpt")].refused(&["model_index.json"]);
}

#[test]
fn diff_names_the_components_that_differ_and_compares_some() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.safetensors");
    let merged = folder.join("merged.ckpt");
    run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &merged].done();
    let vae = folder.join("vae.safetensors");
    run!["convert", &merged, "--component", "vae", "--dtype", "f16", "-o", &vae].done();
    assert!(run!["diff", &base, &merged].no().starts_with("different: VAE\nA "));
    run!["diff", &base, &merged, "--component", "unet", "--component", "text-encoder"].done();
    let one_sided = run!["diff", &merged, &vae].no();
    let verdict = one_sided.lines().next().unwrap();
    assert!(verdict.starts_with("other dtype: VAE; only in A: UNet, text encoder"), "{verdict}");
    assert!(!one_sided.contains("model.diffusion_model"), "what only one side has is one line: {one_sided}");
    assert!(run!["diff", &merged, &vae, "--component", "vae"].no().starts_with("equal except for dtype\n"));
    run!["diff", &merged, &vae, "--component", "vae", "--ignore", "dtype"].done();
    let small = folder.join("small.safetensors");
    run!["convert", &base, "--prune", "-o", &small].done();
    assert!(run!["diff", &base, &small].no().starts_with("only in A: EMA, schedule buffers\n"));
    run!["diff", &base, &small, "--ignore", "ema,schedule"].done();
}
