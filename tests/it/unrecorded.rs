//! Folders whose configurations describe networks that a single file cannot: its readers assume published models.

use std::path::PathBuf;

use crate::marks::notices;
use crate::marks_in_folders::{set, value};
use crate::support::narrow::Narrow;
use crate::support::{Folder, copy_folder};
use serde_json::{Value, json};
use trinart_ckpt::models::family::Architecture::{Sd1, Sd2, SdxlBase};

/// A folder that this program writes, as published models have it.
fn published(folder: &Folder, name: &str, model: Narrow) -> PathBuf {
    let (file, written) = (model.saved(folder, &format!("{name}.safetensors")), folder.join(name));
    run!["convert", &file, "-o", &written, "--to", "diffusers"].done();
    written
}

/// What a file cannot record: a configuration, its change, and the words of the refusal.
fn changes() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        ("sd1", "unet", json!({"act_fn": "gelu"}), "act_fn is \"gelu\", expected \"silu\""),
        ("sd1", "unet", json!({"norm_eps": 1e-6}), "norm_eps is 1e-6, expected 0.00001"),
        ("sd1", "unet", json!({"flip_sin_to_cos": false}), "flip_sin_to_cos is false, expected true"),
        ("sd1", "vae", json!({"act_fn": "mish"}), "act_fn is \"mish\", expected \"silu\""),
        ("sd1", "text_encoder", json!({"hidden_act": "gelu"}), "hidden_act is \"gelu\", expected \"quick_gelu\""),
        ("sd1", "text_encoder", json!({"layer_norm_eps": 1e-6}), "layer_norm_eps is 1e-6"),
        ("sd1", "scheduler", json!({"beta_end": 0.02}), "beta_end is 0.02, expected 0.012"),
        ("sd1", "scheduler", json!({"beta_schedule": "linear"}), "beta_schedule is \"linear\""),
        ("sd1", "scheduler", json!({"trained_betas": vec![0.01; 1000]}), "trained_betas is a list of 1000"),
        ("sd2", "text_encoder", json!({"hidden_act": "quick_gelu"}), "expected \"gelu\""),
        ("xl", "text_encoder_2", json!({"hidden_act": "quick_gelu"}), "expected \"gelu\""),
    ]
}

/// Configurations of published widths with other heads and groups. The weights are narrow: they are not looked at.
#[test]
fn heads_and_groups_are_compared_with_those_of_published_widths() {
    let folder = Folder::new();
    let from = published(&folder, "sd1", Narrow::new(Sd1));
    let output = folder.join("output.safetensors");
    for (component, fields, words) in [
        (
            "unet",
            json!({"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 4}),
            "attention_head_dim is 4, expected 8",
        ),
        (
            "vae",
            json!({"block_out_channels": [128, 256, 512, 512], "norm_num_groups": 8}),
            "norm_num_groups is 8, expected 32",
        ),
        (
            "text_encoder",
            json!({"hidden_size": 768, "num_attention_heads": 8}),
            "num_attention_heads is 8, expected 12",
        ),
    ] {
        let config = from.join(config_of(component));
        let before = value(&config);
        set(&config, fields);
        run!["convert", &from, "-o", &output].refused(&[words]);
        set(&config, before);
        run!["convert", &from, "-o", &output, "--dry-run"].done();
    }
}

fn config_of(component: &str) -> String {
    let name = if component == "scheduler" { "scheduler_config.json" } else { "config.json" };
    format!("{component}/{name}")
}

#[test]
fn a_file_is_refused_unless_the_loss_is_accepted() {
    let folder = Folder::new();
    for (name, architecture) in [("sd1", Sd1), ("sd2", Sd2), ("xl", SdxlBase)] {
        published(&folder, name, Narrow::new(architecture));
    }
    for (index, (name, component, fields, words)) in changes().into_iter().enumerate() {
        let from = folder.join(&format!("{index}-{name}"));
        copy_folder(&folder.join(name), &from);
        set(&from.join(config_of(component)), fields.clone());
        let (file, back) = (folder.join(&format!("{index}.safetensors")), folder.join(&format!("{index}-back")));
        let place = config_of(component);
        run!["convert", &from, "-o", &file].refused(&[
            &place,
            words,
            "only a diffusers folder records it",
            "--allow-loss",
        ]);
        assert!(!file.exists());
        let report = run!["convert", &from, "-o", &file, "--allow-loss", "--json"].json();
        assert!(notices(&report).contains(&"configuration-not-read".to_owned()), "{words}");
        // The metadata carries it back into a folder.
        run!["convert", &file, "-o", &back, "--to", "diffusers"].done();
        let config = value(&back.join(&place));
        for (field, value) in fields.as_object().unwrap() {
            assert_eq!(config[field], *value, "{words}");
        }
    }
}

#[test]
fn only_what_is_in_the_file_counts() {
    let folder = Folder::new();
    let from = published(&folder, "sd1", Narrow::new(Sd1));
    set(&from.join("text_encoder/config.json"), json!({"hidden_act": "gelu"}));
    run!["convert", &from, "--component", "vae", "-o", folder.join("vae.safetensors")].done();
    run!["convert", &from, "--component", "unet", "-o", folder.join("unet.safetensors")].done();
    run!["convert", &from, "-o", folder.join("copy"), "--to", "diffusers", "--dtype", "f16"].done();
    run!["convert", &from, "--component", "text-encoder", "-o", folder.join("text.safetensors")]
        .refused(&["hidden_act"]);
}

#[test]
fn a_component_of_another_model_must_be_as_published() {
    let folder = Folder::new();
    let from = published(&folder, "sd1", Narrow::new(Sd1));
    let base = folder.join("sd1.safetensors");
    set(&from.join("vae/config.json"), json!({"act_fn": "mish"}));
    set(&from.join("unet/config.json"), json!({"act_fn": "gelu"}));
    let output = folder.join("output.safetensors");
    run!["merge-vae", &base, "--vae", &from, "-o", &output].refused(&["vae/config.json", "act_fn is \"mish\""]);
    run!["merge-vae", &base, "--vae", from.join("vae"), "-o", &output].refused(&["act_fn is \"mish\""]);
    for (component, words) in [("vae", "act_fn is \"mish\""), ("unet", "act_fn is \"gelu\"")] {
        let part = format!("{component}={}", from.display());
        run!["convert", &base, "--replace", &part, "-o", &output].refused(&[words]);
    }
    // The VAE of the folder is replaced, so that its own does not count.
    set(&from.join("unet/config.json"), json!({"act_fn": "silu"}));
    run!["merge-vae", &from, "--vae", &base, "-o", &output].done();
}
