//! `convert` with `--prune`, `--ema`, `--component` and `--fix-position-ids`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::support::{self, Folder, Row, assert_rows, expected, f32s, fixture, read, save, tensor, tensors};
use half::f16;
use serde_json::Value;
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const TEXT_ENCODER: &str = "cond_stage_model.";
const EMA: &str = "model_ema.";
const IDS: &str = "cond_stage_model.transformer.text_model.embeddings.position_ids";
const POSITIONS: &str = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight";
const RESIDUE: [&str; 2] = ["first_stage_model.loss.logvar", "loss.discriminator.main.0.weight"];
const UNKNOWN: [&str; 2] = ["tokenizer.table", "model.something_else.weight"];

// --- Checkpoints and expected results ------------------------------------------------------------------------------

/// Saves the tensors of the fixture under a new name, changed by `change`.
fn made(folder: &Folder, name: &str, change: impl FnOnce(&mut Vec<(String, LazyTensor)>)) -> PathBuf {
    let mut all = tensors(&fixture("tiny-sd1.safetensors"));
    change(&mut all);
    let path = folder.join(name);
    save(&path, all);
    path
}

/// Returns the EMA key of a weight in LDM training: without `model.` and without dots.
fn average_of(key: &str) -> String {
    let bare = key.strip_prefix("model.").unwrap().split('.').collect::<Vec<_>>().concat();
    assert!(bare.starts_with("diffusion_model"), "{bare}");
    format!("{EMA}{bare}")
}

/// Adds an f32 EMA tensor with different values for every UNet weight, after the counters and in the order of the
/// weights.
fn with_averages(all: &mut Vec<(String, LazyTensor)>) {
    let average = |(index, (key, weight)): (usize, &(String, LazyTensor))| {
        let values = (0..weight.shape().elements()).map(|element| index as f32 + element as f32 / 1024.0 + 0.5);
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        (average_of(key), tensor(Dtype::F32, weight.shape().dims(), bytes))
    };
    let unet = all.iter().filter(|(key, _)| key.starts_with(UNET)).enumerate();
    let averages: Vec<_> = unet.map(average).collect();
    assert_eq!(averages.len(), 686);
    let behind = all.iter().position(|(key, _)| key == "model_ema.num_updates").unwrap() + 1;
    all.splice(behind..behind, averages);
}

/// The fixture with a complete EMA, loss weights and unknown keys.
fn full(folder: &Folder) -> PathBuf {
    made(folder, "full.safetensors", |all| {
        with_averages(all);
        all.insert(100, (UNKNOWN[0].into(), f32s(&[1.0, 2.0])));
        all.push((UNKNOWN[1].into(), f32s(&[3.0])));
        all.insert(200, (RESIDUE[0].into(), f32s(&[4.0])));
        all.push((RESIDUE[1].into(), f32s(&[5.0])));
    })
}

fn convert(input: &Path, output: &Path, options: &[&str]) -> support::Ran {
    let mut arguments: Vec<OsString> = vec!["convert".into(), input.into(), "-o".into(), output.into()];
    arguments.extend(options.iter().map(OsString::from));
    support::run(&arguments)
}

/// Converts to a file with this name. Returns the JSON report and the tensors of the file.
#[track_caller]
fn converted(folder: &Folder, input: &Path, options: &[&str], name: &str) -> (Value, Vec<Row>) {
    let output = folder.join(name);
    let report = convert(input, &output, &[options, &["--json"]].concat()).json();
    let rows = read(&output);
    assert_eq!(report["tensors"], rows.len());
    assert_accounted_for(&report, &read(input), &rows, options);
    (report, rows)
}

/// Asserts that each input key has exactly one ledger line and each output key exactly one origin. Tensors that the
/// program adds have a line without an input.
#[track_caller]
fn assert_accounted_for(report: &Value, input: &[Row], output: &[Row], options: &[&str]) {
    let lines = report["ledger"].as_array().unwrap();
    for (field, rows) in [("input", input), ("key", output)] {
        let mut counts: BTreeMap<&str, i32> = rows.iter().map(|row| (row.0.as_str(), -1)).collect();
        let counted = lines.iter().filter(|line| field == "key" || line["from"] != "program");
        for key in counted.filter_map(|line| line[field].as_str()) {
            *counts.entry(key).or_default() += 1;
        }
        counts.retain(|_, count| *count != 0);
        assert!(counts.is_empty(), "not exactly one line for these {field}s, {options:?}: {counts:?}");
    }
    let dropped = lines.iter().filter(|line| line["outcome"] == "dropped");
    assert!(dropped.map(|line| &line["reason"]).all(|reason| reason.as_str().is_some_and(|text| !text.is_empty())));
}

