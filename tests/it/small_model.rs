//! The trained model in `fixtures/small_model`: merged with its custom VAE, it draws what captions say, and the checks tell
//! its damaged variants from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::{self, Folder, fixture, save, tensor, tensors};
use serde_json::Value;
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt::render::picture::Picture;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const TEXT: &str = "cond_stage_model.";

fn base() -> PathBuf {
    fixture("small_model/small.ckpt")
}

/// Renders a caption. Returns the report and the picture.
fn render(checkpoint: &Path, caption: &str, options: &[&str]) -> (Value, Picture) {
    let folder = Folder::new();
    let output = folder.join("out.png");
    let common = ["--json", "--size", "64x64", "--prompt", caption];
    let arguments = [&common[..], options].concat();
    let mut all: Vec<std::ffi::OsString> =
        vec!["render-check".into(), checkpoint.into(), "-o".into(), output.clone().into()];
    all.extend(arguments.iter().map(Into::into));
    let ran = support::run(&all);
    assert!(matches!(ran.code, Some(0 | 1)), "{}{}", ran.stdout, ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["verdict"] == "pass", ran.code == Some(0));
    (report, Picture::from_png(&std::fs::read(output).unwrap()).unwrap().0)
}

/// The checks that do not pass, as "name: verdict: found".
fn complaints(report: &Value) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    let bad = checks.filter(|check| !["pass", "info"].contains(&check["verdict"].as_str().unwrap()));
    bad.map(|it| format!("{}: {}: {}", it["name"].as_str().unwrap(), it["verdict"].as_str().unwrap(), it["found"]))
        .collect()
}

/// The name of the colour of the world that is nearest to the mean of a square of 8x8 pixels.
fn colour(picture: &Picture, x: usize, y: usize) -> &'static str {
    const COLOURS: [(&str, [f64; 3]); 6] = [
        ("red", [220.0, 30.0, 35.0]),
        ("green", [30.0, 160.0, 60.0]),
        ("blue", [35.0, 70.0, 215.0]),
        ("yellow", [245.0, 215.0, 40.0]),
        ("white", [245.0, 245.0, 245.0]),
        ("black", [15.0, 15.0, 15.0]),
    ];
    let mean = [0, 1, 2].map(|channel| {
        let values = (0..8).flat_map(|row| (0..8).map(move |column| (row, column)));
        let values = values.map(|(row, column)| picture.rgb[3 * ((y + row) * picture.width + x + column) + channel]);
        values.map(f64::from).sum::<f64>() / 64.0
    });
    let distance = |colour: &[f64; 3]| colour.iter().zip(mean).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    COLOURS.into_iter().min_by(|a, b| distance(&a.1).total_cmp(&distance(&b.1))).unwrap().0
}

/// What is done to each tensor.
type Change<'a> = &'a dyn Fn(&str, LazyTensor) -> LazyTensor;

/// Writes the model with some tensors changed, or left out.
fn damaged(folder: &Folder, change: impl Fn(&str, LazyTensor) -> Option<LazyTensor>) -> PathBuf {
    let path = folder.join("damaged.safetensors");
    // That of the damage before.
    let _ = std::fs::remove_file(&path);
    let changed = |(key, tensor): (String, LazyTensor)| change(&key, tensor).map(|tensor| (key, tensor));
    save(&path, tensors(&base()).into_iter().filter_map(changed));
    path
}

/// The tensor with the bytes that `change` makes of its own.
fn with_bytes(of: &LazyTensor, dtype: Dtype, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> LazyTensor {
    tensor(dtype, of.shape().dims(), change(of.to_bytes().unwrap()))
}

/// Negates every F16 value whose index `is_negated`.
fn negated(of: &LazyTensor, is_negated: impl Fn(usize) -> bool) -> LazyTensor {
    with_bytes(of, Dtype::F16, |mut bytes| {
        bytes
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| at % 2 == 1 && is_negated(at / 2))
            .for_each(|(_, it)| *it ^= 0x80);
        bytes
    })
}

/// A VAE whose latents have other signs: encoder and decoder agree with each other, but not with the UNet.
fn other_latents(key: &str, found: LazyTensor) -> LazyTensor {
    let is_turned = |channel: usize| channel == 0 || channel == 2;
    match key.strip_prefix(VAE) {
        Some("quant_conv.weight") => negated(&found, |at| is_turned(at / 8)),
        Some("quant_conv.bias") => negated(&found, is_turned),
        Some("post_quant_conv.weight") => negated(&found, |at| is_turned(at % 4)),
        _ => found,
    }
}

