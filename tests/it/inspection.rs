//! What `inspect` shows of the parts of a checkpoint: dtypes, what is missing, and what belongs to no part.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::narrow::Narrow;
use crate::support::{Folder, f32s, fixture, save, tensors};
use trinart_ckpt::models::family::Architecture;

/// The report on a file, and its text.
fn inspect(path: &Path) -> (Value, String) {
    (run!["inspect", path, "--json"].json()["files"][0].take(), run!["inspect", path].done())
}

#[test]
fn shows_the_bytes_of_each_dtype() {
    let file = fixture("tiny-sd1.ckpt");
    let report = run!["inspect", &file, "--keys", "--json"].json();
    let found = &report["files"][0];
    let dtypes = found["dtypes"].as_object().unwrap();
    let sum = |field: &str| dtypes.values().map(|it| it[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        (sum("tensors"), sum("bytes")),
        (found["tensors"].as_u64().unwrap(), found["tensor_bytes"].as_u64().unwrap())
    );
    for (key, tensor) in tensors(&file).iter().take(3) {
        let of = &dtypes[tensor.dtype().name()];
        assert!(of["bytes"].as_u64().unwrap() >= tensor.bytes(), "{key}");
    }
    let text = run!["inspect", &file].done();
    let line = text.lines().find(|line| line.starts_with("  dtypes ")).unwrap();
    assert!(line.contains("F16 ") && line.contains(" %)"), "{line}");
    assert!(!run!["inspect", fixture("tiny-vae.vae.pt")].done().contains("  dtypes "));
}

#[test]
fn names_the_components_that_a_checkpoint_lacks() {
    let folder = Folder::new();
    for (prefix, name, line) in [
        ("cond_stage_model.", "text-encoder", "  text encoder      MISSING\n"),
        ("first_stage_model.", "vae", "  VAE               MISSING\n"),
    ] {
        let rest = tensors(&fixture("tiny-sd1.safetensors")).into_iter().filter(|(key, _)| !key.starts_with(prefix));
        let file = folder.join(&format!("without-{name}.safetensors"));
        save(&file, rest);
        let (found, text) = inspect(&file);
        assert_eq!(found["missing_components"], json!([name]));
        assert!(text.contains(line), "{text}");
    }
    for name in ["tiny-sd1.safetensors", "tiny-vae.vae.pt", "render/networks/style.safetensors"] {
        let (found, text) = inspect(&fixture(name));
        assert!(found["missing_components"] == json!([]) && !text.contains("MISSING"), "{text}");
    }
}

#[test]
fn names_tensors_that_belong_to_no_component() {
    let folder = Folder::new();
    let file = folder.join("more.safetensors");
    let mut all = tensors(&fixture("tiny-sd1.safetensors"));
    all.extend(["depth_model.a", "depth_model.b"].map(|key| (key.to_owned(), f32s(&[1.0]))));
    save(&file, all);
    let (found, text) = inspect(&file);
    let other = found["components"].as_array().unwrap().iter().find(|it| it["name"] == "other").unwrap();
    assert_eq!(other["keys"], json!(["depth_model.a", "depth_model.b"]));
    assert!(text.contains("  other             2 tensors, 2 parameters, 8 B, F32 (depth_model.a, …)\n"), "{text}");
}

#[test]
fn a_text_encoder_of_sd_v2_may_lack_its_last_layer() {
    let folder = Folder::new();
    let (whole, less) = (folder.join("whole.safetensors"), folder.join("less.safetensors"));
    let Narrow(all) = Narrow::new(Architecture::Sd2).deviation(0.1);
    save(&whole, all.clone());
    save(&less, all.into_iter().filter(|(key, _)| !key.contains(".resblocks.23.")));
    let of = |path: &Path| {
        let (found, text) = inspect(path);
        let encoder = found["components"].as_array().unwrap().iter().find(|it| it["name"] == "text-encoder").unwrap();
        assert_eq!(encoder["missing"], json!([]));
        (encoder["unused"].as_array().unwrap().len(), text)
    };
    let (unused, text) = of(&whole);
    assert!(unused == 0 && !text.contains("last layer"), "{text}");
    let (unused, text) = of(&less);
    assert!(unused == 12 && text.contains(", complete without its last layer, which nothing uses\n"), "{text}");
}