fn is_needed(row: &Row) -> bool {
    let is_residue = RESIDUE.contains(&row.0.as_str());
    [UNET, VAE, TEXT_ENCODER].iter().any(|prefix| row.0.starts_with(prefix)) && !is_residue
}

/// Returns the rows with each UNet weight replaced by its EMA.
fn averaged(rows: Vec<Row>) -> Vec<Row> {
    let by_key: BTreeMap<String, Row> = rows.iter().map(|row| (row.0.clone(), row.clone())).collect();
    let row = |row: Row| match row.0.starts_with(UNET) {
        true => {
            let average = &by_key[&average_of(&row.0)];
            assert_ne!((&average.1, &average.3), (&row.1, &row.3));
            (row.0, average.1.clone(), average.2.clone(), average.3.clone())
        }
        false => row,
    };
    let no_average = |row: &Row| !row.0.starts_with(EMA);
    rows.into_iter().filter(no_average).map(row).collect()
}

fn notices(report: &Value) -> Vec<&str> {
    report["notices"].as_array().unwrap().iter().map(|notice| notice["text"].as_str().unwrap()).collect()
}

// --- Pruning and EMA -----------------------------------------------------------------------------------------------

#[test]
fn prunes_and_replaces_the_weights_by_their_ema() {
    let folder = Folder::new();
    let input = full(&folder);
    let expected: Vec<Row> = averaged(read(&input)).into_iter().filter(is_needed).collect();
    assert_eq!(expected.len(), 1131);
    for name in ["out.safetensors", "out.ckpt"] {
        let (report, rows) = converted(&folder, &input, &["--prune", "--ema", "use"], name);
        assert_rows(&rows, &expected);
        assert_eq!(report["notices"], Value::Array(vec![]));
    }
}

#[test]
fn keeps_drops_or_uses_the_ema_without_reordering() {
    let folder = Folder::new();
    let input = full(&folder);
    let all = read(&input);
    assert_eq!(all.len(), 1145 + 686 + 4);
    let raw: Vec<Row> = all.iter().filter(|row| !row.0.starts_with(EMA)).cloned().collect();
    let cases: [(&[&str], Vec<Row>); 4] = [
        (&[], all.clone()),
        (&["--ema", "keep"], all.clone()),
        (&["--ema", "drop"], raw),
        (&["--ema", "use"], averaged(all)),
    ];
    for (index, (options, expected)) in cases.iter().enumerate() {
        let (report, rows) = converted(&folder, &input, options, &format!("{index}.safetensors"));
        assert_rows(&rows, expected);
        let notices = notices(&report);
        assert!(notices.len() == 1 && notices[0].contains("2 tensors of no known component"), "{notices:?}");
        assert!(RESIDUE.iter().chain(&UNKNOWN).all(|key| rows.iter().any(|row| row.0 == *key)), "{options:?}");
    }
}

#[test]
fn prunes_to_what_inference_needs() {
    let folder = Folder::new();
    let input = full(&folder);
    let needed: Vec<Row> = read(&input).into_iter().filter(is_needed).collect();
    assert_eq!(needed.len(), 686 + 248 + 197);
    for (options, name) in [(&["--prune"][..], "a.ckpt"), (&["--prune", "--ema", "drop"], "b.safetensors")] {
        let (report, rows) = converted(&folder, &input, options, name);
        assert_rows(&rows, &needed);
        assert_eq!(report["notices"], Value::Array(vec![]));
    }
    let kept: Vec<Row> = read(&input).into_iter().filter(|row| is_needed(row) || row.0.starts_with(EMA)).collect();
    let (_, rows) = converted(&folder, &input, &["--prune", "--ema", "keep"], "c.safetensors");
    assert_rows(&rows, &kept);
    // A file with nothing to prune is not an error.
    let (_, rows) = converted(&folder, &folder.join("a.ckpt"), &["--prune"], "d.safetensors");
    assert_rows(&rows, &needed);
}

