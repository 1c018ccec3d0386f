//! diffusers folders as inputs: every tensor is read unchanged under its LDM key, and broken folders are rejected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    self, Folder, Row, assert_rows, copy_folder, expected, f32s, fixture, read, save, sha256, tensors,
};
use serde_json::{Value, json};
use trinart_ckpt::models::family::Architecture;
use trinart_ckpt::models::layout::Layout;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const TEXT: &str = "cond_stage_model.transformer.";
const POSITION_IDS: &str = "cond_stage_model.transformer.text_model.embeddings.position_ids";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
const SHARDS: [&str; 2] =
    ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"];

// --- Expected results, from the key lists of the libraries -----------------------------------------------------------

fn diffusers(name: &str) -> PathBuf {
    fixture("diffusers").join(name)
}

/// The lines of a key list, split at spaces.
fn list(name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(fixture(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// The LDM key that the diffusers loader reads for each key of the folder.
fn places(golden: &str, prefix: &str) -> BTreeMap<String, String> {
    let place = |line: Vec<String>| {
        assert_eq!(line[4], "=", "SD v1 neither transposes nor joins");
        (line[0].clone(), format!("{prefix}{}", line[3]))
    };
    list(&format!("layouts/{golden}.keys")).into_iter().map(place).collect()
}

/// The rows of a component under their LDM keys.
fn renamed(rows: Vec<Row>, golden: &str, prefix: &str) -> BTreeMap<String, Row> {
    let places = places(golden, prefix);
    assert_eq!(rows.len(), places.len());
    let mut linear = 0;
    let mut rename = |(key, dtype, mut shape, hash): Row| {
        // Some versions of transformers drop the first segment of the key.
        let place = places.get(&key).or_else(|| places.get(&format!("text_model.{key}")));
        let place = place.unwrap_or_else(|| panic!("{golden} has no {key}"));
        if prefix == VAE && place.contains(".mid.attn_1.") && shape.len() == 2 {
            linear += 1;
            shape.extend([1, 1]);
        }
        (place.clone(), (place.clone(), dtype, shape, hash))
    };
    let renamed: BTreeMap<String, Row> = rows.into_iter().map(&mut rename).collect();
    assert_eq!(renamed.len(), places.len());
    assert_eq!(linear, if prefix == VAE { 8 } else { 0 });
    renamed
}

/// The rows of a VAE under their LDM keys.
fn autoencoder(weights: &Path) -> BTreeMap<String, Row> {
    renamed(read(weights), "autoencoder", VAE)
}

fn position_ids() -> Row {
    let bytes: Vec<u8> = (0..77_i64).flat_map(i64::to_le_bytes).collect();
    (POSITION_IDS.into(), "I64".into(), vec![1, 77], sha256(&bytes))
}

/// The rows of the folder `sd1` as a single file, in the order of a published checkpoint.
fn sd1() -> Vec<Row> {
    let folder = diffusers("sd1");
    let mut rows = renamed(read(&folder.join("unet").join(WEIGHTS)), "sd1-unet", UNET);
    rows.extend(autoencoder(&folder.join("vae").join(WEIGHTS)));
    rows.extend(renamed(read(&folder.join("text_encoder/model.safetensors")), "clip-l", TEXT));
    rows.insert(POSITION_IDS.into(), position_ids());
    let order = list("sd1-ldm.keys");
    let ordered: Vec<Row> = order.iter().filter_map(|line| rows.remove(&line[0])).collect();
    assert!(rows.is_empty());
    assert_eq!(ordered.len(), 686 + 248 + 197);
    ordered
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// Five ways to pass a VAE, each with the file that contains its weights.
fn donors() -> [(PathBuf, PathBuf); 5] {
    let bin = diffusers("vae-bin/diffusion_pytorch_model.bin");
    let fp16 = diffusers("vae-fp16/diffusion_pytorch_model.fp16.safetensors");
    [
        (diffusers("vae-bin"), bin.clone()),
        (bin.clone(), bin),
        (diffusers("vae-fp16"), fp16.clone()),
        (fp16.clone(), fp16),
        (diffusers("sd1"), diffusers("sd1/vae").join(WEIGHTS)),
    ]
}

// --- Reading ---------------------------------------------------------------------------------------------------------

#[test]
fn converts_a_folder_to_ldm_keys() {
    let folder = Folder::new();
    for extension in ["safetensors", "ckpt"] {
        let output = folder.join(&format!("out.{extension}"));
        run!["convert", diffusers("sd1"), "-o", &output].done();
        assert_rows(&sorted(read(&output)), &sorted(sd1()));
    }
    assert_eq!(folder.names(), ["out.ckpt", "out.safetensors"]);
}

#[test]
fn writes_keys_in_the_order_of_the_ldm_code() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    run!["convert", diffusers("sd1"), "-o", &output].done();
    let found: Vec<String> = read(&output).into_iter().map(|row| row.0).collect();
    let rows = sd1();
    let pairs = Layout::of(Architecture::Sd1).pairs().iter().map(|pair| pair.ldm.key.as_str());
    assert!(pairs.filter(|&key| rows.iter().any(|row| row.0 == key)).eq(found.iter().map(String::as_str)));
    assert_rows(&sorted(read(&output)), &sorted(rows));
}

#[test]
fn converts_the_folder_of_one_component() {
    let folder = Folder::new();
    let only = |prefix: &str| sd1().into_iter().filter(|row| row.0.starts_with(prefix)).collect();
    for (name, prefix) in [("unet", UNET), ("vae", VAE)] {
        let output = folder.join(&format!("{name}.safetensors"));
        run!["convert", diffusers("sd1").join(name), "-o", &output].done();
        assert_rows(&sorted(read(&output)), &sorted(only(prefix)));
    }
}

#[test]
fn reads_text_encoders_of_older_transformers() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("sd1"), &folder.join("older"));
    let weights = input.join("text_encoder/model.safetensors");
    let mut older = tensors(&diffusers("sd1/text_encoder/model.safetensors"));
    for (key, _) in &mut older {
        *key = format!("text_model.{}", key.strip_prefix("text_model.").unwrap_or(key));
    }
    older.insert(0, ("text_model.embeddings.position_ids".into(), support::position_ids(77)));
    fs::remove_file(&weights).unwrap();
    save(&weights, older);
    let output = folder.join("out.safetensors");
    let text = run!["convert", &input, "-o", &output].done();
    assert_rows(&sorted(read(&output)), &sorted(sd1()));
    assert!(!text.contains("which folders omit"), "{text}");
}

#[test]
fn reads_sharded_weights() {
    let folder = Folder::new();
    let (whole, sharded) = (folder.join("whole.ckpt"), folder.join("sharded.ckpt"));
    run!["convert", diffusers("sd1/unet"), "-o", &whole].done();
    run!["convert", diffusers("unet-shards"), "-o", &sharded].done();
    assert_rows(&read(&sharded), &read(&whole));
    assert_eq!(read(&sharded).len(), 686);
    run!["diff", diffusers("unet-shards"), diffusers("sd1/unet")].done();
}

#[test]
fn accounts_for_every_key_in_the_ledger() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let bin = "vae-bin/diffusion_pytorch_model.bin";
    let keys = |rows: Vec<Row>| rows.into_iter().map(|row| row.0).collect::<Vec<_>>();
    let in_component = |(name, file): (&'static str, &str)| {
        let keys = keys(read(&diffusers("sd1").join(name).join(file)));
        keys.into_iter().map(move |key| format!("{name}/{key}"))
    };
    let components = [("text_encoder", "model.safetensors"), ("unet", WEIGHTS), ("vae", WEIGHTS)];
    let in_folder = sorted(components.into_iter().flat_map(in_component).collect());
    let check = |report: Value, autoencoder: Vec<String>| {
        let lines = report["ledger"].as_array().unwrap();
        let text = |line: &Value, field: &str| Some(line[field].as_str()?.to_owned());
        let of = |from: &str| {
            let lines = lines.iter().filter(|line| line["from"] == from);
            sorted(lines.map(|line| text(line, "input").unwrap()).collect())
        };
        assert_eq!(of("checkpoint"), in_folder);
        assert_eq!(of("vae"), sorted(autoencoder));
        assert_eq!(of("program"), [POSITION_IDS]);
        let added = lines.iter().find(|line| line["from"] == "program").unwrap();
        assert_eq!(added["changes"], json!([{ "change": "inserted" }]));
        assert_eq!(sorted(lines.iter().filter_map(|line| text(line, "key")).collect()), sorted(keys(sd1())));
        let reshaped = lines.iter().filter(|line| line.to_string().contains(r#""change":"reshaped""#)).count();
        assert_eq!(reshaped, 8);
    };
    for dry_run in [true, false] {
        let run = |command: &str, vae: &[&str]| {
            let mut words = vec![command.into(), diffusers("sd1").into_os_string(), "--json".into(), "--force".into()];
            words.extend(vae.iter().flat_map(|vae| ["--vae".into(), diffusers(vae).into()]));
            words.extend(["-o".into(), output.clone().into()]);
            words.extend(dry_run.then_some("--dry-run".into()));
            support::run(&words).json()
        };
        check(run("convert", &[]), Vec::new());
        check(run("merge-vae", &[bin]), keys(read(&diffusers(bin))));
    }
}

#[test]
fn mentions_added_position_ids_only_if_the_output_has_them() {
    let folder = Folder::new();
    for (index, component) in [&[][..], &["--component", "unet"], &["--component", "text-encoder"]].iter().enumerate() {
        let output = folder.join(&format!("{index}.safetensors"));
        let mut words = vec!["convert".into(), diffusers("sd1").into_os_string(), "-o".into(), output.into_os_string()];
        words.extend(component.iter().map(Into::into));
        let printed = support::run(&words).done();
        let is_added = *component != ["--component", "unet"];
        assert_eq!(printed.contains("  program          1 inserted\n"), is_added, "{printed}");
        assert_eq!(printed.contains("  note         added "), is_added, "{printed}");
        assert!(is_added || !printed.contains("program"), "{printed}");
    }
    let merged = folder.join("merged.safetensors");
    let printed = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", diffusers("sd1"), "-o", &merged].done();
    assert!(!printed.contains("program"), "{printed}");
}

// --- inspect, hash, diff ---------------------------------------------------------------------------------------------

#[test]
fn inspects_architecture_and_completeness() {
    let text = run!["inspect", diffusers("sd1")].done();
    let line = |label: &str| text.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_default();
    assert!(line("architecture").contains("SD v1"), "{text}");
    assert!(line("container").contains("diffusers"), "{text}");
    assert!(line("tensors").contains("1130,"), "{text}");
    for component in ["UNet", "VAE", "text encoder"] {
        let found = line(component);
        assert!(found.contains("complete") && !found.contains("MISSING"), "{component}: {text}");
    }
    for (part, label) in [("unet-shards", "UNet"), ("vae-bin", "VAE"), ("vae-fp16", "VAE")] {
        let text = run!["inspect", diffusers(part)].done();
        let line = text.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_default();
        assert!(line.contains("complete"), "{part}: {text}");
    }
}

#[test]
fn hashes_components_as_in_the_converted_file() {
    let folder = Folder::new();
    let hashes = |path: &Path| run!["hash", path, "--json"].json()["files"][0].take();
    let of_folder = hashes(&diffusers("sd1"));
    assert_eq!(of_folder["components"].as_object().unwrap().len(), 3);
    assert_eq!(of_folder["sha256"], Value::Null);
    for extension in ["safetensors", "ckpt"] {
        let output = folder.join(&format!("out.{extension}"));
        run!["convert", diffusers("sd1"), "-o", &output].done();
        assert_eq!(hashes(&output)["components"], of_folder["components"]);
    }
}

#[test]
fn compares_a_folder_with_its_single_file() {
    let folder = Folder::new();
    let input = diffusers("sd1");
    for extension in ["safetensors", "ckpt"] {
        let (output, merged) = (folder.join(&format!("out.{extension}")), folder.join(&format!("vae.{extension}")));
        run!["convert", &input, "-o", &output].done();
        for (a, b) in [(&input, &output), (&output, &input), (&input, &input)] {
            let report = run!["diff", a, b, "--json"].json();
            assert_eq!((&report["equal"], &report["not_compared"]), (&json!(true), &json!(0)));
        }
        run!["merge-vae", &input, "--vae", diffusers("vae-bin"), "-o", &merged].done();
        for (a, b) in [(&input, &merged), (&merged, &input)] {
            let report = run!["diff", a, b, "--json"].json_of_no();
            assert_eq!(report["equal"], false);
            let counts = |it: &Value| json!([it["name"], it["equal"], it["different"].as_array().unwrap().len()]);
            let found: Vec<_> = report["components"].as_array().unwrap().iter().map(counts).collect();
            assert_eq!(json!(found), json!([["unet", 686, 0], ["vae", 0, 248], ["text-encoder", 197, 0]]));
        }
    }
}

// --- merge-vae -------------------------------------------------------------------------------------------------------

#[test]
fn merges_a_diffusers_vae_from_every_source() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let bases = [(fixture("tiny-sd1.ckpt"), expected("tiny-sd1.ckpt")), (diffusers("sd1"), sd1())];
    for ((base, before), (vae, weights)) in bases.iter().flat_map(|base| donors().map(|donor| (base, donor))) {
        let vae_rows = autoencoder(&weights);
        let replaced = |row: &Row| vae_rows.get(&row.0).unwrap_or(row).clone();
        let rows: Vec<Row> = before.iter().map(replaced).collect();
        assert_eq!(rows == *before, *base == vae, "{}", vae.display());
        let report = run!["merge-vae", base, "--vae", &vae, "-o", &output, "--force", "--json"].json();
        assert_rows(&sorted(read(&output)), &sorted(rows));
        let merged = &report["vae"];
        assert_eq!(merged["merged"], if *base == vae { "same" } else { "changed" });
        assert_eq!(merged["sha256"], sha256(&fs::read(&weights).unwrap()).as_str(), "{}", vae.display());
    }
}

#[test]
fn rejects_a_vae_with_missing_or_unknown_tensors() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("sd1/vae"), &folder.join("vae"));
    let weights = input.join(WEIGHTS);
    let whole = tensors(&diffusers("sd1/vae").join(WEIGHTS));
    let output = folder.join("out.safetensors");
    let refused = |tensors: Vec<_>, word: &str| {
        fs::remove_file(&weights).unwrap();
        save(&weights, tensors);
        for vae in [&input, &weights] {
            run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", vae, "-o", &output]
                .refused(&[vae.to_str().unwrap(), word]);
        }
        assert!(!output.exists());
    };
    let lacking = whole.iter().filter(|(key, _)| key != "decoder.conv_in.weight").cloned().collect();
    refused(lacking, "decoder.conv_in.weight");
    let strange = [whole.clone(), vec![("encoder.strange.weight".to_owned(), f32s(&[1.0]))]].concat();
    refused(strange, "encoder.strange.weight");
}

