//! `render-check`, from its arguments to the picture, on a narrow SD v1 model with random weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{self, Folder, Ran, fixture, save, tensor};
use serde_json::Value;
use trinart_ckpt::formats::io::Progress;
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt::models::Checkpoint;
use trinart_ckpt::ops::RenderCheck;
use trinart_ckpt::render::job::Device;
use trinart_ckpt::render::picture::Picture;
use trinart_ckpt::render::settings::{Infotext, RenderOptions};

const VAE: &str = "first_stage_model.";

/// Weights that pass every check: like `random`, except that the UNet predicts the noise in its input. The first
/// channels carry the latent and its negative through all blocks to the end, where SiLU(x) - SiLU(-x) = x. The last
/// transformer adds a small part of the other channels, so that the prompt has an effect.
fn weights(key: &str, shape: &[u64]) -> Vec<f32> {
    let mut values = random(key, shape);
    let at = |out: usize, input: usize| {
        (out * shape[1] as usize + input) * shape.get(2..).map_or(1, |it| it.iter().product()) as usize
    };
    match key.strip_prefix("model.diffusion_model.").unwrap_or_default() {
        "input_blocks.0.0.weight" => {
            for (out, sign) in (0..8).zip([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]) {
                values[at(out, 0)..at(out + 1, 0)].fill(0.0);
                values[at(out, out % 4) + 4] = sign;
            }
        }
        "output_blocks.11.0.skip_connection.weight" => {
            values.fill(0.0);
            let beside = (shape[1] - shape[0]) as usize;
            (0..shape[0] as usize).for_each(|channel| values[at(channel, beside + channel)] = 1.0);
        }
        "out.2.weight" => {
            values.fill(0.0);
            for channel in 0..4 {
                values[at(channel, channel) + 4] = 1.0;
                values[at(channel, channel + 4) + 4] = -1.0;
            }
        }
        "output_blocks.11.1.proj_out.weight" => values.iter_mut().for_each(|value| *value *= 0.05),
        // Slightly less than the noise, so that some of the latent remains at the end.
        "out.0.weight" => values.fill(0.93),
        "output_blocks.11.0.out_layers.3.weight"
        | "output_blocks.11.0.out_layers.3.bias"
        | "output_blocks.11.0.skip_connection.bias"
        | "output_blocks.11.1.proj_out.bias"
        | "input_blocks.0.0.bias"
        | "out.0.bias"
        | "out.2.bias" => values.fill(0.0),
        _ => {}
    }
    values
}

