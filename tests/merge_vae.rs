//! `merge-vae`: what ends in the output, what is refused, what is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[macro_use]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::Value;
use support::{Folder, Row, assert_one_line, assert_rows, expected, f32s, facts, fixture, read, save, sha256, tensors};
use trinart_ckpt::PyValue;
use trinart_ckpt::format;
use trinart_ckpt::tensor::LazyTensor;

const PREFIX: &str = "first_stage_model.";
const BASES: [&str; 3] = ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors"];
/// The tensors of the fixture that are integers.
const INTEGERS: [&str; 2] =
    ["cond_stage_model.transformer.text_model.embeddings.position_ids", "model_ema.num_updates"];

/// The rows of the base, those of its autoencoder taken from another file of bare keys.
fn merged(base: &[Row], vae: &[Row]) -> Vec<Row> {
    let vae: BTreeMap<&str, &Row> = vae.iter().map(|row| (row.0.as_str(), row)).collect();
    let row = |row: &Row| match row.0.strip_prefix(PREFIX) {
        Some(bare) => (row.0.clone(), vae[bare].1.clone(), vae[bare].2.clone(), vae[bare].3.clone()),
        None => row.clone(),
    };
    base.iter().map(row).collect()
}

fn merged_fixtures(base: &str) -> Vec<Row> {
    let rows = merged(&expected(base), &expected("tiny-vae.vae.pt"));
    assert_ne!(rows, expected(base));
    rows
}

/// The autoencoder's tensors, changed and saved under another name.
fn donor(folder: &Folder, name: &str, change: impl FnOnce(&mut Vec<(String, LazyTensor)>)) -> PathBuf {
    let mut all = tensors(&fixture("tiny-vae.vae.pt"));
    change(&mut all);
    let path = folder.join(name);
    save(&path, all);
    path
}

fn prefixed(prefix: &str) -> impl Fn(&mut Vec<(String, LazyTensor)>) {
    move |all| all.iter_mut().for_each(|(key, _)| *key = format!("{prefix}{key}"))
}

/// A checkpoint without its autoencoder.
fn headless(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.join(name);
    save(&path, tensors(&fixture("tiny-sd1.ckpt")).into_iter().filter(|(key, _)| !key.starts_with(PREFIX)));
    path
}

#[test]
fn the_autoencoder_goes_in_bit_for_bit_and_everything_else_stays_in_order() {
    let folder = Folder::new();
    for base in BASES {
        let expected = merged_fixtures(base);
        for output in ["out.ckpt", "out.safetensors"] {
            let output = folder.join(&format!("{base}.{output}"));
            run!["merge-vae", fixture(base), "--vae", fixture("tiny-vae.ckpt"), "-o", &output].done();
            assert_rows(&read(&output), &expected);
        }
    }
}

#[test]
fn the_autoencoder_may_come_under_any_prefix_or_in_a_whole_checkpoint() {
    let folder = Folder::new();
    let expected = merged_fixtures("tiny-sd1.ckpt");
    let whole = folder.join("whole.safetensors");
    run!["merge-vae", fixture("tiny-sd1.safetensors"), "--vae", fixture("tiny-vae.vae.pt"), "-o", &whole].done();
    let donors = [
        fixture("tiny-vae.vae.pt"),
        donor(&folder, "prefixed.safetensors", prefixed(PREFIX)),
        donor(&folder, "vae-prefixed.ckpt", prefixed("vae.")),
        whole,
    ];
    for (index, vae) in donors.iter().enumerate() {
        let output = folder.join(&format!("{index}.ckpt"));
        run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", vae, "-o", &output].done();
        assert_rows(&read(&output), &expected);
    }
}