/// The exponents of F8_E4M3 that a matrix has when it is divided by its scale, with random-looking bits.
fn scaled(of: &LazyTensor) -> LazyTensor {
    let count = of.shape().dims().iter().product::<u64>() as usize;
    with_bytes(of, Dtype::F8E4M3, |_| {
        (0..count).map(|at| if at == 0 { 0x7e } else { (at * 37 % 0x7e) as u8 }).collect()
    })
}

#[test]
fn damage_is_found_and_its_cause_is_named() {
    let folder = Folder::new();
    let trained: BTreeMap<String, LazyTensor> = tensors(&base()).into_iter().collect();
    let cases: [(&str, &str, Change<'_>); 5] = [
        ("denoising", "the VAE is not for this model", &other_latents),
        ("denoising", "weights of the UNet are swapped or damaged", &|key, it| {
            let swapped = [("attn1.to_q.", "attn1.to_v."), ("attn1.to_v.", "attn1.to_q.")];
            let other =
                swapped.iter().find(|(name, _)| key.contains(name)).map(|(name, other)| key.replace(name, other));
            other.and_then(|other| trained.get(&other).cloned()).unwrap_or(it)
        }),
        ("weight scales", "the scales of the weights are missing", &|key, it| {
            let is_scaled = key.starts_with(UNET) && it.shape().dims().len() == 2;
            if is_scaled { scaled(&it) } else { it }
        }),
        ("text encoder", "differ by 0", &|key, it| {
            let is_text = key.starts_with(TEXT) && it.dtype() == Dtype::F16;
            if is_text { with_bytes(&it, Dtype::F16, |bytes| vec![0; bytes.len()]) } else { it }
        }),
        ("weights finite", "middle_block.0.in_layers.2.weight", &|key, it| {
            let is_nan = key == format!("{UNET}middle_block.0.in_layers.2.weight");
            let nan = |mut bytes: Vec<u8>| {
                bytes[1] = 0x7e;
                bytes
            };
            if is_nan { with_bytes(&it, Dtype::F16, nan) } else { it }
        }),
    ];
    for (name, cause, change) in cases {
        let (found, _) = render(&damaged(&folder, |key, it| Some(change(key, it))), "a red circle on blue", &[]);
        let complaints = complaints(&found);
        let is_named = complaints.iter().any(|it| it.starts_with(&format!("{name}: fail")) && it.contains(cause));
        assert!(is_named, "{name}, {cause}: {complaints:#?}");
    }
    let half = damaged(&folder, |key, it| (!key.starts_with("first_stage_model.encoder")).then_some(it));
    run!["render-check", half, "-o", folder.join("out.png")].refused(&["the VAE is incomplete: 106 of 248", "--vae"]);
    let none = damaged(&folder, |key, it| (!key.starts_with(VAE)).then_some(it));
    run!["render-check", none, "-o", folder.join("out.png")].refused(&["contains no VAE", "--vae"]);
}

#[test]
fn a_merge_with_the_custom_vae_draws_what_the_caption_says() {
    let folder = Folder::new();
    let merged = folder.join("merged.safetensors");
    let report =
        run!["merge-vae", base(), "--vae", fixture("small_model/small-vae.ckpt"), "-o", &merged, "--json"].json();
    assert_eq!(report["verified"], true, "{report:#}");
    let base = base();
    let options = ["--against", base.to_str().unwrap(), "--seed", "0"];
    let (found, picture) = render(&merged, "a red circle on blue", &options);
    assert_eq!(complaints(&found), [""; 0]);
    assert_eq!(found["against"]["latent"]["identical"], true);
    assert!(!found["against"]["psnr"].is_null(), "the pictures of both VAEs are the same");
    assert_eq!((colour(&picture, 28, 28), colour(&picture, 0, 0)), ("red", "blue"));
    for (caption, front, back) in [
        ("a blue circle on red", "blue", "red"),
        ("a yellow square on black", "yellow", "black"),
        ("a white circle on a green background", "white", "green"),
    ] {
        let (found, picture) = render(&merged, caption, &["--seed", "3"]);
        assert_eq!(complaints(&found), [""; 0], "{caption}");
        assert_eq!((colour(&picture, 28, 28), colour(&picture, 0, 0)), (front, back), "{caption}");
    }
}