/// Deterministic pseudo-random weights of variance 1/n, which keeps the scale of activations.
fn random(key: &str, shape: &[u64]) -> Vec<f32> {
    let seed = key.bytes().fold(17_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let count = shape.iter().product::<u64>();
    let fan_in = shape.iter().skip(1).product::<u64>().max(1) as f32;
    let draw = |index: u64| {
        let z = (seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let is_norm = shape.len() == 1 && key.ends_with("weight");
    (0..count).map(|index| draw(index) * (3.0 / fan_in).sqrt().min(0.5) + if is_norm { 1.0 } else { 0.0 }).collect()
}

fn f32s(key: &str, shape: &[u64], change: impl Fn(&str, Vec<f32>) -> Vec<f32>) -> LazyTensor {
    let bytes = change(key, weights(key, shape)).into_iter().flat_map(f32::to_le_bytes).collect();
    tensor(Dtype::F32, shape, bytes)
}

/// Writes the model with its weights changed by `change`.
pub(crate) fn model(folder: &Folder, name: &str, change: impl Fn(&str, Vec<f32>) -> Vec<f32>) -> PathBuf {
    let shapes = fs::read_to_string(fixture("render/tiny-sd1.json")).unwrap();
    let shapes: BTreeMap<String, Vec<u64>> = serde_json::from_str(&shapes).unwrap();
    let path = folder.join(name);
    save(&path, shapes.iter().map(|(key, shape)| (key.clone(), f32s(key, shape, &change))));
    path
}

pub(crate) fn same(_: &str, values: Vec<f32>) -> Vec<f32> {
    values
}

fn render(checkpoint: &Path, output: &Path, options: &[&str]) -> Ran {
    let mut arguments: Vec<std::ffi::OsString> =
        vec!["render-check".into(), checkpoint.into(), "-o".into(), output.into(), "--json".into()];
    arguments.extend(options.iter().map(Into::into));
    support::run(&arguments)
}

const SMALL: [&str; 8] = ["--size", "64x64", "--steps", "2", "--prompt", "a (cat:1.2), naïve", "--negative", "dog"];

/// The check with this name.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// The report of a render that passed (exit code 0).
fn report(ran: Ran) -> Value {
    ran.json()
}

/// The report of a render that failed (exit code 1).
fn failed(ran: Ran) -> Value {
    ran.json_of_no()
}

#[test]
fn writes_the_same_picture_twice_and_with_like() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let (a, b, c) = (folder.join("a.png"), folder.join("b.png"), folder.join("c.png"));
    let found = report(render(&checkpoint, &a, &SMALL));
    report(render(&checkpoint, &b, &SMALL));
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    let liked = report(render(&checkpoint, &c, &["--like", a.to_str().unwrap()]));
    assert_eq!(fs::read(&a).unwrap(), fs::read(&c).unwrap());
    assert_eq!(liked["against"]["psnr"], Value::Null);
    let (picture, text) = Picture::from_png(&fs::read(&a).unwrap()).unwrap();
    assert_eq!((picture.width, picture.height), (64, 64));
    assert_eq!(text.as_deref(), found["parameters"].as_str());
    let text = Infotext::parse(&text.unwrap());
    assert_eq!((text.prompt.as_str(), text.negative.as_str()), ("a (cat:1.2), naïve", "dog"));
    assert_eq!((text.get("Sampler"), text.get("Steps"), text.get("Size")), (Some("Euler a"), Some("2"), Some("64x64")));
    assert_eq!(found["verdict"], "pass");
    assert_eq!(check(&found, "noise")["verdict"], "pass");
    assert_eq!(check(&found, "UNet finite")["verdict"], "pass");
}

#[test]
fn reproduces_its_own_pictures_with_like() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let vae = folder.join("donor.vae.safetensors");
    run![
        "convert",
        model(&folder, "donor.safetensors", |key, values| match key.starts_with(VAE) {
            true => values.into_iter().rev().collect(),
            false => values,
        }),
        "-o",
        &vae,
        "--component",
        "vae"
    ]
    .done();
    let vae = vae.to_str().unwrap();
    for options in [
        &["--sampler", "DPM++ 2M Karras", "--rng", "cpu", "--cfg", "1.5", "--seed", "18446744073709551615"][..],
        &["--sampler", "DPM2 a", "--clip-skip", "2", "--preset", "artstyle-2022"],
        &["--sampler", "LMS Karras", "--size", "72x104", "--steps", "3"],
        &["--sampler", "DDIM", "--prompt-syntax", "trinart", "--prompt", "a b c::4 d::1"],
        &["--sampler", "UniPC", "--dtype", "f16", "--steps", "3"],
        &["--sampler", "DPM++ SDE", "--schedule", "Beta"],
        &["--prompt", "a \n Negative prompt: b\nSteps: 1, Seed: 2, Size: 3", "--negative", " \"c\": d,\n\n猫 "],
        &["--vae", vae],
    ] {
        let (a, b) = (folder.join("a.png"), folder.join("b.png"));
        let defaults = [["--size", "64x64"], ["--steps", "2"]];
        let defaults = defaults.into_iter().filter(|it| !options.contains(&it[0])).flatten().chain(["--force"]);
        // After two steps, a picture may fail the checks.
        let any_verdict = |ran: Ran| serde_json::from_str::<Value>(&ran.stdout).unwrap();
        any_verdict(render(&checkpoint, &a, &defaults.chain(options.iter().copied()).collect::<Vec<_>>()));
        // The picture has the name of the VAE, but not its path.
        let again = if options.contains(&"--vae") { options } else { &[] };
        let found =
            any_verdict(render(&checkpoint, &b, &[&["--like", a.to_str().unwrap(), "--force"], again].concat()));
        assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap(), "{options:?}");
        assert_eq!(check(&found, "parameters")["verdict"], "pass", "{options:?}");
    }
}

