//! Writing diffusers folders: files written by diffusers are restored byte for byte by any chain of conversions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, Folder, Ran, copy_folder, fixture, read, save, tensors};
use serde_json::{Value, json};
use trinart_ckpt::formats::tensor::Dtype;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

fn diffusers(name: &str) -> PathBuf {
    fixture("diffusers").join(name)
}

/// Returns every file in a folder, recursively, by relative path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().replace('\\', "/");
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

fn value(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[track_caller]
fn assert_same_files(found: &Path, expected: &Path, names: &[&str]) {
    for name in names {
        assert!(fs::read(found.join(name)).unwrap() == fs::read(expected.join(name)).unwrap(), "{name} differs");
    }
}

/// Converts `input` to `output` in the folder.
fn convert(input: &Path, output: &str, folder: &Folder, options: &[&str]) -> Ran {
    let mut arguments = vec!["convert".into(), input.into(), "-o".into(), folder.join(output).into_os_string()];
    arguments.extend(options.iter().map(Into::into));
    support::run(&arguments)
}

// --- Round trips -----------------------------------------------------------------------------------------------------

#[test]
fn round_trips_weights_through_a_single_file() {
    let folder = Folder::new();
    for single in ["single.safetensors", "single.ckpt"] {
        convert(&diffusers("sd1"), single, &folder, &[]).done();
        convert(&folder.join(single), "back/", &folder, &["--force"]).done();
        assert_same_files(&folder.join("back"), &diffusers("sd1"), &[UNET, VAE, TEXT]);
    }
}

#[test]
fn copies_a_folder_unchanged() {
    let folder = Folder::new();
    let report = convert(&diffusers("sd1"), "out/", &folder, &["--json"]).json();
    assert_eq!(files(&folder.join("out")), files(&diffusers("sd1")));
    let is_kept = |line: &Value| line["key"] == line["input"] && line["changes"] == json!([]);
    let ledger = report["ledger"].as_array().unwrap();
    assert!(ledger.iter().all(is_kept));
    assert_eq!(
        (ledger.len() as u64, report["format"].as_str()),
        (report["tensors"].as_u64().unwrap(), Some("diffusers"))
    );
}

#[test]
fn writes_a_folder_equal_to_the_checkpoint() {
    let folder = Folder::new();
    let single = fixture("tiny-sd1.ckpt");
    convert(&single, "out/", &folder, &[]).done();
    run!["convert", &single, "-o", folder.join("pruned.safetensors"), "--prune"].done();
    run!["diff", folder.join("pruned.safetensors"), folder.join("out")].done();
    run!["diff", &single, folder.join("out")].done();
}

#[test]
fn lists_every_key_once_in_the_ledger() {
    let folder = Folder::new();
    let report = convert(&fixture("tiny-sd1.ckpt"), "out/", &folder, &["--json"]).json();
    let mut inputs: Vec<String> = Vec::new();
    let mut outputs: Vec<String> = Vec::new();
    for line in report["ledger"].as_array().unwrap() {
        inputs.push(line["input"].as_str().unwrap().to_owned());
        outputs.extend(line["key"].as_str().map(str::to_owned));
    }
    let mut keys: Vec<String> = read(&fixture("tiny-sd1.ckpt")).into_iter().map(|row| row.0).collect();
    let mut written: Vec<String> = read(&folder.join("out")).into_iter().map(|row| row.0).collect();
    for list in [&mut inputs, &mut outputs, &mut keys, &mut written] {
        list.sort();
    }
    assert_eq!(inputs, keys);
    assert_eq!(outputs, written);
}

// --- Configurations and tokenizer ------------------------------------------------------------------------------------

#[test]
fn derives_configurations_from_shapes() {
    let folder = Folder::new();
    convert(&diffusers("sd1"), "single.safetensors", &folder, &[]).done();
    convert(&folder.join("single.safetensors"), "out/", &folder, &[]).done();
    // The relevant fields, as diffusers and transformers write them. All other fields are defaults or redundant.
    for (name, keys) in [
        (
            "unet/config.json",
            &[
                "_class_name",
                "act_fn",
                "attention_head_dim",
                "block_out_channels",
                "cross_attention_dim",
                "down_block_types",
                "flip_sin_to_cos",
                "freq_shift",
                "in_channels",
                "layers_per_block",
                "norm_eps",
                "norm_num_groups",
                "out_channels",
                "up_block_types",
                "use_linear_projection",
            ][..],
        ),
        (
            "vae/config.json",
            &[
                "_class_name",
                "act_fn",
                "block_out_channels",
                "down_block_types",
                "in_channels",
                "latent_channels",
                "layers_per_block",
                "out_channels",
                "scaling_factor",
                "up_block_types",
            ],
        ),
        (
            "text_encoder/config.json",
            &[
                "architectures",
                "hidden_act",
                "hidden_size",
                "intermediate_size",
                "layer_norm_eps",
                "max_position_embeddings",
                "model_type",
                "num_hidden_layers",
                "vocab_size",
            ],
        ),
        ("model_index.json", &["_class_name", "text_encoder", "unet", "vae"]),
    ] {
        let (found, expected) = (value(&folder.join("out").join(name)), value(&diffusers("sd1").join(name)));
        for key in keys {
            assert_eq!(found[key], expected[key], "{key} in {name}");
        }
    }
    assert_eq!(value(&folder.join("out/scheduler/scheduler_config.json"))["prediction_type"], "epsilon");
}

#[test]
fn writes_the_complete_tokenizer() {
    let folder = Folder::new();
    convert(&fixture("tiny-sd1.ckpt"), "out/", &folder, &[]).done();
    let tokenizer = folder.join("out/tokenizer");
    let vocabulary = value(&tokenizer.join("vocab.json"));
    assert_eq!(vocabulary.as_object().unwrap().len(), 49_408);
    assert_eq!((&vocabulary["photo</w>"], &vocabulary["<|endoftext|>"]), (&json!(1125), &json!(49_407)));
    let merges = fs::read_to_string(tokenizer.join("merges.txt")).unwrap();
    assert!(merges.starts_with("#version: 0.2\ni n\nt h\n") && merges.lines().count() == 48_895);
    assert_eq!(value(&tokenizer.join("tokenizer_config.json"))["model_max_length"], 77);
}

#[test]
fn writes_the_requested_prediction_type() {
    let folder = Folder::new();
    convert(&fixture("tiny-sd1.ckpt"), "out/", &folder, &["--prediction", "v"]).done();
    assert_eq!(value(&folder.join("out/scheduler/scheduler_config.json"))["prediction_type"], "v_prediction");
}

// --- Components, shards, variants, dtypes ----------------------------------------------------------------------------

#[test]
fn writes_one_component_as_a_folder() {
    let folder = Folder::new();
    convert(&diffusers("sd1"), "vae/", &folder, &["--component", "vae"]).done();
    assert_eq!(files(&folder.join("vae")), files(&diffusers("sd1/vae")));
    convert(&fixture("tiny-vae.ckpt"), "bare/", &folder, &[]).done();
    let names: Vec<String> = files(&folder.join("bare")).into_keys().collect();
    assert_eq!(names, ["config.json", "diffusion_pytorch_model.safetensors"]);
    let merged = run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", folder.join("bare"), "-o", folder.join("a.ckpt")];
    merged.done();
    run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", fixture("tiny-vae.ckpt"), "-o", folder.join("b.ckpt")].done();
    run!["diff", folder.join("a.ckpt"), folder.join("b.ckpt")].done();
}

#[test]
fn writes_shards_and_variants() {
    let folder = Folder::new();
    let input = fixture("tiny-sd1.ckpt");
    convert(&input, "whole/", &folder, &[]).done();
    convert(&input, "cut/", &folder, &["--max-shard-size", "100kB", "--variant", "fp16"]).done();
    let index = value(&folder.join("cut/unet/diffusion_pytorch_model.safetensors.index.fp16.json"));
    let places = index["weight_map"].as_object().unwrap();
    assert_eq!(places.len(), 686);
    for (key, file) in places {
        let shard = tensors(&folder.join("cut/unet").join(file.as_str().unwrap()));
        assert!(shard.iter().any(|(found, _)| found == key), "{key} is not in {file}");
    }
    run!["diff", folder.join("whole"), folder.join("cut")].done();
}

#[test]
fn writes_bin_weights_with_tensors_at_the_top_level() {
    let folder = Folder::new();
    convert(&diffusers("sd1"), "bin/", &folder, &["--bin", "--max-shard-size", "20kB"]).done();
    assert!(folder.join("bin/unet/diffusion_pytorch_model.bin.index.json").is_file());
    run!["diff", diffusers("sd1"), folder.join("bin")].done();
    convert(&diffusers("sd1"), "vae/", &folder, &["--bin", "--component", "vae"]).done();
    let contents = crate::support::open(folder.join("vae/diffusion_pytorch_model.bin")).unwrap();
    assert_eq!((contents.root(), contents.metadata().len()), ("", 0));
    assert!(contents.state_dict().contains("encoder.conv_in.weight"));
}

#[test]
fn casts_every_weight_of_a_folder() {
    let folder = Folder::new();
    convert(&diffusers("sd1"), "half/", &folder, &["--dtype", "f16"]).done();
    assert!(tensors(&folder.join("half")).iter().all(|(_, tensor)| tensor.dtype() == Dtype::F16));
    assert_same_files(&folder.join("half"), &diffusers("sd1"), &["model_index.json", "unet/config.json"]);
}

#[test]
fn merges_into_a_folder_and_changes_only_the_vae() {
    let folder = Folder::new();
    let source = diffusers("sd1");
    // A different VAE with the same shapes.
    let other = tensors(&source.join(VAE)).into_iter().map(|(key, tensor)| {
        let bytes = tensor.to_bytes().unwrap().iter().map(|byte| byte ^ 1).collect();
        (key, support::tensor(tensor.dtype(), tensor.shape().dims(), bytes))
    });
    save(&folder.join("vae.safetensors"), other);
    run!["merge-vae", &source, "--vae", folder.join("vae.safetensors"), "-o", folder.join("out/")].done();
    let (before, after) = (files(&source), files(&folder.join("out")));
    let changed: Vec<&str> = before
        .iter()
        .filter(|(name, content)| after.get(*name) != Some(content))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(changed, [VAE]);
    assert_eq!(before.len(), after.len());
    let merged = read(&folder.join("out").join(VAE));
    assert_eq!(merged, {
        let mut rows = read(&folder.join("vae.safetensors"));
        rows.sort();
        rows
    });
}

// --- Rejected requests and data loss ---------------------------------------------------------------------------------

#[test]
fn replaces_a_folder_only_with_force_and_keeps_foreign_files() {
    let folder = Folder::new();
    let input = fixture("tiny-sd1.ckpt");
    convert(&input, "out/", &folder, &[]).done();
    convert(&input, "out", &folder, &[]).refused(&["out", "already exists", "--force"]);
    convert(&input, "out", &folder, &["--force"]).done();
    fs::write(folder.join("out/notes.txt"), "mine").unwrap();
    let before = files(folder.path());
    convert(&input, "out", &folder, &["--force"]).refused(&["out", "notes.txt", "move it away"]);
    assert_eq!(files(folder.path()), before);
    fs::write(folder.join("file"), "mine").unwrap();
    convert(&input, "file", &folder, &["--to", "diffusers", "--force"]).refused(&["file", "not a folder"]);
}

#[test]
fn rejects_an_incomplete_component() {
    let folder = Folder::new();
    let key = "model.diffusion_model.middle_block.0.in_layers.2.weight";
    let mut rest = tensors(&fixture("tiny-sd1.safetensors"));
    rest.retain(|(found, _)| found != key);
    save(&folder.join("lacking.safetensors"), rest);
    convert(&folder.join("lacking.safetensors"), "out/", &folder, &[]).refused(&[
        "lacking.safetensors",
        key,
        "missing",
    ]);
    let mut rest = tensors(&fixture("tiny-sd1.safetensors"));
    rest.retain(|(found, _)| !found.starts_with("cond_stage_model."));
    save(&folder.join("silent.safetensors"), rest);
    convert(&folder.join("silent.safetensors"), "out/", &folder, &[]).refused(&["silent.safetensors", "text_encoder"]);
    assert_eq!(folder.names(), ["lacking.safetensors", "silent.safetensors"]);
}

#[test]
fn reports_an_unknown_part_as_left_out() {
    let folder = Folder::new();
    let input = copy_folder(&diffusers("sd1"), &folder.join("in"));
    let mut index = value(&input.join("model_index.json"));
    index["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
    fs::write(input.join("model_index.json"), index.to_string()).unwrap();
    let text = convert(&input, "out/", &folder, &[]).done();
    assert!(text.contains("left out safety_checker"), "{text}");
    assert_eq!(value(&folder.join("out/model_index.json"))["safety_checker"], json!([null, null]));
}

#[test]
fn lists_every_destination_in_a_dry_run() {
    let folder = Folder::new();
    let text = convert(&fixture("tiny-sd1.ckpt"), "out/", &folder, &["--dry-run", "-v"]).done();
    assert!(text.contains("model.diffusion_model.out.2.bias: -> unet/conv_out.bias (renamed)"), "{text:.400}");
    assert!(folder.names().is_empty());
}