#[test]
fn a_checkpoint_without_autoencoder_gets_it_before_its_text_encoder() {
    let folder = Folder::new();
    let base = headless(&folder, "headless.ckpt");
    let output = folder.join("out.safetensors");
    let report = run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &output, "--json"].json();
    let mut rows: Vec<Row> = expected("tiny-sd1.ckpt").into_iter().filter(|row| !row.0.starts_with(PREFIX)).collect();
    let text_encoder = rows.iter().position(|row| row.0.starts_with("cond_stage_model.")).unwrap();
    let vae = expected("tiny-vae.vae.pt").into_iter().map(|row| (format!("{PREFIX}{}", row.0), row.1, row.2, row.3));
    rows.splice(text_encoder..text_encoder, vae);
    assert_rows(&read(&output), &rows);
    assert_eq!(report["autoencoder"]["before"], Value::Null);
    assert_eq!(report["autoencoder"]["after"]["tensors"], 248);
}

#[test]
fn whatever_would_be_lost_or_guessed_is_refused_by_name() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.ckpt");
    let lacking = |all: &mut Vec<(String, LazyTensor)>| all.retain(|(key, _)| key != "decoder.conv_in.weight");
    let lacking = donor(&folder, "lacking.safetensors", lacking);
    let extra =
        donor(&folder, "extra.ckpt", |all| all.push(("encoder.down.4.block.0.conv1.weight".into(), f32s(&[1.0]))));
    let reshaped = |all: &mut Vec<(String, LazyTensor)>| {
        all.iter_mut().find(|(key, _)| key == "encoder.conv_in.bias").unwrap().1 = f32s(&[0.5; 7]);
    };
    let reshaped = donor(&folder, "reshaped.ckpt", reshaped);
    let foreign = donor(&folder, "foreign.ckpt", prefixed("model.diffusion_model."));
    let two = donor(&folder, "two.safetensors", |all| {
        let mut second = all.clone();
        prefixed(PREFIX)(&mut second);
        all.extend(second);
    });
    let diffusers = donor(&folder, "diffusers.safetensors", |all| {
        all.clear();
        all.push(("encoder.conv_in.weight".into(), f32s(&[1.0])));
        all.push(("encoder.down_blocks.0.resnets.0.conv1.weight".into(), f32s(&[1.0])));
    });
    let headless = headless(&folder, "headless.safetensors");
    let cases: &[(&Path, &Path, &[&str])] = &[
        (&base, &lacking, &["lacking.safetensors: tensor decoder.conv_in.weight: "]),
        (&base, &extra, &["extra.ckpt: tensor encoder.down.4.block.0.conv1.weight: "]),
        (&base, &reshaped, &["reshaped.ckpt: tensor encoder.conv_in.bias: shape [7], the checkpoint has [4]"]),
        (&base, &foreign, &["foreign.ckpt: ", "no autoencoder", "model.diffusion_model.encoder.conv_in.weight"]),
        (&base, &two, &["two.safetensors: ", "two autoencoders", "first_stage_model.encoder"]),
        (&base, &diffusers, &["diffusers.safetensors: tensor encoder.conv_in.weight: shape [1] "]),
        (&headless, &lacking, &["lacking.safetensors: tensor decoder.conv_in.weight: "]),
    ];
    let before = folder.snapshot();
    for &(base, vae, words) in cases {
        for extension in ["ckpt", "safetensors"] {
            let output = folder.join(&format!("out.{extension}"));
            run!["merge-vae", base, "--vae", vae, "-o", &output].refused(words);
        }
    }
    run!["merge-vae", &base, "--vae", &reshaped, "-o", folder.join("out.ckpt"), "--partial"]
        .refused(&["encoder.conv_in.bias"]);
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn partial_keeps_the_checkpoints_own_and_says_which() {
    let folder = Folder::new();
    let vae = donor(&folder, "partial.ckpt", |all| {
        all.retain(|(key, _)| key != "decoder.conv_in.weight" && key != "quant_conv.bias");
        all.push(("encoder.extra.weight".into(), f32s(&[1.0])));
    });
    let output = folder.join("out.ckpt");
    let base = fixture("tiny-sd1.ckpt");
    let report = run!["merge-vae", &base, "--vae", &vae, "-o", &output, "--partial", "--json"].json();
    let own: BTreeMap<String, Row> = expected("tiny-sd1.ckpt").into_iter().map(|row| (row.0.clone(), row)).collect();
    let mut rows = merged_fixtures("tiny-sd1.ckpt");
    for key in ["first_stage_model.decoder.conv_in.weight", "first_stage_model.quant_conv.bias"] {
        *rows.iter_mut().find(|row| row.0 == key).unwrap() = own[key].clone();
        let bare = key.strip_prefix(PREFIX).unwrap();
        assert!(report["notices"].to_string().contains(bare), "{}", report["notices"]);
    }
    assert_rows(&read(&output), &rows);
    let lines = report["ledger"].as_array().unwrap();
    let extra: Vec<&Value> = lines.iter().filter(|line| line["input"] == "encoder.extra.weight").collect();
    assert_eq!((extra.len(), &extra[0]["outcome"]), (1, &Value::from("dropped")));
}