/// Writes a picture with these parameters.
fn picture(folder: &Folder, fields: &str) -> PathBuf {
    let path = folder.join("webui.png");
    let picture = Picture { width: 64, height: 64, rgb: vec![128; 3 * 64 * 64] };
    fs::write(&path, picture.to_png(&format!("a cat\n{fields}")).unwrap()).unwrap();
    path
}

#[test]
fn follows_webui_parameters_or_names_what_it_cannot_follow() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let mut out = 0;
    let mut like = |fields: &str| {
        out += 1;
        let picture = picture(&folder, fields);
        render(&checkpoint, &folder.join(&format!("{out}.png")), &["--like", picture.to_str().unwrap()])
    };
    let old =
        "Steps: 2, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 64x64, Model hash: 45dee52b, Clip skip: 2";
    let found = report(like(old));
    let parameters = found["parameters"].as_str().unwrap();
    assert!(parameters.contains("Sampler: DPM++ 2M, Schedule type: Karras") && parameters.contains("Clip skip: 2"));
    assert_eq!(check(&found, "parameters")["verdict"], "pass");
    assert!(check(&found, "model")["found"].as_str().unwrap().contains("45dee52b"));
    // ENSD changes the noise of each step.
    let ancestral = "Steps: 2, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1, Size: 64x64";
    let (plain, delta) =
        (report(like(ancestral)), report(like(&format!("{ancestral}, ENSD: 31337, Version: v1.10.1"))));
    assert!(delta["parameters"].as_str().unwrap().contains("ENSD: 31337"));
    assert_ne!(plain["against"]["psnr"], delta["against"]["psnr"]);
    // Reports the other parameters.
    let found = report(like(&format!("{ancestral}, VAE: kl-f8.vae.pt, Hires upscale: 2, Lora hashes: \"x: 1\"")));
    let parameters = check(&found, "parameters");
    assert_eq!(parameters["verdict"], "warning");
    let reported = parameters["found"].as_str().unwrap();
    assert!(
        ["Hires upscale: 2", "Lora hashes: x: 1", "kl-f8.vae.pt"].iter().all(|it| reported.contains(it)),
        "{reported}"
    );
    for (fields, message) in [
        ("Steps: 2, Sampler: Euler, Schedule type: GITS, Seed: 1, Size: 64x64", "Schedule type: GITS"),
        ("Steps: 2, Sampler: Euler Dy, Seed: 1, Size: 64x64", "Euler Dy"),
        ("Steps: 0, Sampler: Euler, Seed: 1, Size: 64x64", "Steps: 0"),
        ("Steps: 2, Sampler: Euler, Seed: -1, Size: 64x64", "Seed: -1"),
        ("Steps: 2, Sampler: Euler, CFG scale: inf, Seed: 1, Size: 64x64", "CFG scale: inf"),
        ("Steps: 2, Sampler: Euler, Seed: 1, Size: 60x64", "Size: 60x64"),
        ("Steps: 2, Sampler: Euler, Seed: 1, Size: 64x64, RNG: TPU", "RNG: TPU"),
        ("no fields", "parameters"),
    ] {
        let ran = like(fields);
        assert_eq!(ran.code, Some(2), "{fields}");
        support::assert_one_line(&ran.stderr, &[message]);
    }
}

#[test]
fn compares_only_pictures_of_the_same_size() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    // A picture that hires fix enlarged.
    let picture = picture(&folder, "Steps: 1, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x72");
    let output = folder.join("a.png");
    let ran = render(&checkpoint, &output, &["--like", picture.to_str().unwrap()]);
    let found = serde_json::from_str::<Value>(&ran.stdout).unwrap();
    assert_eq!(check(&found, "size")["verdict"], "warning");
    assert_eq!(found["against"], Value::Null);
    assert!(output.exists());
    let refused = folder.join("b.png");
    run!["render-check", &checkpoint, "-o", &refused, "--size", "72x64", "--against", &picture].refused(&[
        "webui.png",
        "64x64",
        "72x64",
    ]);
    assert!(!refused.exists());
}