// --- Broken folders --------------------------------------------------------------------------------------------------

/// Asserts that converting this folder fails with one line that contains these words and changes nothing.
#[track_caller]
fn refused(folder: &Folder, input: &Path, words: &[&str]) {
    let before = folder.snapshot();
    for extension in ["safetensors", "ckpt"] {
        run!["convert", input, "-o", folder.join(&format!("out.{extension}"))].refused(words);
    }
    let output = folder.join("merged.ckpt");
    run!["merge-vae", input, "--vae", fixture("tiny-vae.ckpt"), "-o", &output].refused(words);
    run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", input, "-o", &output].refused(words);
    run!["diff", input, diffusers("sd1")].refused(words);
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn rejects_an_index_that_names_missing_shards() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("unet-shards"), &folder.join("unet"));
    // The file exists, so only its name in the index is wrong.
    let outside = folder.join("x.safetensors");
    fs::copy(input.join(SHARDS[0]), &outside).unwrap();
    fs::create_dir(input.join("below")).unwrap();
    fs::copy(&outside, input.join("below/x.safetensors")).unwrap();
    let index = fs::read_to_string(input.join(INDEX)).unwrap();
    let named = |shard: &str| fs::write(input.join(INDEX), index.replace(SHARDS[0], shard)).unwrap();
    let absolute = outside.to_str().unwrap().replace('\\', "/");
    for shard in ["../x.safetensors", &absolute, "below/x.safetensors", "..", ""] {
        named(shard);
        refused(&folder, &input, &[INDEX, shard]);
    }
    named("missing.safetensors");
    refused(&folder, &input, &["missing.safetensors"]);
    named(SHARDS[1]);
    refused(&folder, &input, &[INDEX, SHARDS[1], "tensor "]);
}