/// `key: (dtype, hash)` of the output of a merge with these options.
fn merge_with(folder: &Folder, vae: &Path, options: &[&str]) -> BTreeMap<String, (String, String)> {
    let output = folder.join(&format!("{}.safetensors", options.join("")));
    let mut arguments: Vec<std::ffi::OsString> = vec!["merge-vae".into(), fixture("tiny-sd1.ckpt").into()];
    arguments.extend(["--vae".into(), vae.into(), "-o".into(), output.clone().into()]);
    arguments.extend(options.iter().map(Into::into));
    support::run(&arguments).done();
    read(&output).into_iter().map(|row| (row.0, (row.1, row.3))).collect()
}

/// The types of the autoencoder's tensors, or of all others, the integers aside.
fn dtypes(found: &BTreeMap<String, (String, String)>, is_vae: bool) -> BTreeSet<&str> {
    let floats = found.iter().filter(|(key, _)| !INTEGERS.contains(&key.as_str()));
    floats.filter(|(key, _)| key.starts_with(PREFIX) == is_vae).map(|(_, (dtype, _))| dtype.as_str()).collect()
}

#[test]
fn vae_dtype_decides_over_the_autoencoder_and_dtype_over_the_rest() {
    let folder = Folder::new();
    let halves = |all: &mut Vec<(String, LazyTensor)>| {
        for (_, tensor) in all {
            let bytes = tensor.to_bytes().unwrap();
            let half = |bytes: &[u8]| f16::from_f32(f32::from_le_bytes(bytes.try_into().unwrap())).to_le_bytes();
            let bytes = bytes.chunks(4).flat_map(half).collect();
            *tensor = support::tensor(trinart_ckpt::tensor::Dtype::F16, tensor.shape().dims(), bytes);
        }
    };
    let half_vae = donor(&folder, "half.safetensors", halves);
    let halves = read(&half_vae);
    let check = |found: &BTreeMap<String, (String, String)>, rows: &[Row]| {
        for row in rows {
            assert_eq!(found[&format!("{PREFIX}{}", row.0)], (row.1.clone(), row.3.clone()), "{}", row.0);
        }
    };
    let of = |found: &BTreeMap<String, (String, String)>, vae: &str, rest: &[&str]| {
        assert_eq!(dtypes(found, true), BTreeSet::from([vae]));
        assert_eq!(dtypes(found, false), rest.iter().copied().collect());
        let integers = expected("tiny-sd1.ckpt").into_iter().filter(|row| INTEGERS.contains(&row.0.as_str()));
        assert!(integers.map(|row| found[&row.0] == (row.1, row.3)).eq([true, true]));
    };
    let full_vae = fixture("tiny-vae.vae.pt");
    let full = expected("tiny-vae.vae.pt");

    let kept = merge_with(&folder, &half_vae, &["--vae-dtype", "keep"]);
    of(&kept, "F16", &["F16", "F32"]);
    check(&kept, &halves);
    let matched = merge_with(&folder, &half_vae, &["--vae-dtype", "match"]);
    of(&matched, "F32", &["F16", "F32"]);
    let narrowed = merge_with(&folder, &full_vae, &["--vae-dtype", "f16"]);
    of(&narrowed, "F16", &["F16", "F32"]);
    check(&narrowed, &halves);
    let all = merge_with(&folder, &full_vae, &["--dtype", "f16"]);
    of(&all, "F16", &["F16"]);
    check(&all, &halves);
    let mixed = merge_with(&folder, &full_vae, &["--dtype", "bf16", "--vae-dtype", "keep"]);
    of(&mixed, "F32", &["BF16"]);
    check(&mixed, &full);
}