#[test]
fn rejects_a_missing_or_incomplete_ema() {
    let folder = Folder::new();
    let weight = "model.diffusion_model.middle_block.1.proj_in.weight";
    let lacking = made(&folder, "lacking.safetensors", |all| {
        with_averages(all);
        all.retain(|(key, _)| *key != average_of(weight));
    });
    let reshaped = made(&folder, "reshaped.safetensors", |all| {
        with_averages(all);
        all.iter_mut().find(|(key, _)| *key == average_of(weight)).unwrap().1 = f32s(&[1.0; 5]);
    });
    let without = made(&folder, "without.safetensors", |all| all.retain(|(key, _)| !key.starts_with(EMA)));
    let before = folder.snapshot();
    let counters = fixture("tiny-sd1.ckpt");
    let reshaped_average = format!("tensor {}: ", average_of(weight));
    let cases: [(&Path, &[&str]); 4] = [
        (&counters, &["tiny-sd1.ckpt: ", "no EMA"]),
        (&without, &["without.safetensors: ", "no EMA"]),
        (&lacking, &["lacking.safetensors: ", weight]),
        (&reshaped, &["reshaped.safetensors: ", &reshaped_average, "shape"]),
    ];
    for (input, words) in cases {
        for options in [&["--ema", "use"][..], &["--ema", "use", "--prune"], &["--ema", "use", "--dry-run"]] {
            convert(input, &folder.join("out.safetensors"), options).refused(words);
        }
        convert(input, &folder.join("out.ckpt"), &["--ema", "use", "--component", "unet"]).refused(words);
    }
    assert_eq!(folder.snapshot(), before);
    // An incomplete EMA is an error only if it is used.
    let (_, rows) = converted(&folder, &lacking, &["--prune"], "out.safetensors");
    assert_eq!(rows.len(), 1131);
}

// --- One component -------------------------------------------------------------------------------------------------

#[test]
fn extracts_exactly_one_component() {
    let folder = Folder::new();
    let input = full(&folder);
    let all = read(&input);
    let of = |prefix: &str| -> Vec<Row> {
        all.iter().filter(|row| is_needed(row) && row.0.starts_with(prefix)).cloned().collect()
    };
    let bare = of(VAE).into_iter().map(|row| (row.0[VAE.len()..].to_owned(), row.1, row.2, row.3));
    let averages = averaged(all.clone()).into_iter().filter(|row| row.0.starts_with(UNET));
    let cases: [(&[&str], Vec<Row>, usize); 5] = [
        (&["--component", "unet"], of(UNET), 686),
        (&["--component", "unet", "--ema", "use"], averages.collect(), 686),
        (&["--component", "vae"], bare.clone().collect(), 248),
        (&["--component", "vae", "--prune"], bare.collect(), 248),
        (&["--component", "text-encoder"], of(TEXT_ENCODER), 197),
    ];
    for (index, (options, expected, count)) in cases.iter().enumerate() {
        assert_eq!(expected.len(), *count);
        for extension in ["safetensors", "ckpt"] {
            let (report, rows) = converted(&folder, &input, options, &format!("{index}.{extension}"));
            assert_rows(&rows, expected);
            assert_eq!(report["notices"], Value::Array(vec![]), "{options:?}");
        }
    }
}

#[test]
fn merges_an_extracted_vae_back() {
    let folder = Folder::new();
    for name in ["tiny-sd1.safetensors", "tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt"] {
        let vae = format!("{name}.vae.pt");
        let (_, rows) = converted(&folder, &fixture(name), &["--component", "vae"], &vae);
        assert!(rows.iter().all(|row| !row.0.starts_with(VAE)));
        let (vae, merged) = (folder.join(&vae), folder.join(&format!("{name}.safetensors")));
        let report = run!["merge-vae", fixture(name), "--vae", &vae, "-o", &merged, "--json"].json();
        assert_eq!(report["vae"]["merged"], "same");
        assert_rows(&read(&merged), &expected(name));
    }
}