#[test]
fn rejects_an_index_with_a_key_missing_from_its_shard() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("unet-shards"), &folder.join("unet"));
    let mut index: Value = serde_json::from_slice(&fs::read(input.join(INDEX)).unwrap()).unwrap();
    index["weight_map"]["conv_in.other"] = SHARDS[0].into();
    fs::write(input.join(INDEX), index.to_string()).unwrap();
    refused(&folder, &input, &[INDEX, "conv_in.other", SHARDS[0]]);
}

#[test]
fn rejects_broken_json_and_names_the_file() {
    let folder = Folder::new();
    for (number, broken) in ["{\"weight_map\": {", "", "[]", "{}", "\u{0}", "{\"weight_map\": 1}"].iter().enumerate() {
        let input = copy_folder(&diffusers("unet-shards"), &folder.join(&format!("unet-{number}")));
        fs::write(input.join(INDEX), broken).unwrap();
        refused(&folder, &input, &[INDEX]);
        fs::write(input.join("config.json"), broken).unwrap();
        refused(&folder, &input, &[&format!("unet-{number}"), "config.json"]);
    }
    let input = copy_folder(&diffusers("sd1"), &folder.join("sd1"));
    fs::write(input.join("model_index.json"), "{\"unet\": [").unwrap();
    refused(&folder, &input, &["model_index.json"]);
}

