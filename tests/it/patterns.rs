//! `convert --select`, `--drop` and `--rename`, and `inspect --stats`: tensors of any file, whatever it is.

use std::fs;
use std::path::Path;

use crate::support::peers::Peers;
use crate::support::{Folder, Row, assert_rows, copy_folder, f32s, fixture, read, save, tensor};
use serde_json::{Value, json};
use trinart_ckpt::Dtype;

const VAE: &str = "first_stage_model.";

fn rows(path: &Path, keep: impl Fn(&str) -> bool) -> Vec<Row> {
    read(path).into_iter().filter(|(key, ..)| keep(key)).collect()
}

fn notices(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["notices"].as_array().unwrap().iter().map(|it| (text(&it["code"]), text(&it["text"]))).collect()
}

#[test]
fn selects_and_drops_tensors_by_name() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    for name in ["tiny-sd1.ckpt", "tiny-sd1.safetensors", "tiny-sd1-legacy.ckpt"] {
        let input = fixture(name);
        let select = ["--select", "first_stage_model.*", "--select", "*position_ids", "--drop", "*.encoder.*bias"];
        let report = run![
            "convert", &input, "-o", &output, "--force", "--json", select[0], select[1], select[2], select[3],
            select[4], select[5]
        ]
        .json();
        let is_kept = |key: &str| {
            (key.starts_with(VAE) || key.ends_with("position_ids"))
                && !(key.contains(".encoder.") && key.ends_with("bias"))
        };
        let kept = rows(&output, |_| true);
        assert_eq!(kept.len(), report["tensors"].as_u64().unwrap() as usize);
        assert!(kept.iter().all(|(key, ..)| is_kept(key)), "{name}");
        let all = folder.join("all.safetensors");
        run!["convert", &input, "-o", &all, "--force"].done();
        assert_rows(&kept, &rows(&all, is_kept));
        let first = &notices(&report)[0];
        assert_eq!(
            (first.0.as_str(), first.1.as_str()),
            ("selected", &*format!("selected {} of 1145 tensors", kept.len()))
        );
        let dropped =
            report["ledger"].as_array().unwrap().iter().filter(|line| line["reason"] == "not-selected").count();
        assert_eq!(dropped + kept.len(), 1145);
    }
}

#[test]
fn renames_tensors_of_the_output() {
    let folder = Folder::new();
    let (input, output) = (fixture("tiny-sd1.safetensors"), folder.join("out.safetensors"));
    let report = run![
        "convert",
        &input,
        "-o",
        &output,
        "--json",
        "--dtype",
        "f16",
        "--select",
        "first_stage_model.*",
        "--rename",
        "first_stage_model.*.block.*=vae.*.resnet.*",
        "--rename",
        "first_stage_model.*=vae.*"
    ]
    .json();
    let plain = folder.join("plain.safetensors");
    run!["convert", &input, "-o", &plain, "--dtype", "f16", "--select", "first_stage_model.*"].done();
    let expected = rows(&plain, |_| true).into_iter().map(|(key, dtype, shape, hash)| {
        (key.replacen(VAE, "vae.", 1).replacen(".block.", ".resnet.", 1), dtype, shape, hash)
    });
    assert_rows(&read(&output), &expected.collect::<Vec<_>>());
    let found = notices(&report);
    assert_eq!(found.last().unwrap().0, "renamed");
    assert!(found.last().unwrap().1.starts_with("renamed 248 tensors; the output is: "), "{found:?}");
    // What the new names make of it: a VAE without prefix.
    let bare = folder.join("bare.ckpt");
    let report = run!["convert", &plain, "-o", &bare, "--json", "--rename", "first_stage_model.*=*"].json();
    assert_eq!(notices(&report).last().unwrap().1, "renamed 248 tensors; the output is: VAE");
    assert!(read(&bare).iter().any(|(key, ..)| key == "encoder.conv_in.weight"));
}

#[test]
fn moves_tensors_of_files_that_it_does_not_know() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    save(&input, [("a.x", 1.0), ("a.y", 2.0), ("b.x", 3.0)].map(|(key, value)| (key.to_owned(), f32s(&[value]))));
    run!["convert", &input, "-o", &output, "--rename", "a.*=z.*", "--drop", "b.*"].done();
    assert_eq!(read(&output).iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), ["z.x", "z.y"]);
    let convert = |options: &[&str]| {
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["convert".into(), (&input).into(), "-o".into(), folder.join("new.safetensors").into()];
        arguments.extend(options.iter().map(Into::into));
        crate::support::run(&arguments)
    };
    convert(&["--select", "c.*"]).refused(&["in.safetensors: no tensor has a name like c.*", "a.x"]);
    convert(&["--drop", "c"]).refused(&["in.safetensors: no tensor has a name like c"]);
    convert(&["--drop", "*"]).refused(&["in.safetensors: nothing would remain"]);
    convert(&["--rename", "c=d"]).refused(&["in.safetensors: no tensor has a name like c=d"]);
    // The first renaming has taken all that the second one is for.
    convert(&["--rename", "*=n.*", "--rename", "a.x=d"]).refused(&["a.x=d"]);
    convert(&["--rename", "*.x=x"]).refused(&["in.safetensors: tensor b.x: gets the name x", "a.x"]);
    convert(&["--rename", "a.x=b.x"]).refused(&["gets the name b.x"]);
    for wrong in ["a", "=b", "a=", "a=*"] {
        assert_eq!(convert(&["--rename", wrong]).code, Some(2), "{wrong}");
    }
    assert!(!folder.join("new.safetensors").exists());
    let to_folder = run!["convert", &input, "-o", folder.join("out"), "--to", "diffusers", "--rename", "a.*=z.*"];
    to_folder.refused(&["diffusers folder"]);
    // A tensor and its name swap.
    convert(&["--rename", "a.x=a.y", "--rename", "a.y=a.x"]).done();
    assert_eq!(read(&folder.join("new.safetensors"))[0].0, "a.y");
}

