//! Single files against what other programs look for in them: the keys by which they tell models apart, and those that they
//! load strictly. `fixtures/loaders.json` has these facts, each with its source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::narrow::Narrow;
use crate::support::{Folder, fixture, tensors};
use serde_json::Value;
use trinart_ckpt::models::family::Architecture;

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// The keys of a file that have a prefix.
fn keys_under<'a>(keys: &'a BTreeSet<String>, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    keys.iter().map(String::as_str).filter(move |key| key.starts_with(prefix))
}

/// Asserts that programs take a file for a model of this name.
fn assert_loads(rules: &Value, path: &Path, model: &str, case: &str) {
    let keys: BTreeSet<String> = tensors(path).into_iter().map(|(key, _)| key).collect();
    for rule in rules["tells"].as_array().unwrap() {
        let program = &rule["program"];
        let of_model = &rule["models"][model];
        let missing: Vec<&str> = strings(&of_model["has"]).into_iter().filter(|key| !keys.contains(*key)).collect();
        assert_eq!(missing, [""; 0], "{case}: {program} does not find them");
        let misleading = strings(&of_model["lacks"]).into_iter().chain(strings(&rule["never"]));
        let own = strings(&of_model["has"]);
        let misleading: Vec<&str> = misleading.filter(|key| keys.contains(*key) && !own.contains(key)).collect();
        assert_eq!(misleading, [""; 0], "{case}: {program} takes it for another model");
    }
    for rule in rules["exact"].as_array().unwrap() {
        let Some(list) = rule["keys"][model].as_str() else { continue };
        let prefix = rule["prefix"].as_str().unwrap();
        let optional = strings(&rule["optional"]);
        let is_optional = |key: &&str| optional.iter().any(|part| key.contains(part));
        let text = fs::read_to_string(fixture(list)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let wanted: BTreeSet<&str> =
            lines.filter_map(|line| line.split(' ').next()).filter(|key| key.starts_with(prefix)).collect();
        let found: BTreeSet<&str> = keys_under(&keys, prefix).collect();
        assert!(!found.is_empty(), "{case}: nothing under {prefix}");
        let missing: Vec<_> = wanted.difference(&found).filter(|key| !is_optional(key)).collect();
        let unknown: Vec<_> = found.difference(&wanted).filter(|key| !is_optional(key)).collect();
        assert_eq!((missing, unknown), (vec![], vec![]), "{case}: {} loads {prefix} strictly", rule["program"]);
    }
}

#[test]
fn other_programs_find_every_key_of_single_files() {
    let folder = Folder::new();
    let rules: Value = serde_json::from_slice(&fs::read(fixture("loaders.json")).unwrap()).unwrap();
    let cases = [
        (Architecture::Sd1, 4),
        (Architecture::Sd1, 8),
        (Architecture::Sd1, 9),
        (Architecture::Sd2, 4),
        (Architecture::Sd2, 9),
        (Architecture::SdxlBase, 4),
        (Architecture::SdxlBase, 9),
        (Architecture::SdxlRefiner, 4),
        (Architecture::Ssd1b, 4),
        (Architecture::Vega, 4),
    ];
    for (architecture, channels) in cases {
        let model = architecture.name();
        let case = format!("{model}, {channels} channels");
        let name = |ending: &str| folder.join(&format!("{model}-{channels}{ending}"));
        let (input, pipeline) = (name(".safetensors"), name(""));
        let narrow = Narrow::new(architecture).channels(channels);
        // By this norm ComfyUI tells what SD v2 predicts.
        let narrow = if architecture == Architecture::Sd2 { narrow.deviation(0.02) } else { narrow };
        narrow.save(&input, &[]);
        run!["convert", &input, "-o", &pipeline, "--to", "diffusers"].done();
        for ending in [".back.safetensors", ".back.ckpt"] {
            let back = name(ending);
            run!["convert", &pipeline, "-o", &back].done();
            assert_loads(&rules, &back, model, &case);
        }
        let lone = name(".vae.safetensors");
        run!["convert", &pipeline, "--component", "vae", "-o", &lone].done();
        let keys: BTreeSet<String> =
            tensors(&lone).into_iter().map(|(key, _)| format!("first_stage_model.{key}")).collect();
        let whole: BTreeSet<String> = tensors(&input).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, keys_under(&whole, "first_stage_model.").map(str::to_owned).collect(), "{case}");
        fs::remove_dir_all(&pipeline).unwrap();
    }
}

#[test]
fn other_programs_find_every_key_of_sd_turbo() {
    let folder = Folder::new();
    let rules: Value = serde_json::from_slice(&fs::read(fixture("loaders.json")).unwrap()).unwrap();
    let (input, pipeline) = (folder.join("turbo.safetensors"), folder.join("turbo"));
    let turbo = Narrow::new(Architecture::Sd2).deviation(0.02);
    turbo.renamed("cond_stage_model.model.", "conditioner.embedders.0.model.").save(&input, &[]);
    let file = folder.join("turbo.ckpt");
    run!["convert", &input, "-o", &file].done();
    assert_loads(&rules, &file, "sd-turbo", "SD-Turbo");
    // A folder has the names of diffusers, which become those of SD v2.
    run!["convert", &input, "-o", &pipeline, "--to", "diffusers"].done();
    for back in [folder.join("back.safetensors"), folder.join("back.ckpt")] {
        run!["convert", &pipeline, "-o", &back].done();
        assert_loads(&rules, &back, "sd-v2", "SD-Turbo from a folder");
    }
}