#[test]
fn renders_the_same_picture_from_every_container_and_layout() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    run!["convert", &checkpoint, "-o", folder.join("model.ckpt")].done();
    run!["convert", &checkpoint, "-o", folder.join("folder/")].done();
    // A file does not tell the number of heads. A render takes 4 for a narrow text encoder, a converted folder has 1.
    let config = folder.join("folder/text_encoder/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"num_attention_heads\": 1,", "\"num_attention_heads\": 4,")).unwrap();
    let pixels = |path: &Path| {
        report(render(path, &folder.join("out.png"), &[&SMALL[..], &["--force"]].concat()));
        Picture::from_png(&fs::read(folder.join("out.png")).unwrap()).unwrap().0
    };
    let expected = pixels(&checkpoint);
    assert!(pixels(&folder.join("model.ckpt")) == expected);
    assert!(pixels(&folder.join("folder")) == expected);
}

#[test]
fn renders_the_same_latent_and_another_picture_after_a_merge() {
    let folder = Folder::new();
    let base = model(&folder, "base.safetensors", same);
    let other = |key: &str, values: Vec<f32>| -> Vec<f32> {
        if key.starts_with(VAE) { values.into_iter().rev().collect() } else { values }
    };
    let donor = model(&folder, "donor.safetensors", other);
    run!["merge-vae", &base, "--vae", &donor, "-o", folder.join("merged.safetensors")].done();
    let options = [&SMALL[..], &["--against", base.to_str().unwrap()]].concat();
    let found = report(render(&folder.join("merged.safetensors"), &folder.join("a.png"), &options));
    assert!(check(&found, "latents")["found"].as_str().unwrap().starts_with("bit-identical"));
    assert_eq!(check(&found, "latents")["verdict"], "pass");
    assert_eq!(found["against"]["latent"]["identical"], true);
    assert!(check(&found, "weights")["found"].as_str().unwrap().starts_with("VAE: "));
    assert!(check(&found, "picture")["found"].as_str().unwrap().starts_with("different"));
    // The columns of the contact sheet: both pictures and their difference.
    let sheet = Picture::from_png(&fs::read(folder.join("a.sheet.png")).unwrap()).unwrap().0;
    let ours = Picture::from_png(&fs::read(folder.join("a.png")).unwrap()).unwrap().0;
    let pixel = |picture: &Picture, x: usize, y: usize| picture.rgb[3 * (y * picture.width + x)..][..3].to_vec();
    // The sheet enlarges small pictures to 256 pixels.
    let row = |column: usize| (0..64).map(|x| pixel(&sheet, 8 + column * 264 + 4 * x, 8)).collect::<Vec<_>>();
    let expected: Vec<_> = (0..64).map(|x| pixel(&ours, x, 0)).collect();
    assert_eq!(row(0), expected);
    assert_ne!(row(1), expected);
    // A VAE passed with `--vae` gives the same picture.
    let options = [&SMALL[..], &["--vae", donor.to_str().unwrap()]].concat();
    report(render(&base, &folder.join("b.png"), &options));
    let picture = |name: &str| Picture::from_png(&fs::read(folder.join(name)).unwrap()).unwrap().0;
    assert!(picture("a.png") == picture("b.png"));
}

#[test]
fn says_what_a_file_is_that_cannot_be_rendered() {
    let folder = Folder::new();
    let cases = [
        ("tiny-vae.ckpt", &["VAE", "expected a checkpoint of SD v1"][..]),
        ("views.ckpt", &["no known keys", "expected a checkpoint of SD v1"]),
        ("hostile/calls-system.ckpt", &["posix.system", "convert --sanitize"]),
        ("README.md", &["not a checkpoint"]),
    ];
    for (file, words) in cases {
        run!["render-check", fixture(file), "-o", folder.join("a.png")].refused(words);
    }
}

