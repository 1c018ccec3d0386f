//! The parts of a diffusers folder besides its components, and weights under every name that folders give them.

use std::fs;
use std::path::Path;

use crate::marks::notices;
use crate::support::narrow::Narrow;
use crate::support::{self, Folder, Ran, assert_rows, copy_folder, f32s, fixture, read, save};
use serde_json::{Value, json};
use trinart_ckpt::models::family::Architecture::Sd1;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Converts to a diffusers folder.
fn convert(input: &Path, output: &Path, options: &[&str]) -> Ran {
    let arguments = [&["convert", input.to_str().unwrap(), "-o", output.to_str().unwrap()], options].concat();
    let arguments: Vec<_> = arguments.into_iter().chain(["--to", "diffusers"]).map(Into::into).collect();
    support::run(&arguments)
}

fn value(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// SD v1 with a safety checker, a second UNet that the index does not name, and a folder that is no part.
fn with_parts(folder: &Folder) -> std::path::PathBuf {
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    let mut index = value(&input.join("model_index.json"));
    index["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
    fs::write(input.join("model_index.json"), index.to_string()).unwrap();
    for part in ["safety_checker", "unet_ema", "samples"] {
        fs::create_dir(input.join(part)).unwrap();
        if part != "samples" {
            fs::write(input.join(part).join("config.json"), "{\"a\":  1}").unwrap();
        }
    }
    save(&input.join("safety_checker/model.safetensors"), vec![("a".into(), f32s(&[1.0]))]);
    save(&input.join("unet_ema").join(WEIGHTS), vec![("b".into(), f32s(&[2.0]))]);
    fs::write(input.join("samples/a.png"), "picture").unwrap();
    input
}

#[test]
fn copies_unknown_parts_byte_for_byte() {
    let folder = Folder::new();
    let (input, output) = (with_parts(&folder), folder.join("out"));
    let report = run!["convert", &input, "-o", &output, "--to", "diffusers", "--dtype", "f16", "--json"].json();
    for file in ["safety_checker/config.json", "safety_checker/model.safetensors", "unet_ema/config.json"] {
        assert_eq!(fs::read(output.join(file)).unwrap(), fs::read(input.join(file)).unwrap(), "{file}");
    }
    let ema = Path::new("unet_ema").join(WEIGHTS);
    assert_eq!(fs::read(output.join(&ema)).unwrap(), fs::read(input.join(&ema)).unwrap());
    assert_eq!(fs::read(output.join("model_index.json")).unwrap(), fs::read(input.join("model_index.json")).unwrap());
    assert_eq!(notices(&report), ["pipeline-part-kept", "pipeline-part-kept"]);
    assert!(!output.join("samples").exists());
    assert_eq!(report["left_out"][0]["path"], "samples");
    assert!(read(&output.join("unet").join(WEIGHTS)).iter().all(|row| row.1 == "F16"));
    // In place, which Windows refuses.
    let in_place = run!["convert", &output, "-o", &output, "--to", "diffusers", "--dtype", "f32", "--force"];
    if cfg!(windows) {
        in_place.refused(&["an input is read from", "write a new folder"]);
    } else {
        in_place.done();
    }
    assert_eq!(fs::read(output.join(&ema)).unwrap(), fs::read(input.join(&ema)).unwrap());
}

#[test]
fn names_the_parts_that_a_file_cannot_hold() {
    let folder = Folder::new();
    let (input, output) = (with_parts(&folder), folder.join("out.safetensors"));
    let text = run!["convert", &input, "-o", &output].done();
    assert!(text.contains("left out safety_checker") && text.contains("left out unet_ema"), "{text}");
}

#[test]
fn names_a_tokenizer_that_a_file_loses() {
    let folder = Folder::new();
    let (made, file) = (folder.join("made"), folder.join("out.safetensors"));
    Narrow::new(Sd1).save(&folder.join("in.safetensors"), &[]);
    convert(&folder.join("in.safetensors"), &made, &[]).done();
    let report = run!["convert", &made, "-o", &file, "--force", "--json"].json();
    assert!(!notices(&report).iter().any(|code| code == "pipeline-part-dropped"), "{report}");
    fs::write(made.join("tokenizer/added_tokens.json"), "{\"<mine>\": 49408}").unwrap();
    let text = run!["convert", &made, "-o", &file, "--force"].done();
    assert!(text.contains("left out tokenizer: ") && text.contains("not that of CLIP"), "{text}");
    // A folder keeps the tokenizer.
    let text = convert(&made, &folder.join("copy"), &[]).done();
    assert!(!text.contains("left out tokenizer"), "{text}");
    assert!(folder.join("copy/tokenizer/added_tokens.json").exists());
}

#[test]
fn rejects_a_part_with_a_dangerous_pickle() {
    let folder = Folder::new();
    let (input, output) = (with_parts(&folder), folder.join("out"));
    fs::copy(fixture("hostile/calls-system.ckpt"), input.join("safety_checker/pytorch_model.bin")).unwrap();
    run!["convert", &input, "-o", &output, "--to", "diffusers"].refused(&["system"]);
    run!["convert", &input, "-o", &output, "--to", "diffusers", "--sanitize"].done();
    assert!(!output.join("safety_checker/pytorch_model.bin").exists());
    assert!(output.join("safety_checker/model.safetensors").exists());
}

#[test]
fn reads_every_variant_that_it_writes() {
    let folder = Folder::new();
    let (input, output) = (fixture("diffusers/sd1"), folder.join("out"));
    for variant in ["ema", "non_ema", "bf16"] {
        for shards in [&[][..], &["--max-shard-size", "100KB"]] {
            let (back, twice) = (folder.join("back.safetensors"), folder.join("twice.safetensors"));
            convert(&input, &output, &[&["--variant", variant], shards].concat()).done();
            run!["convert", &output, "-o", &back, "--force"].done();
            run!["convert", &input, "-o", &twice, "--force"].done();
            assert_rows(&read(&back), &read(&twice));
            fs::remove_dir_all(&output).unwrap();
        }
    }
    run!["convert", &input, "-o", &output, "--to", "diffusers", "--variant", "a"].done();
    let vae = output.join("vae");
    fs::copy(vae.join("diffusion_pytorch_model.a.safetensors"), vae.join("diffusion_pytorch_model.b.safetensors"))
        .unwrap();
    run!["inspect", &output].refused(&["several variants (a, b)", "vae"]);
}

#[test]
fn merges_a_vae_in_shards() {
    let folder = Folder::new();
    let (vae, base) = (folder.join("vae"), fixture("tiny-sd1.safetensors"));
    let options = ["--component", "vae", "--max-shard-size", "100KB"];
    convert(&fixture("tiny-sd1.ckpt"), &vae, &options).done();
    assert!(vae.join("diffusion_pytorch_model.safetensors.index.json").exists());
    let (whole, sharded) = (folder.join("whole.safetensors"), folder.join("sharded.safetensors"));
    run!["merge-vae", &base, "--vae", &vae, "-o", &sharded].done();
    run!["merge-vae", &base, "--vae", fixture("tiny-sd1.ckpt"), "-o", &whole].done();
    assert_rows(&read(&sharded), &read(&whole));
}
