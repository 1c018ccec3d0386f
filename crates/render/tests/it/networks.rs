//! Compares pictures with LoRAs, embeddings and edited prompts with those of diffusers and transformers.
//! `fixtures/render/make_networks.py` generates the references.

use std::fs;

use crate::tiny::{fixture, model};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_render::checks::relative_distance;
use trinart_ckpt_render::job::{RenderInput, RenderJob, RenderReport};
use trinart_ckpt_render::picture::{Picture, compare};
use trinart_ckpt_render::sampling::NoiseSource;
use trinart_ckpt_render::settings::RenderOptions;

fn job(prompt: &str) -> RenderJob {
    let options = RenderOptions::default().prompt(prompt).negative("of a").sampler("Euler").schedule("Uniform");
    let options = options.steps(8).seed(1234).rng(NoiseSource::Cpu).size((64, 64));
    RenderJob::new(RenderInput::new("tiny.safetensors", model())).options(options).jobs(1).dump(true)
}

#[track_caller]
fn assert_matches(report: &RenderReport, name: &str) {
    let reference = StoredCheckpoint::open(fixture("networks/pictures.safetensors")).unwrap();
    let floats =
        |bytes: Vec<u8>| -> Vec<f32> { bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect() };
    let bytes = |name: String| reference.state_dict().get(&name).unwrap().to_bytes().unwrap();
    let found = report.dump.as_ref().unwrap().get("latent").unwrap().to_bytes().unwrap();
    let distance = relative_distance(&floats(bytes(format!("latent {name}"))), &floats(found));
    assert!(distance < 1e-4, "{name}: {distance:e}");
    let expected = Picture { width: 64, height: 64, rgb: bytes(format!("picture {name}")) };
    let comparison = compare(&report.picture, &expected).unwrap();
    assert!(comparison.max_difference <= 1, "{name}: {comparison:?}");
}

#[test]
fn renders_edited_prompts() {
    // Half of 8 steps.
    for prompt in ["a [cat:photo:0.5]", "a [cat:photo:4]", "[a cat:a photo:.5]", "a cat AND [a cat:a photo:0.5]:0.0"] {
        if !prompt.contains("AND") {
            assert_matches(&job(prompt).run(&NoProgress).unwrap(), "editing");
        }
    }
    assert_matches(&job("a [cat|photo]").run(&NoProgress).unwrap(), "alternation");
}

#[test]
fn renders_loras_by_each_name() {
    let folder = fixture("networks");
    for prompt in [
        "a cat<lora:style:0.8>",
        "<lora:trained style:0.3:0.8:te=0.8>a cat",
        "a <lora:style-diffusers:te=0.8>cat",
        "a cat <lora:style:0.8:dyn=2>",
    ] {
        let report = job(prompt).loras(&folder).run(&NoProgress).unwrap();
        assert_matches(&report, "lora");
        let hashes = report.infotext.get("Lora hashes").unwrap();
        let expected = if prompt.contains("diffusers") { "style-diffusers: " } else { "style: 0123456789ab" };
        assert!(hashes.contains(expected), "{hashes}");
        assert_eq!(report.infotext.prompt, prompt);
    }
    let without = job("a cat<lora:style:0>").loras(&folder).run(&NoProgress).unwrap();
    let plain = job("a cat").run(&NoProgress).unwrap();
    assert_eq!(without.picture, plain.picture);
}

#[test]
fn renders_embeddings_by_their_file_names() {
    let report = job("a word").embeddings(fixture("networks")).run(&NoProgress).unwrap();
    assert_matches(&report, "embedding");
    let hashes = report.infotext.get("TI hashes").unwrap();
    assert!(hashes.starts_with("word: ") && hashes.len() == "word: ".len() + 12, "{hashes}");
    let report = job("a word-st").embeddings(fixture("networks")).run(&NoProgress).unwrap();
    assert_matches(&report, "embedding");
    // The name of the file counts, not the one inside it.
    let report = job("a other name").embeddings(fixture("networks")).run(&NoProgress).unwrap();
    assert_eq!(report.infotext.get("TI hashes"), None);
}

#[test]
fn refuses_missing_and_ambiguous_networks_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |job: RenderJob, expected: &str| {
        let error = job.plan().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(job("a <lora:style:1>"), "style");
    refused(job("a <lora:style:1>").loras(folder.path()), "no LoRA is named \"style\"");
    refused(job("a <hypernet:style:1>").loras(folder.path()), "<hypernet:style:1>");
    refused(job("a <lyco:style:1>").loras(folder.path()), "<lyco:style:1>");
    for name in ["a", "b"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        let source = fixture("networks/style.safetensors");
        fs::copy(source, folder.path().join(name).join("style.safetensors")).unwrap();
    }
    refused(job("a <lora:style:1>").loras(folder.path()), "several LoRAs are named \"style\"");
    // A LoRA of another model, and a file that is no LoRA.
    fs::copy(fixture("networks/word-st.safetensors"), folder.path().join("word.safetensors")).unwrap();
    refused(job("a <lora:word:1>").loras(folder.path()), "word.safetensors");
    fs::write(folder.path().join("painted.png"), b"\x89PNG").unwrap();
    refused(job("painted").embeddings(folder.path()), "painted.png");
}
