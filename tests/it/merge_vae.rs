//! `merge-vae`: outputs, errors and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::{
    self, Folder, Row, assert_one_line, assert_rows, content_hash, expected, f32s, facts, fixture, read, save, tensors,
};
use half::f16;
use serde_json::Value;
use trinart_ckpt::formats::metadata::{Metadata, PyValue};
use trinart_ckpt::formats::tensor::LazyTensor;

const PREFIX: &str = "first_stage_model.";
const BASES: [&str; 3] = ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors"];
/// The integer tensors of the fixture.
const INTEGERS: [&str; 2] =
    ["cond_stage_model.transformer.text_model.embeddings.position_ids", "model_ema.num_updates"];

/// Returns the rows of the base with its VAE replaced by the VAE of a file with bare keys.
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

/// Saves the tensors of the VAE fixture under another name, after `change`.
fn changed_vae(folder: &Folder, name: &str, change: impl FnOnce(&mut Vec<(String, LazyTensor)>)) -> PathBuf {
    let mut all = tensors(&fixture("tiny-vae.vae.pt"));
    change(&mut all);
    let path = folder.join(name);
    save(&path, all);
    path
}

fn prefixed(prefix: &str) -> impl Fn(&mut Vec<(String, LazyTensor)>) {
    move |all| all.iter_mut().for_each(|(key, _)| *key = format!("{prefix}{key}"))
}

/// The checkpoint fixture without its VAE.
fn headless(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.join(name);
    save(&path, tensors(&fixture("tiny-sd1.ckpt")).into_iter().filter(|(key, _)| !key.starts_with(PREFIX)));
    path
}

fn metadata(path: &Path) -> Metadata {
    crate::support::open(path).unwrap().metadata().clone()
}

#[test]
fn replaces_the_vae_and_keeps_everything_else() {
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
fn accepts_a_vae_under_any_prefix_or_in_a_checkpoint() {
    let folder = Folder::new();
    let expected = merged_fixtures("tiny-sd1.ckpt");
    let whole = folder.join("whole.safetensors");
    run!["merge-vae", fixture("tiny-sd1.safetensors"), "--vae", fixture("tiny-vae.vae.pt"), "-o", &whole].done();
    let donors = [
        fixture("tiny-vae.vae.pt"),
        changed_vae(&folder, "prefixed.safetensors", prefixed(PREFIX)),
        changed_vae(&folder, "vae-prefixed.ckpt", prefixed("vae.")),
        whole,
    ];
    for (index, vae) in donors.iter().enumerate() {
        let output = folder.join(&format!("{index}.ckpt"));
        run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", vae, "-o", &output].done();
        assert_rows(&read(&output), &expected);
    }
}

#[test]
fn inserts_a_missing_vae_before_the_text_encoder() {
    let folder = Folder::new();
    let base = headless(&folder, "headless.ckpt");
    let output = folder.join("out.safetensors");
    let report = run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &output, "--json"].json();
    let mut rows: Vec<Row> = expected("tiny-sd1.ckpt").into_iter().filter(|row| !row.0.starts_with(PREFIX)).collect();
    let text_encoder = rows.iter().position(|row| row.0.starts_with("cond_stage_model.")).unwrap();
    let vae = expected("tiny-vae.vae.pt").into_iter().map(|row| (format!("{PREFIX}{}", row.0), row.1, row.2, row.3));
    rows.splice(text_encoder..text_encoder, vae);
    assert_rows(&read(&output), &rows);
    assert_eq!(report["vae"]["before"], Value::Null);
    assert_eq!(report["vae"]["after"]["tensors"], 248);
}