#[test]
fn selects_a_component_of_a_folder() {
    let folder = Folder::new();
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    let (output, file) = (folder.join("out"), folder.join("out.safetensors"));
    run!["convert", &input, "-o", &output, "--to", "diffusers", "--select", "vae/*"].done();
    let weights = "diffusion_pytorch_model.safetensors";
    assert_eq!(fs::read(output.join(weights)).unwrap(), fs::read(input.join("vae").join(weights)).unwrap());
    run!["convert", &input, "-o", &file, "--drop", "unet/*", "--drop", "vae/*"].done();
    assert!(read(&file).iter().all(|(key, ..)| key.starts_with("cond_stage_model.")));
}

#[test]
fn drops_hashes_of_tensors_that_were_renamed_or_selected() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    let set = ["--set-metadata", "modelspec.hash_sha256=0x12", "--set-metadata", "modelspec.title=t"];
    run!["convert", fixture("tiny-vae.vae.pt"), "-o", &input, set[0], set[1], set[2], set[3]].done();
    for options in [["--rename", "*=first_stage_model.*"], ["--drop", "quant_conv.*"]] {
        let report = run!["convert", &input, "-o", &output, "--force", "--json", options[0], options[1]].json();
        assert!(notices(&report).iter().any(|(code, _)| code == "stale-hash"), "{report}");
        let metadata = &run!["inspect", &output, "--json"].json()["files"][0]["metadata"];
        assert_eq!(*metadata, json!({ "modelspec.title": "t" }));
    }
}

#[test]
fn statistics_are_those_of_torch() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let file = folder.join("in.safetensors");
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-40, f32::MAX, f32::MIN];
    let long: Vec<f32> = (0..700_000_u64).map(|index| ((index * 7919) % 100_003) as f32 / 1000.0 - 40.0).collect();
    let mut tensors = crate::support::tensors(&fixture("dtypes.ckpt"));
    tensors.extend(crate::support::tensors(&fixture("tiny-vae.vae.pt")));
    tensors.push(("odd".into(), f32s(&odd)));
    tensors.push(("long".into(), f32s(&long)));
    tensors.push(("empty".into(), tensor(Dtype::F16, &[0, 3], Vec::new())));
    save(&file, tensors);
    let expected = peers.script("tensor_statistics.py", &[&file]);
    for jobs in ["1", "3"] {
        let report = run!["inspect", &file, "--stats", "--json", "--jobs", jobs].json();
        let keys = report["files"][0]["keys"].as_array().unwrap();
        assert_eq!(keys.len(), expected.as_object().unwrap().len());
        for entry in keys {
            let key = entry["key"].as_str().unwrap();
            let (found, expected) = (&entry["statistics"], &expected[key]);
            for field in ["min", "max", "nan", "infinite", "zeros"] {
                assert_eq!(found[field], expected[field], "{key} {field}");
            }
            let largest =
                ["min", "max"].map(|field| found[field].as_f64().unwrap_or(0.0).abs()).into_iter().fold(0.0, f64::max);
            for field in ["mean", "std"] {
                let (found, expected) = (found[field].as_f64(), expected[field].as_f64());
                // Large values that cancel out leave what the order of a sum makes of them.
                let tolerance = |expected: f64| 1e-9 * expected.abs() + 1e-13 * largest;
                let is_close = |(found, expected): (f64, f64)| (found - expected).abs() <= tolerance(expected);
                let is_same = found.zip(expected).map_or(found.is_none() && expected.is_none(), is_close);
                assert!(is_same, "{key} {field}: {found:?}, torch {expected:?}");
            }
        }
    }
    let text = run!["inspect", &file, "--stats"].done();
    let line = text.lines().find(|line| line.contains(" odd")).unwrap();
    assert_eq!(
        line,
        "  F32     [8] odd, min -3.4028e38, max 3.4028e38, mean 0, std 2.1521e38, 2 zeros, 1 NaN, 2 infinite"
    );
}