#[test]
fn names_a_nan_weight() {
    let folder = Folder::new();
    let key = "model.diffusion_model.middle_block.0.in_layers.2.weight";
    let checkpoint = model(&folder, "broken.safetensors", |found, mut values| {
        if found == key {
            values[7] = f32::NAN;
        }
        values
    });
    let found = failed(render(&checkpoint, &folder.join("a.png"), &SMALL));
    let unet = check(&found, "UNet finite");
    assert_eq!(unet["verdict"], "fail");
    assert!(unet["found"].as_str().unwrap().contains("call 1 of 2, first after model.diffusion_model.middle_block.0"));
    assert_eq!(check(&found, "weights finite")["found"], key);
}

#[test]
fn names_an_infinite_weight_that_the_picture_does_not_use() {
    let folder = Folder::new();
    let key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
    let checkpoint = model(&folder, "broken.safetensors", |found, mut values| {
        if found == key {
            values[32 * 40_000] = f32::INFINITY;
        }
        values
    });
    let found = failed(render(&checkpoint, &folder.join("a.png"), &SMALL));
    assert_eq!(check(&found, "text finite")["verdict"], "pass");
    assert_eq!(check(&found, "weights finite")["found"], key);
}

#[test]
fn fails_for_a_zeroed_text_encoder() {
    let folder = Folder::new();
    let encoder = "cond_stage_model.";
    // All weights, then all but the norms, then the token embeddings alone.
    let zeroed: [fn(&str) -> bool; 3] =
        [|_| true, |key| !key.contains("norm"), |key| key.ends_with("token_embedding.weight")];
    for is_zero in zeroed {
        let checkpoint = model(&folder, "zeros.safetensors", |key, values| match key.strip_prefix(encoder) {
            Some(rest) if is_zero(rest) => vec![0.0; values.len()],
            _ => values,
        });
        let found = failed(render(&checkpoint, &folder.join("a.png"), &[&SMALL[..], &["--force"]].concat()));
        assert_eq!(check(&found, "text encoder")["verdict"], "fail");
        assert!(check(&found, "weights not zero")["found"].as_str().unwrap().contains(encoder));
        fs::remove_file(checkpoint).unwrap();
    }
}

#[test]
fn fails_for_swapped_unet_keys() {
    let folder = Folder::new();
    let base = model(&folder, "base.safetensors", same);
    let blocks = ["model.diffusion_model.output_blocks.11.0.", "model.diffusion_model.output_blocks.10.0."];
    let swapped =
        support::tensors(&base).into_iter().map(|(key, tensor)| match blocks.map(|it| key.strip_prefix(it)) {
            [Some(rest), _] => (format!("{}{rest}", blocks[1]), tensor),
            [_, Some(rest)] => (format!("{}{rest}", blocks[0]), tensor),
            _ => (key, tensor),
        });
    let path = folder.join("swapped.safetensors");
    save(&path, swapped.collect::<Vec<_>>());
    let options = [&SMALL[..], &["--against", base.to_str().unwrap()]].concat();
    let found = failed(render(&path, &folder.join("a.png"), &options));
    let noise = check(&found, "noise");
    assert_eq!(noise["verdict"], "fail");
    assert!(noise["expected"].as_str().unwrap().contains("swapped"));
    let named = check(&found, "weights")["found"].as_str().unwrap();
    assert!(named.contains("UNet") && named.contains("output_blocks.1") && named.contains("the rest is identical"));
    assert_eq!(found["against"]["latent"]["identical"], false);
}

#[test]
fn only_warns_of_a_failure_that_the_base_shares() {
    let folder = Folder::new();
    let untrained = |key: &str, values: Vec<f32>| match key.strip_prefix("model.diffusion_model.out.2.weight") {
        Some(_) => values.into_iter().rev().collect(),
        None => values,
    };
    let base = model(&folder, "base.safetensors", untrained);
    let merged = model(&folder, "merged.safetensors", |key: &str, values: Vec<f32>| {
        let values = untrained(key, values);
        if key.starts_with(VAE) { values.into_iter().rev().collect() } else { values }
    });
    let found = failed(render(&merged, &folder.join("a.png"), &SMALL));
    assert_eq!(check(&found, "noise")["verdict"], "fail");
    let options = [&SMALL[..], &["--against", base.to_str().unwrap()]].concat();
    let found = report(render(&merged, &folder.join("b.png"), &options));
    assert_eq!(check(&found, "noise")["verdict"], "warning");
}