#[test]
fn keeps_the_bare_keys_of_a_vae_file() {
    let folder = Folder::new();
    let (_, rows) = converted(&folder, &fixture("tiny-vae.ckpt"), &["--component", "vae"], "bare.safetensors");
    assert_rows(&rows, &expected("tiny-vae.vae.pt"));
}

#[test]
fn strips_the_vae_prefix() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    let prefixed = tensors(&fixture("tiny-vae.vae.pt")).into_iter();
    save(&input, prefixed.map(|(key, tensor)| (format!("vae.{key}"), tensor)));
    let (_, rows) = converted(&folder, &input, &["--component", "vae"], "out.safetensors");
    assert_rows(&rows, &expected("tiny-vae.vae.pt"));
}

#[test]
fn rejects_a_component_that_is_missing() {
    let folder = Folder::new();
    let vae = fixture("tiny-vae.ckpt");
    let headless = made(&folder, "headless.safetensors", |all| all.retain(|(key, _)| !key.starts_with(VAE)));
    let before = folder.snapshot();
    for extension in ["ckpt", "safetensors"] {
        let output = folder.join(&format!("out.{extension}"));
        convert(&vae, &output, &["--component", "unet"]).refused(&["tiny-vae.ckpt: ", "no UNet"]);
        convert(&vae, &output, &["--component", "text-encoder"]).refused(&["tiny-vae.ckpt: ", "no text encoder"]);
        convert(&headless, &output, &["--component", "vae"]).refused(&["headless.safetensors: ", "no VAE"]);
    }
    assert_eq!(folder.snapshot(), before);
}

// --- position_ids --------------------------------------------------------------------------------------------------

/// A position_ids tensor with these values in a dtype.
fn ids(dtype: Dtype, number: impl Fn(u16) -> f32) -> LazyTensor {
    let bytes = |number: f32| match dtype {
        Dtype::I64 => (number as i64).to_le_bytes().to_vec(),
        Dtype::F32 => number.to_le_bytes().to_vec(),
        _ => f16::from_f32(number).to_le_bytes().to_vec(),
    };
    tensor(dtype, &[1, 77], (0..77).flat_map(|index| bytes(number(index))).collect())
}

fn with_ids(folder: &Folder, name: &str, ids: LazyTensor) -> PathBuf {
    made(folder, name, |all| all.iter_mut().find(|(key, _)| key == IDS).unwrap().1 = ids)
}

/// Returns the row of the correct position_ids.
fn correct_ids() -> Row {
    let right = expected("tiny-sd1.safetensors").into_iter().find(|row| row.0 == IDS).unwrap();
    assert_eq!((right.1.as_str(), right.2.as_slice()), ("I64", &[1, 77][..]));
    right
}

#[test]
fn fixes_position_ids_in_place_and_reports_the_damage() {
    let folder = Folder::new();
    let right = expected("tiny-sd1.safetensors");
    // The damage, the text that inspect prints, the state in JSON, and a part of the notice.
    let cases: [(LazyTensor, &[&str], &str, &[&str]); 4] = [
        (ids(Dtype::F16, f32::from), &["F16 instead of I64"], "wrong-dtype", &["correct values in F16"]),
        (
            ids(Dtype::F32, |index| f32::from(index) * 0.9999),
            &["F32", "WRONG"],
            "wrong-values",
            &["wrong values in F32"],
        ),
        (ids(Dtype::I64, |index| f32::from(index + 1)), &["I64", "WRONG"], "wrong-values", &["wrong values in I64"]),
        (ids(Dtype::F16, |_| f32::NAN), &["F16", "WRONG"], "wrong-values", &["wrong values in F16"]),
    ];
    for (index, (ids, inspected, state, noticed)) in cases.into_iter().enumerate() {
        let input = with_ids(&folder, &format!("{index}.in.safetensors"), ids);
        let report = run!["inspect", &input, "--json"].json();
        assert_eq!(report["files"][0]["position_ids"], state);
        let text = run!["inspect", &input].done();
        let line = text.lines().find(|line| line.starts_with("  position_ids      ")).unwrap();
        assert!(inspected.iter().all(|word| line.contains(word)), "{line}");

        let (report, rows) = converted(&folder, &input, &["--fix-position-ids"], &format!("{index}.out.safetensors"));
        assert_rows(&rows, &right);
        let notices = notices(&report);
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(noticed.iter().chain(&["I64, 0 to 76"]).all(|word| notices[0].contains(word)), "{notices:?}");
        let changed =
            report["ledger"].as_array().unwrap().iter().filter(|line| line["changes"] != Value::Array(vec![]));
        let changed: Vec<&Value> = changed.collect();
        assert_eq!((changed.len(), changed[0]["changes"][0]["change"].as_str()), (1, Some("fixed")));
    }
}

