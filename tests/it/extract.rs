//! Components that are extracted alone: each text encoder of SDXL, the image encoder and the other parts of video models.

use std::path::Path;

use crate::support::narrow::{Narrow, filled};
use crate::support::{Folder, assert_rows, read, save};
use serde_json::json;
use trinart_ckpt::models::family::Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner, StableVideo};

const FIRST: &str = "conditioner.embedders.0.transformer.";
const SECOND: &str = "conditioner.embedders.1.model.";

fn keys(path: &Path) -> Vec<String> {
    read(path).into_iter().map(|row| row.0).collect()
}

#[test]
fn takes_one_text_encoder_of_sdxl_and_puts_it_into_another() {
    let folder = Folder::new();
    let whole = folder.join("whole.safetensors");
    Narrow::new(SdxlBase).save(&whole, &[]);
    let pipeline = folder.join("pipeline");
    run!["convert", &whole, "-o", &pipeline, "--to", "diffusers"].done();
    for (word, prefix, part) in
        [("text-encoder-1", FIRST, "text_encoder"), ("text-encoder-2", SECOND, "text_encoder_2")]
    {
        let alone = folder.join(&format!("{word}.safetensors"));
        let report = run!["convert", &whole, "-o", &alone, "--component", word, "--json"].json();
        let expected = read(&whole).into_iter();
        let expected: Vec<_> = expected
            .filter_map(|(key, dtype, shape, hash)| Some((key.strip_prefix(prefix)?.to_owned(), dtype, shape, hash)))
            .collect();
        assert_rows(&read(&alone), &expected);
        assert_eq!((&report["tensors"], &report["notices"]), (&json!(expected.len()), &json!([])));
        let output = folder.join(&format!("{word}-folder"));
        run!["convert", &whole, "-o", &output, "--to", "diffusers", "--component", word].done();
        assert_eq!(read(&output.join("model.safetensors")), read(&pipeline.join(part).join("model.safetensors")));
        // The same from a folder, and from the encoder alone in the names of transformers.
        for input in [pipeline.clone(), pipeline.join(part).join("model.safetensors")] {
            let other = folder.join("other.safetensors");
            run!["convert", &input, "-o", &other, "--component", word, "--force"].done();
            // Folders omit what rendering does not use.
            let rows = |path: &Path| {
                let mut rows = read(path);
                rows.retain(|(key, ..)| key != "logit_scale");
                rows.sort();
                rows
            };
            assert_rows(&rows(&other), &rows(&alone));
        }
        let replaced = folder.join("replaced.safetensors");
        let option = format!("{}={}", word.trim_end_matches("-1"), alone.display());
        run!["convert", &whole, "-o", &replaced, "--replace", option, "--force", "--drop-metadata", "*"].done();
        assert_rows(&read(&replaced), &read(&whole));
    }
    let both = folder.join("both.safetensors");
    run!["convert", &whole, "-o", &both, "--component", "text-encoder"].done();
    assert!(keys(&both).iter().all(|key| key.starts_with("conditioner.")));
    run!["convert", &both, "-o", folder.join("2.safetensors"), "--component", "text-encoder-2"].done();
    assert_eq!(keys(&folder.join("2.safetensors")), keys(&folder.join("text-encoder-2.safetensors")));
}

#[test]
fn models_with_one_text_encoder_have_no_second_one() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    for (architecture, first) in [(Sd1, "text_model."), (Sd2, "transformer."), (SdxlRefiner, "transformer.")] {
        Narrow::new(architecture).deviation(0.02).save(&input, &[]);
        run!["convert", &input, "-o", &output, "--component", "text-encoder-1", "--force"].done();
        assert!(keys(&output).iter().any(|key| key.starts_with(first)), "{architecture:?}");
        let second = run!["convert", &input, "-o", folder.join("2.safetensors"), "--component", "text-encoder-2"];
        second.refused(&["in.safetensors: contains no second text encoder"]);
        std::fs::remove_file(&input).unwrap();
    }
}

#[test]
fn takes_stable_video_diffusion_apart() {
    let folder = Folder::new();
    let whole = folder.join("svd.safetensors");
    Narrow::new(StableVideo).save(&whole, &[]);
    let inspected = run!["inspect", &whole, "--json"].json();
    let report = &inspected["files"][0];
    assert_eq!((&report["kind"], &report["model"]), (&json!("checkpoint-other"), &json!("stable-video-diffusion")));
    let components: Vec<_> = report["components"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(json!(components), json!(["unet", "vae", "image-encoder", "other"]));
    let hashed = run!["hash", &whole, "--json"].json();
    let hashes = &hashed["files"][0]["components"];
    for (word, prefix, bare) in [
        ("unet", "model.diffusion_model.", "model.diffusion_model."),
        ("vae", "first_stage_model.", ""),
        ("image-encoder", "conditioner.embedders.0.open_clip.model.", ""),
    ] {
        let alone = folder.join(&format!("{word}.safetensors"));
        run!["convert", &whole, "-o", &alone, "--component", word].done();
        let wanted = read(&whole).into_iter();
        let wanted: Vec<_> = wanted
            .filter_map(|(key, dtype, shape, hash)| {
                Some((format!("{bare}{}", key.strip_prefix(prefix)?), dtype, shape, hash))
            })
            .collect();
        assert_rows(&read(&alone), &wanted);
        let found = run!["hash", &alone, "--json"].json();
        if word != "image-encoder" {
            assert_eq!(found["files"][0]["components"][word], hashes[word], "{word}");
            run!["diff", &whole, &alone, "--component", word].done();
        }
    }
    let alone = folder.join("image-encoder.safetensors");
    let inspected = run!["inspect", &alone, "--json"].json();
    assert_eq!(inspected["files"][0]["kind"], "clip-vision");
    assert_eq!(inspected["files"][0]["components"][0]["name"], "image-encoder");
    let none = run!["convert", &whole, "-o", folder.join("te.safetensors"), "--component", "text-encoder"];
    none.refused(&["svd.safetensors: contains no text encoder", "Stable Video Diffusion"]);
}

#[test]
fn refuses_to_mix_video_models_with_stable_diffusion() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let (whole, sd) =
        (Narrow::new(StableVideo).saved(&folder, "svd.safetensors"), Narrow::new(Sd1).saved(&folder, "sd.safetensors"));
    let vae = folder.join("vae.safetensors");
    run!["convert", &whole, "-o", &vae, "--component", "vae"].done();
    let video = "Stable Video Diffusion";
    run!["merge-vae", &whole, "--vae", &sd, "-o", &output].refused(&["svd.safetensors: ", video]);
    for donor in [&whole, &vae] {
        run!["merge-vae", &sd, "--vae", donor, "-o", &output].refused(&[video]);
        let option = format!("vae={}", donor.display());
        run!["convert", &sd, "--replace", option, "-o", &output].refused(&[video]);
    }
    run!["convert", &whole, "--replace", format!("vae={}", sd.display()), "-o", &output].refused(&[video]);
    assert!(!output.exists());
}

#[test]
fn takes_the_image_encoders_of_other_models() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    for prefix in ["embedder.model.", "cond_stage_model.model.", "conditioner.embedders.0.open_clip.model."] {
        let tensors = ["visual.conv1.weight", "visual.proj"].map(|key| (format!("{prefix}{key}"), filled(&[4, 3])));
        save(&input, tensors);
        run!["convert", &input, "-o", &output, "--component", "image-encoder", "--force"].done();
        assert_eq!(keys(&output), ["visual.conv1.weight", "visual.proj"], "{prefix}");
        std::fs::remove_file(&input).unwrap();
    }
}