#[test]
fn rejects_a_vae_that_does_not_fit() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.ckpt");
    let lacking = |all: &mut Vec<(String, LazyTensor)>| all.retain(|(key, _)| key != "decoder.conv_in.weight");
    let lacking = changed_vae(&folder, "lacking.safetensors", lacking);
    let extra = changed_vae(&folder, "extra.ckpt", |all| {
        all.push(("encoder.down.4.block.0.conv1.weight".into(), f32s(&[1.0])))
    });
    let reshaped = |all: &mut Vec<(String, LazyTensor)>| {
        all.iter_mut().find(|(key, _)| key == "encoder.conv_in.bias").unwrap().1 = f32s(&[0.5; 7]);
    };
    let reshaped = changed_vae(&folder, "reshaped.ckpt", reshaped);
    let foreign = changed_vae(&folder, "foreign.ckpt", prefixed("model.diffusion_model."));
    let two = changed_vae(&folder, "two.safetensors", |all| {
        let mut second = all.clone();
        prefixed(PREFIX)(&mut second);
        all.extend(second);
    });
    let diffusers = changed_vae(&folder, "diffusers.safetensors", |all| {
        all.clear();
        all.push(("encoder.conv_in.weight".into(), f32s(&[1.0])));
        all.push(("encoder.down_blocks.0.resnets.0.conv1.weight".into(), f32s(&[1.0])));
    });
    let headless = headless(&folder, "headless.safetensors");
    let cases: &[(&Path, &Path, &[&str])] = &[
        (&base, &lacking, &["lacking.safetensors: tensor decoder.conv_in.weight: "]),
        (&base, &extra, &["extra.ckpt: tensor encoder.down.4.block.0.conv1.weight: "]),
        (
            &base,
            &reshaped,
            &["reshaped.ckpt: tensor encoder.conv_in.bias: shape [7], expected [4], merging into ", "tiny-sd1.ckpt"],
        ),
        (&base, &foreign, &["foreign.ckpt: ", "no VAE", "model.diffusion_model.encoder."]),
        (&base, &two, &["two.safetensors: ", "2 VAEs", "first_stage_model.encoder"]),
        (&base, &diffusers, &["diffusers.safetensors: tensor encoder.conv_in.weight: shape [1], "]),
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
fn keeps_the_checkpoints_tensors_with_partial() {
    let folder = Folder::new();
    let vae = changed_vae(&folder, "partial.ckpt", |all| {
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

/// `key: (dtype, sha256)` of the output of a merge with these options.
fn merge_with(folder: &Folder, vae: &Path, options: &[&str]) -> BTreeMap<String, (String, String)> {
    let output = folder.join(&format!("{}.safetensors", options.join("")));
    let mut arguments: Vec<std::ffi::OsString> = vec!["merge-vae".into(), fixture("tiny-sd1.ckpt").into()];
    arguments.extend(["--vae".into(), vae.into(), "-o".into(), output.clone().into()]);
    arguments.extend(options.iter().map(Into::into));
    support::run(&arguments).done();
    read(&output).into_iter().map(|row| (row.0, (row.1, row.3))).collect()
}

/// The dtypes of the VAE, or of everything else, without the integer tensors.
fn dtypes(found: &BTreeMap<String, (String, String)>, is_vae: bool) -> BTreeSet<&str> {
    let floats = found.iter().filter(|(key, _)| !INTEGERS.contains(&key.as_str()));
    floats.filter(|(key, _)| key.starts_with(PREFIX) == is_vae).map(|(_, (dtype, _))| dtype.as_str()).collect()
}

#[test]
fn applies_vae_dtype_to_the_vae_and_dtype_to_the_rest() {
    let folder = Folder::new();
    let halves = |all: &mut Vec<(String, LazyTensor)>| {
        for (_, tensor) in all {
            let bytes = tensor.to_bytes().unwrap();
            let half = |bytes: &[u8]| f16::from_f32(f32::from_le_bytes(bytes.try_into().unwrap())).to_le_bytes();
            let bytes = bytes.chunks(4).flat_map(half).collect();
            *tensor = support::tensor(trinart_ckpt::formats::tensor::Dtype::F16, tensor.shape().dims(), bytes);
        }
    };
    let half_vae = changed_vae(&folder, "half.safetensors", halves);
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
fn finds_the_sidecar_vae() {
    let folder = Folder::new();
    let base = folder.copy_fixture("tiny-sd1.safetensors", "model.v1.safetensors");
    let output = folder.join("out.safetensors");
    run!["merge-vae", &base, "-o", &output]
        .refused(&["model.v1.safetensors: ", "model.v1.vae.ckpt, model.v1.vae.pt, model.v1.vae.safetensors"]);
    let sidecar = folder.copy_fixture("tiny-vae.vae.pt", "model.v1.vae.pt");
    let report = run!["merge-vae", &base, "-o", &output, "--json"].json();
    assert_eq!(report["vae"]["sidecar"], true);
    assert_eq!(report["vae"]["file"], sidecar.to_str().unwrap());
    assert_rows(&read(&output), &merged_fixtures("tiny-sd1.safetensors"));
    assert_eq!(report["notices"], serde_json::json!([]));
    // WebUI prefers this one, and would also take the last for the checkpoint.
    let preferred = folder.copy_fixture("tiny-vae.ckpt", "model.v1.vae.ckpt");
    folder.write("model.v1-extra.vae.pt", "of another checkpoint");
    let report = run!["merge-vae", &base, "-o", folder.join("second.safetensors"), "--json"].json();
    assert_eq!(report["vae"]["file"], preferred.to_str().unwrap());
    let notice = &report["notices"][0];
    assert_eq!(notice["code"], "other-vaes-beside");
    let text = notice["text"].as_str().unwrap();
    assert!(text.ends_with(": model.v1-extra.vae.pt, model.v1.vae.pt"), "{text}");
}

#[test]
fn keeps_metadata_and_records_the_vae_hash() {
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    let base = fixture("tiny-sd1.ckpt");
    run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &output].done();
    let (before, mut after) = (metadata(&base), metadata(&output));
    let Some(PyValue::Str(recipe)) = after.shift_remove("sd_merge_recipe") else { panic!("no recipe in {after:?}") };
    let Some(PyValue::Str(models)) = after.shift_remove("sd_merge_models") else { panic!("no models in {after:?}") };
    assert_eq!(after, before);
    assert_eq!(after["global_step"], PyValue::Int(470_000));
    let recipe: Value = serde_json::from_str(&recipe).unwrap();
    let hash = facts("tiny-vae.ckpt")["sha256"].clone();
    assert!(recipe.as_object().unwrap().values().any(|value| *value == hash), "{recipe}");
    let sha256 = facts("tiny-sd1.ckpt")["sha256"].as_str().unwrap().to_owned();
    assert_eq!(recipe["primary_model_hash"], sha256.as_str());
    let models: Value = serde_json::from_str(&models).unwrap();
    let model = &models[&sha256];
    assert_eq!((&model["name"], &model["sd_merge_recipe"]), (&Value::from("tiny-sd1.ckpt"), &Value::Null));
    assert_eq!(model["legacy_hash"].as_str().unwrap().len(), 8);

    // A second merge names both.
    let second = folder.join("second.safetensors");
    run!["merge-vae", &output, "--vae", fixture("tiny-vae.vae.pt"), "-o", &second].done();
    let after = metadata(&second);
    let models: Value = serde_json::from_str(&after["sd_merge_models"].to_text()).unwrap();
    let names: Vec<&Value> = models.as_object().unwrap().values().map(|model| &model["name"]).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&&Value::from("out.ckpt")) && names.contains(&&Value::from("tiny-sd1.ckpt")), "{names:?}");
    let earlier = models.as_object().unwrap().values().find(|model| model["name"] == "out.ckpt").unwrap();
    assert_eq!(earlier["sd_merge_recipe"], recipe);
}

#[test]
fn accounts_for_every_key_in_the_ledger() {
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
        assert!(of("vae").into_iter().eq(sorted(expected("tiny-vae.ckpt"))));
        let mut outputs: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
        outputs.sort_unstable();
        assert!(outputs.into_iter().eq(sorted(expected(base))));
        let losses = |line: &&Value| line["input"].as_str().unwrap().starts_with("loss.");
        assert!(lines.iter().filter(losses).count() > 0);
        assert!(lines.iter().filter(losses).all(|line| line["outcome"] == "dropped" && line["reason"].is_string()));
    }
}

#[test]
fn reports_vae_hashes_independent_of_the_container() {
    let folder = Folder::new();
    let (before, after) = (content_hash("tiny-sd1.safetensors", "vae"), content_hash("tiny-vae.vae.pt", "vae"));
    for base in BASES {
        for extension in ["ckpt", "safetensors"] {
            let output = folder.join(&format!("{base}.{extension}"));
            let vae = fixture("tiny-vae.vae.pt");
            let report = run!["merge-vae", fixture(base), "--vae", &vae, "-o", &output, "--json"].json();
            let merged = &report["vae"];
            assert_eq!(merged["before"]["content_hash"], before.as_str());
            assert_eq!(merged["after"]["content_hash"], after.as_str());
            assert_eq!(merged["sha256"], facts("tiny-vae.vae.pt")["sha256"]);
            assert_eq!(merged["merged"], "changed");
        }
    }
}

#[test]
fn reports_a_vae_that_was_already_merged() {
    let folder = Folder::new();
    let (first, second) = (folder.join("first.ckpt"), folder.join("second.ckpt"));
    let vae = fixture("tiny-vae.ckpt");
    let text = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &vae, "-o", &first].done();
    assert!(!text.contains("already"), "{text}");
    let text = run!["merge-vae", &first, "--vae", &vae, "-o", &second].done();
    assert!(text.contains("already had this VAE"), "{text}");
    let third = folder.join("third.safetensors");
    let report = run!["merge-vae", &first, "--vae", &vae, "-o", &third, "--json", "--dry-run"].json();
    assert_eq!(report["vae"]["merged"], "same");
    assert_rows(&read(&second), &read(&first));
}

#[test]
fn lists_every_key_in_a_dry_run() {
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    let vae = fixture("tiny-vae.ckpt");
    let text = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &vae, "-o", &output, "--dry-run", "-v"].done();
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
fn replaces_the_checkpoint_only_with_force() {
    let folder = Folder::new();
    for base in BASES {
        let path = folder.copy_fixture(base, base);
        let before = folder.snapshot();
        run!["merge-vae", &path, "--vae", fixture("tiny-vae.ckpt"), "-o", &path].refused(&[base, "--force"]);
        assert_eq!(folder.snapshot(), before);
        run!["merge-vae", &path, "--vae", fixture("tiny-vae.ckpt"), "-o", &path, "--force"].done();
        assert_rows(&read(&path), &merged_fixtures(base));
    }
    assert_eq!(folder.names().len(), BASES.len());
}

#[test]
fn keeps_an_existing_output_without_force() {
    let folder = Folder::new();
    let output = folder.write("out.ckpt", "precious");
    let refused = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", fixture("tiny-vae.ckpt"), "-o", &output];
    assert_one_line(&refused.stderr, &["out.ckpt: ", "--force"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(std::fs::read(&output).unwrap(), b"precious");
    assert_eq!(folder.names(), ["out.ckpt"]);
}