#[test]
fn rejects_a_folder_without_weights_or_configuration() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("sd1"), &folder.join("no-weights"));
    fs::remove_file(input.join("unet").join(WEIGHTS)).unwrap();
    refused(&folder, &input, &["no-weights/unet: ", WEIGHTS]);
    refused(&folder, &input.join("unet"), &["no-weights/unet: ", WEIGHTS]);

    let input = copy_folder(&diffusers("sd1"), &folder.join("no-index"));
    fs::remove_file(input.join("model_index.json")).unwrap();
    refused(&folder, &input, &["no-index: ", "model_index.json", "config.json"]);
    fs::remove_file(input.join("vae/config.json")).unwrap();
    refused(&folder, &input.join("vae"), &["no-index/vae: ", "model_index.json", "config.json"]);

    let input = folder.join("empty");
    fs::create_dir(&input).unwrap();
    refused(&folder, &input, &["empty: "]);
    fs::write(input.join("model_index.json"), "{}").unwrap();
    refused(&folder, &input, &["empty: ", "unet"]);
}

#[test]
fn rejects_an_unknown_unet_key() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("sd1"), &folder.join("sd1"));
    let weights = input.join("unet").join(WEIGHTS);
    let mut strange = tensors(&diffusers("sd1/unet").join(WEIGHTS));
    strange.push(("down_blocks.0.strange.weight".into(), f32s(&[1.0])));
    fs::remove_file(&weights).unwrap();
    save(&weights, strange);
    refused(&folder, &input, &[input.to_str().unwrap(), "unet/down_blocks.0.strange.weight"]);
}