#[test]
fn without_vae_the_one_sidecar_beside_the_checkpoint_is_taken() {
    let folder = Folder::new();
    let base = folder.take("tiny-sd1.safetensors", "model.v1.safetensors");
    let output = folder.join("out.safetensors");
    run!["merge-vae", &base, "-o", &output].refused(&[
        "model.v1.safetensors: ",
        "model.v1.vae.pt",
        "model.v1.vae.ckpt",
        "model.v1.vae.safetensors",
    ]);
    let sidecar = folder.take("tiny-vae.vae.pt", "model.v1.vae.pt");
    let report = run!["merge-vae", &base, "-o", &output, "--json"].json();
    assert_eq!(report["autoencoder"]["sidecar"], true);
    assert_eq!(report["autoencoder"]["file"], sidecar.to_str().unwrap());
    assert_rows(&read(&output), &merged_fixtures("tiny-sd1.safetensors"));
    folder.take("tiny-vae.ckpt", "model.v1.vae.ckpt");
    run!["merge-vae", &base, "-o", folder.join("second.safetensors")]
        .refused(&["model.v1.vae.pt", "model.v1.vae.ckpt"]);
    assert!(!folder.join("second.safetensors").exists());
}

#[test]
fn metadata_is_kept_and_the_recipe_names_the_autoencoder_by_hash() {
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    let base = fixture("tiny-sd1.ckpt");
    run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &output].done();
    let (before, mut after) = (format::open(&base).unwrap().metadata, format::open(&output).unwrap().metadata);
    let Some(PyValue::Str(recipe)) = after.shift_remove("sd_merge_recipe") else { panic!("no recipe in {after:?}") };
    assert_eq!(after, before);
    assert_eq!(after["global_step"], PyValue::Int(470_000));
    let recipe: Value = serde_json::from_str(&recipe).unwrap();
    let hash = facts("tiny-vae.ckpt")["sha256"].clone();
    assert!(recipe.as_object().unwrap().values().any(|value| *value == hash), "{recipe}");
}

#[test]
fn every_input_key_has_one_line_and_every_output_key_one_origin() {
    let folder = Folder::new();
    for (base, dry_run) in BASES.into_iter().flat_map(|base| [(base, false), (base, true)]) {
        let output = folder.join(&format!("{dry_run}-{base}"));
        let mut arguments: Vec<std::ffi::OsString> = vec!["merge-vae".into(), fixture(base).into(), "--json".into()];
        arguments.extend(["--vae".into(), fixture("tiny-vae.ckpt").into(), "-o".into(), output.into()]);
        arguments.extend(dry_run.then_some("--dry-run".into()));
        let report = support::run(&arguments).json();
        let lines = report["ledger"].as_array().unwrap();
        let of = |from: &str| {
            let mut keys: Vec<&str> =
                lines.iter().filter(|line| line["from"] == from).map(|line| line["input"].as_str().unwrap()).collect();
            keys.sort_unstable();
            keys
        };
        let sorted = |rows: Vec<Row>| rows.into_iter().map(|row| row.0).collect::<BTreeSet<_>>();
        assert!(of("checkpoint").into_iter().eq(sorted(expected(base))));
        assert!(of("autoencoder").into_iter().eq(sorted(expected("tiny-vae.ckpt"))));
        let mut outputs: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
        outputs.sort_unstable();
        assert!(outputs.into_iter().eq(sorted(expected(base))));
        let losses = |line: &&Value| line["input"].as_str().unwrap().starts_with("loss.");
        assert!(lines.iter().filter(losses).count() > 0);
        assert!(lines.iter().filter(losses).all(|line| line["outcome"] == "dropped" && line["reason"].is_string()));
    }
}