#[test]
fn changes_position_ids_only_on_request() {
    let folder = Folder::new();
    let input = fixture("tiny-sd1.safetensors");
    assert_eq!(run!["inspect", &input, "--json"].json()["files"][0]["position_ids"], "ok");
    let (report, rows) = converted(&folder, &input, &["--fix-position-ids"], "right.safetensors");
    assert_rows(&rows, &expected("tiny-sd1.safetensors"));
    assert_eq!(report["notices"], Value::Array(vec![]));
    assert!(report["ledger"].as_array().unwrap().iter().all(|line| line["changes"] == Value::Array(vec![])));
    let broken = with_ids(&folder, "broken.safetensors", ids(Dtype::F32, |_| 1.5));
    let (report, rows) = converted(&folder, &broken, &[], "kept.safetensors");
    assert_rows(&rows, &read(&broken));
    assert_eq!(report["notices"][0]["code"], "position-ids-wrong");
    // A cast would round them to other positions.
    let (report, rows) = converted(&folder, &broken, &["--dtype", "f16"], "cast.safetensors");
    assert_eq!(report["notices"][0]["code"], "position-ids-wrong");
    assert_eq!(rows.iter().find(|row| row.0 == IDS), read(&broken).iter().find(|row| row.0 == IDS));
}

#[test]
fn inserts_position_ids_before_the_position_embedding() {
    let folder = Folder::new();
    let input = made(&folder, "missing.safetensors", |all| all.retain(|(key, _)| key != IDS));
    let inspected = run!["inspect", &input, "--json"].json();
    assert_eq!(inspected["files"][0]["position_ids"], "missing");
    let mut whole = read(&input);
    let before = whole.iter().position(|row| row.0 == POSITIONS).unwrap();
    whole.insert(before, correct_ids());
    let output = folder.join("out.ckpt");
    let report = convert(&input, &output, &["--fix-position-ids", "--json"]).json();
    assert_rows(&read(&output), &whole);
    let notices = notices(&report);
    assert!(notices.len() == 1 && notices[0].contains("missing") && notices[0].contains(IDS), "{notices:?}");
    assert_eq!(run!["inspect", &output, "--json"].json()["files"][0]["position_ids"], "ok");
    // Output without the text encoder needs no position_ids.
    let (report, rows) = converted(&folder, &input, &["--fix-position-ids", "--component", "unet"], "unet.safetensors");
    assert_eq!((rows.len(), &report["notices"]), (686, &Value::Array(vec![])));
}

#[test]
fn lists_inserted_position_ids_in_the_ledger() {
    let folder = Folder::new();
    let input = made(&folder, "missing.safetensors", |all| all.retain(|(key, _)| key != IDS));
    converted(&folder, &input, &["--fix-position-ids"], "out.safetensors");
}

#[test]
fn keeps_fixed_position_ids_integers_in_a_cast_to_f16() {
    let folder = Folder::new();
    let missing = made(&folder, "missing.safetensors", |all| all.retain(|(key, _)| key != IDS));
    let broken = with_ids(&folder, "broken.safetensors", ids(Dtype::F32, |index| f32::from(index) + 0.25));
    let options = ["--fix-position-ids", "--dtype", "f16", "--component", "text-encoder"];
    for (index, input) in [broken, missing, fixture("tiny-sd1.ckpt")].iter().enumerate() {
        let output = folder.join(&format!("{index}.safetensors"));
        convert(input, &output, &options).done();
        let rows = read(&output);
        assert_eq!(rows.len(), 197);
        assert!(rows.contains(&correct_ids()), "{index}");
        assert!(rows.iter().all(|row| row.0 == IDS || row.1 == "F16"), "{index}");
    }
}