#[test]
fn rounds_weights_to_half_precision_except_an_overflowing_vae() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let large = model(&folder, "large.safetensors", |key, mut values| {
        if key == "first_stage_model.decoder.conv_in.weight" {
            values[0] = 1e5;
        }
        values
    });
    run!["convert", &checkpoint, "-o", folder.join("half.safetensors"), "--dtype", "f16"].done();
    let half = [&SMALL[..], &["--dtype", "f16"]].concat();
    let found = report(render(&checkpoint, &folder.join("a.png"), &half));
    assert_eq!(found["dtype"], "F16");
    report(render(&folder.join("half.safetensors"), &folder.join("b.png"), &SMALL));
    report(render(&checkpoint, &folder.join("c.png"), &SMALL));
    let picture = |name: &str| Picture::from_png(&fs::read(folder.join(name)).unwrap()).unwrap().0;
    assert!(picture("a.png") == picture("b.png"));
    assert!(picture("a.png") != picture("c.png"));
    let ran = render(&large, &folder.join("d.png"), &half);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let repaired = check(&found, "half precision");
    assert_eq!(repaired["verdict"], "repaired");
    assert!(repaired["found"].as_str().unwrap().contains("first_stage_model.decoder.conv_in.weight"));
}

#[test]
fn dumps_the_tensors_between_the_stages() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let dump = folder.join("dump.safetensors");
    report(render(&checkpoint, &folder.join("a.png"), &[&SMALL[..], &["--dump", dump.to_str().unwrap()]].concat()));
    let found = support::tensors(&dump);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let stages = [
        "text.prompt.0",
        "text.negative",
        "noise",
        "epsilon.1",
        "latent.1",
        "epsilon.2",
        "latent.2",
        "latent",
        "decoded",
    ];
    assert_eq!(names, stages);
    assert_eq!(found[2].1.shape().dims(), [1, 4, 8, 8]);
    assert_eq!(found[8].1.shape().dims(), [1, 3, 64, 64]);
    run!["render-check", &checkpoint, "-o", folder.join("b.png"), "--dump", &dump]
        .refused(&["dump.safetensors", "--force"]);
    run!["render-check", &checkpoint, "-o", &dump, "--dump", &dump, "--force"]
        .refused(&["dump.safetensors", "two outputs"]);
}

#[test]
fn fails_for_a_zeroed_decoder() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "zeros.safetensors", |key, values| {
        if key.starts_with("first_stage_model.decoder.") { vec![0.0; values.len()] } else { values }
    });
    let found = failed(render(&checkpoint, &folder.join("a.png"), &SMALL));
    assert_eq!(check(&found, "not flat")["verdict"], "fail");
    assert!(check(&found, "weights not zero")["found"].as_str().unwrap().contains("first_stage_model.decoder."));
}

#[test]
fn fails_for_a_zeroed_encoder_beside_the_right_one() {
    let folder = Folder::new();
    let base = model(&folder, "base.safetensors", same);
    let checkpoint = model(&folder, "zeros.safetensors", |key, values| {
        if key.starts_with("first_stage_model.encoder.") { vec![0.0; values.len()] } else { values }
    });
    let options = [&SMALL[..], &["--against", base.to_str().unwrap()]].concat();
    let found = failed(render(&checkpoint, &folder.join("a.png"), &options));
    assert_eq!(check(&found, "encoder")["verdict"], "fail");
    assert!(check(&found, "weights not zero")["found"].as_str().unwrap().contains("first_stage_model.encoder."));
}