#[test]
fn the_autoencoder_before_and_after_has_one_hash_in_every_container() {
    let folder = Folder::new();
    let content = |rows: Vec<Row>| {
        let mut lines: Vec<String> = rows
            .iter()
            .filter(|row| row.0.starts_with(PREFIX))
            .map(|row| format!("{} {} {:?} {}\n", row.0, row.1, row.2, row.3))
            .collect();
        lines.sort();
        sha256(lines.concat().as_bytes())
    };
    let (before, after) = (content(expected("tiny-sd1.ckpt")), content(merged_fixtures("tiny-sd1.ckpt")));
    for base in BASES {
        for extension in ["ckpt", "safetensors"] {
            let output = folder.join(&format!("{base}.{extension}"));
            let vae = fixture("tiny-vae.vae.pt");
            let report = run!["merge-vae", fixture(base), "--vae", &vae, "-o", &output, "--json"].json();
            let autoencoder = &report["autoencoder"];
            assert_eq!(autoencoder["before"]["content_hash"], before.as_str());
            assert_eq!(autoencoder["after"]["content_hash"], after.as_str());
            assert_eq!(autoencoder["sha256"], facts("tiny-vae.vae.pt")["sha256"]);
            assert_eq!(autoencoder["merged"], "changed");
        }
    }
}

#[test]
fn merging_the_same_autoencoder_again_says_that_it_was_there() {
    let folder = Folder::new();
    let (first, second) = (folder.join("first.ckpt"), folder.join("second.ckpt"));
    let vae = fixture("tiny-vae.ckpt");
    let text = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &vae, "-o", &first].done();
    assert!(!text.contains("already"), "{text}");
    let text = run!["merge-vae", &first, "--vae", &vae, "-o", &second].done();
    assert!(text.contains("exactly this autoencoder already"), "{text}");
    let third = folder.join("third.safetensors");
    let report = run!["merge-vae", &first, "--vae", &vae, "-o", &third, "--json", "--dry-run"].json();
    assert_eq!(report["autoencoder"]["merged"], "same");
    assert_rows(&read(&second), &read(&first));
}

#[test]
fn a_dry_run_lists_every_key_and_writes_nothing() {
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    let vae = fixture("tiny-vae.ckpt");
    let text = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &vae, "-o", &output, "--dry-run"].done();
    assert!(folder.names().is_empty());
    let keys = expected("tiny-sd1.ckpt").into_iter().chain(expected("tiny-vae.ckpt"));
    for (key, ..) in keys {
        assert!(text.contains(&format!(" {key}: ")), "{key}");
    }
    let report =
        run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &vae, "-o", &output, "--dry-run", "--json"].json();
    assert_eq!(report["dry_run"], true);
    run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &vae, "-o", &output].done();
    assert_eq!(report["bytes"], output.metadata().unwrap().len());
}

#[test]
fn the_output_may_be_the_checkpoint_itself_but_only_with_force() {
    let folder = Folder::new();
    for base in BASES {
        let path = folder.take(base, base);
        let before = folder.snapshot();
        run!["merge-vae", &path, "--vae", fixture("tiny-vae.ckpt"), "-o", &path].refused(&[base, "--force"]);
        assert_eq!(folder.snapshot(), before);
        run!["merge-vae", &path, "--vae", fixture("tiny-vae.ckpt"), "-o", &path, "--force"].done();
        assert_rows(&read(&path), &merged_fixtures(base));
    }
    assert_eq!(folder.names().len(), BASES.len());
}

#[test]
fn an_existing_output_stays_without_force() {
    let folder = Folder::new();
    let output = folder.write("out.ckpt", "precious");
    let refused = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", fixture("tiny-vae.ckpt"), "-o", &output];
    assert_one_line(&refused.stderr, &["out.ckpt: ", "--force"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(std::fs::read(&output).unwrap(), b"precious");
    assert_eq!(folder.names(), ["out.ckpt"]);
}