#[test]
fn reports_a_vae_that_overflows_half_precision() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "large.safetensors", |key, values| {
        let factor = if key == "first_stage_model.decoder.conv_in.weight" { 1e6 } else { 1.0 };
        values.into_iter().map(|value| value * factor).collect()
    });
    let found = report(render(&checkpoint, &folder.join("a.png"), &SMALL));
    assert_eq!(check(&found, "half precision")["verdict"], "repaired");
    assert_eq!(check(&found, "decoder finite")["verdict"], "pass");
}

#[test]
fn rejects_what_it_cannot_render_in_one_line() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let path = checkpoint.as_os_str();
    run!["render-check", path, "-o", folder.join("a.png"), "--device", "cuda:99"].refused(&["CUDA"]);
    for (option, value, known) in [("--sampler", "Euler b", "Euler a"), ("--schedule", "Square", "Karras")] {
        let ran = run!["render-check", path, "-o", folder.join("a.png"), option, value];
        assert_eq!(ran.code, Some(2));
        assert!([option, value, known].iter().all(|it| ran.stderr.contains(it)), "{}", ran.stderr);
    }
    run!["render-check", path, "-o", folder.join("a.png"), "--sampler", "UniPC", "--steps", "2"].refused(&["3"]);
    run!["render-check", path, "-o", folder.join("a.png"), "--prompt", "(a:1.2.3)"].refused(&["1.2.3"]);
    run!["render-check", path, "-o", folder.join("a.png"), "--prompt", "a <lora:b:1>"]
        .refused(&["\"b\"", "--lora-dir"]);
    assert_eq!(run!["render-check", path, "-o", folder.join("a.png"), "--cfg", "nan"].code, Some(2));
    run!["render-check", path, "-o", &checkpoint].refused(&["model.safetensors", "--force"]);
    run!["render-check", fixture("tiny-sd1.safetensors"), "-o", folder.join("a.png")].refused(&["64 tokens", "49408"]);
    run!["render-check", fixture("tiny-vae.ckpt"), "-o", folder.join("a.png")].refused(&["tiny-vae.ckpt"]);
    assert_eq!(folder.names(), ["model.safetensors"]);
}

/// Records the number of threads that the layers of a render can use.
#[derive(Default)]
struct ThreadCount(AtomicUsize);

impl Progress for ThreadCount {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) {
        self.0.store(rayon::current_num_threads(), Ordering::Relaxed);
    }
}

#[test]
fn layers_run_on_the_requested_number_of_threads() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(model(&folder, "model.safetensors", same)).unwrap();
    let count = ThreadCount::default();
    let options = RenderOptions::default().size((64, 64)).steps(1);
    let check = RenderCheck::new(&checkpoint).options(options).device(Device::Cpu).progress(&count);
    let expected = check.run().unwrap().picture;
    assert_eq!(count.0.load(Ordering::Relaxed), rayon::current_num_threads());
    for jobs in [1, 3] {
        assert_eq!(check.clone().jobs(jobs).run().unwrap().picture.rgb, expected.rgb);
        assert_eq!(count.0.load(Ordering::Relaxed), jobs);
    }
}

#[test]
fn a_plan_resolves_settings_and_rejects_what_a_run_would() {
    let folder = Folder::new();
    let checkpoint = model(&folder, "model.safetensors", same);
    let checkpoint = Checkpoint::open(checkpoint).unwrap();
    let plan = |options: RenderOptions| RenderCheck::new(&checkpoint).options(options).plan();
    let found = plan(RenderOptions::default().prompt("a cat").size((64, 72))).unwrap();
    assert_eq!((found.settings.prompt.as_str(), found.settings.height, found.settings.steps), ("a cat", 72, 20));
    assert!(found.checks.is_empty(), "{:?}", found.checks);
    for options in [RenderOptions::default().steps(0), RenderOptions::default().prompt("(a:1.2.3)")] {
        assert!(plan(options).is_err());
    }
    for refused in ["tiny-vae.ckpt", "hostile/calls-system.ckpt"] {
        let opened = Checkpoint::open(fixture(refused));
        let error = opened.and_then(|checkpoint| RenderCheck::new(&checkpoint).plan().map(|_| ())).unwrap_err();
        assert!(error.to_string().contains(refused), "{error}");
    }
}
