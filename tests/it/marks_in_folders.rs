//! What a model predicts and the constants of its VAE, between files and diffusers folders.

use std::fs;
use std::path::Path;

use crate::marks::{cosxl, marked, notices, playground, prediction};
use crate::support::narrow::Narrow;
use crate::support::{Folder, copy_folder, fixture, tensors};
use serde_json::{Value, json};
use trinart_ckpt::models::family::Architecture::{Sd1, Sd2, SdxlBase};

const SCHEDULER: &str = "scheduler/scheduler_config.json";
const VAE: &str = "vae/config.json";

/// The configuration in a file.
pub(crate) fn value(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes the fields of a configuration.
pub(crate) fn set(path: &Path, fields: Value) {
    let mut config = value(path);
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

#[track_caller]
fn assert_fields(path: &Path, fields: Value) {
    let config = value(path);
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(config[name], *value, "{name} in {}", path.display());
    }
}

/// Converts to a file and back to a folder. Returns the folder.
fn through_a_file(folder: &Folder, from: &Path, name: &str, extension: &str) -> std::path::PathBuf {
    let (file, back) = (folder.join(&format!("{name}.{extension}")), folder.join(&format!("{name}-{extension}-back")));
    run!["convert", from, "-o", &file].done();
    run!["convert", &file, "-o", &back, "--to", "diffusers"].done();
    back
}

#[test]
fn round_trips_every_kind_of_model() {
    let folder = Folder::new();
    let edm = json!({"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "epsilon", "sigma_data": 0.5,
        "sigma_max": 80.0, "sigma_min": 0.002});
    let mean = json!({"scaling_factor": 0.5, "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
        "latents_std": [8.4927, 5.9022, 6.5498, 5.2299]});
    let xl = json!({"scaling_factor": 0.13025, "force_upcast": true});
    let sd = json!({"scaling_factor": 0.18215});
    for (name, model, scheduler, vae) in [
        (
            "v",
            marked(),
            json!({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}),
            xl.clone(),
        ),
        ("playground", playground(), edm, mean),
        (
            "cosxl",
            cosxl(),
            json!({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_data": 1.0,
                "sigma_max": 120.0, "sigma_min": 0.002, "sigma_schedule": "exponential"}),
            xl.clone(),
        ),
        ("xl", Narrow::new(SdxlBase), json!({"prediction_type": "epsilon"}), xl),
        ("sd2-v", Narrow::new(Sd2).deviation(0.3), json!({"prediction_type": "v_prediction"}), sd.clone()),
        ("sd2", Narrow::new(Sd2).deviation(0.02), json!({"prediction_type": "epsilon"}), sd.clone()),
        ("sd2-in", Narrow::new(Sd2).deviation(0.3).channels(9), json!({"prediction_type": "epsilon"}), sd.clone()),
        ("sd1", Narrow::new(Sd1), json!({"prediction_type": "epsilon"}), sd),
    ] {
        let (input, first) = (folder.join(&format!("{name}-0.safetensors")), folder.join(&format!("{name}-1")));
        model.save(&input, &[]);
        let report = run!["convert", &input, "-o", &first, "--to", "diffusers", "--json"].json();
        assert!(!notices(&report).iter().any(|code| code.contains("predict") || code == "not-in-folders"), "{name}");
        assert_fields(&first.join(SCHEDULER), scheduler.clone());
        assert_fields(&first.join(VAE), vae.clone());
        for extension in if name == "v" { &["safetensors", "ckpt"][..] } else { &["ckpt"] } {
            let back = through_a_file(&folder, &first, name, extension);
            for config in [SCHEDULER, VAE, "model_index.json", "unet/config.json"] {
                assert_eq!(value(&back.join(config)), value(&first.join(config)), "{name}: {config}");
            }
            let weights = "unet/diffusion_pytorch_model.safetensors";
            assert!(fs::read(back.join(weights)).unwrap() == fs::read(first.join(weights)).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_file_from_a_folder_has_the_keys_of_its_kind() {
    let folder = Folder::new();
    for (name, model) in [("v", marked()), ("playground", playground()), ("cosxl", cosxl())] {
        let (input, output) = (folder.join(&format!("{name}.safetensors")), folder.join(&format!("{name}.ckpt")));
        model.save(&input, &[]);
        run!["convert", &input, "-o", folder.join(name), "--to", "diffusers"].done();
        run!["convert", folder.join(name), "-o", &output].done();
        let mut own = tensors(&input);
        let own = own.split_off(own.len() - 2);
        let mut found = tensors(&output);
        for ((key, own), (found_key, found)) in own.into_iter().zip(found.split_off(found.len() - 2)) {
            assert_eq!((&key, own.shape().dims()), (&found_key, found.shape().dims()));
            assert_eq!(own.to_bytes().unwrap(), found.to_bytes().unwrap());
        }
    }
}

#[test]
fn carries_v_prediction_of_sd1_through_a_file() {
    let folder = Folder::new();
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    set(
        &input.join(SCHEDULER),
        json!({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
        "timestep_spacing": "linspace"}),
    );
    let back = through_a_file(&folder, &input, "sd1", "ckpt");
    let yaml = fs::read_to_string(folder.join("sd1.yaml")).unwrap();
    assert!(yaml.contains("parameterization: \"v\"") && yaml.contains("FrozenCLIPEmbedder"), "{yaml}");
    assert_fields(
        &back.join(SCHEDULER),
        json!({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
            "timestep_spacing": "linspace"}),
    );
}

#[test]
fn carries_unusual_constants_of_a_vae() {
    let folder = Folder::new();
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    let unusual = json!({"scaling_factor": 0.25, "shift_factor": 0.1159, "force_upcast": false});
    set(&input.join(VAE), unusual.clone());
    for extension in ["safetensors", "ckpt"] {
        let report = run!["convert", &input, "-o", folder.join(&format!("x.{extension}")), "--json", "--force"].json();
        assert!(notices(&report).contains(&"vae-constants-not-read".to_owned()));
        let back = through_a_file(&folder, &input, "unusual", extension);
        assert_fields(&back.join(VAE), unusual.clone());
        fs::remove_file(folder.join("unusual.yaml")).unwrap();
    }
    // A VAE alone, as a file and as a folder.
    run!["convert", &input, "-o", folder.join("vae.safetensors"), "--component", "vae"].done();
    run!["convert", folder.join("vae.safetensors"), "-o", folder.join("vae/")].done();
    assert_fields(&folder.join("vae/config.json"), unusual);
}

#[test]
fn a_vae_has_the_constants_of_its_checkpoint() {
    let folder = Folder::new();
    let (xl, sd) = (folder.join("xl.safetensors"), folder.join("sd.safetensors"));
    Narrow::new(SdxlBase).save(&xl, &[]);
    Narrow::new(Sd1).save(&sd, &[]);
    for (input, factor) in [(&xl, 0.13025), (&sd, 0.18215)] {
        let (direct, file) = (folder.join(&format!("{factor}")), folder.join(&format!("{factor}-file.safetensors")));
        run!["convert", input, "-o", &direct, "--to", "diffusers", "--component", "vae"].done();
        run!["convert", input, "-o", &file, "--component", "vae"].done();
        let through = folder.join(&format!("{factor}-through"));
        let report = run!["convert", &file, "-o", &through, "--to", "diffusers", "--json"].json();
        // The keys and shapes are the same for all architectures.
        let is_assumed = notices(&report) == ["vae-constants-assumed"];
        assert_eq!(is_assumed, factor == 0.18215);
        for output in [direct, through] {
            assert_fields(&output.join("config.json"), json!({"scaling_factor": factor, "force_upcast": true}));
        }
    }
}

#[test]
fn sets_the_prediction_in_a_folders_own_configuration() {
    let folder = Folder::new();
    let input = fixture("diffusers/sd1");
    run!["convert", &input, "-o", folder.join("v"), "--to", "diffusers", "--prediction", "v"].done();
    let mut expected = value(&input.join(SCHEDULER));
    expected["prediction_type"] = "v_prediction".into();
    assert_eq!(value(&folder.join("v").join(SCHEDULER)), expected);
    run!["convert", folder.join("v"), "-o", folder.join("back"), "--to", "diffusers", "--prediction", "epsilon"].done();
    assert_eq!(value(&folder.join("back").join(SCHEDULER)), value(&input.join(SCHEDULER)));
    // The scheduler of EDM has other fields and another class.
    cosxl().save(&folder.join("cosxl.safetensors"), &[]);
    run!["convert", folder.join("cosxl.safetensors"), "-o", folder.join("cosxl/")].done();
    run!["convert", folder.join("cosxl"), "-o", folder.join("v2"), "--to", "diffusers", "--prediction", "v"].done();
    assert_fields(
        &folder.join("v2").join(SCHEDULER),
        json!({"_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction"}),
    );
    let index = value(&folder.join("v2/model_index.json"));
    assert_eq!(index["scheduler"], json!(["diffusers", "EulerDiscreteScheduler"]));
}

#[test]
fn refuses_what_a_file_cannot_record() {
    let folder = Folder::new();
    playground().save(&folder.join("edm.safetensors"), &[]);
    run!["convert", folder.join("edm.safetensors"), "-o", folder.join("edm/")].done();
    let output = folder.join("out.safetensors");
    let refused = |input: &Path, words: &[&str]| run!["convert", input, "-o", &output].refused(words);
    for (config, fields, word) in [
        (SCHEDULER, json!({"sigma_max": 160.0}), "sigma_max 160"),
        (SCHEDULER, json!({"sigma_data": 1.0}), "sigma_data 1"),
        (VAE, json!({"scaling_factor": 0.13025}), "scaling factor 0.13025"),
        (VAE, json!({"latents_mean": null}), "mean and standard deviation"),
        (SCHEDULER, json!({"prediction_type": "sample"}), "sample"),
        (SCHEDULER, json!({"_class_name": "FlowMatchEulerDiscreteScheduler"}), "flow"),
        (SCHEDULER, json!({"_class_name": "EulerDiscreteScheduler"}), "mean and standard deviation"),
    ] {
        let changed = copy_folder(&folder.join("edm"), &folder.join("changed"));
        set(&changed.join(config), fields);
        refused(&changed, &["changed", word]);
        // A folder keeps it.
        run!["convert", &changed, "-o", folder.join("kept"), "--to", "diffusers", "--force"].done();
        assert_eq!(value(&folder.join("kept").join(config)), value(&changed.join(config)));
        fs::remove_dir_all(changed).unwrap();
    }
    assert!(!output.exists());
}

#[test]
fn a_folder_with_only_a_unet_records_the_prediction_in_its_metadata() {
    let folder = Folder::new();
    for (name, model) in [("v", marked()), ("cosxl", cosxl())] {
        let (input, output) = (folder.join(&format!("{name}.safetensors")), folder.join(name));
        model.save(&input, &[]);
        let report =
            run!["convert", &input, "-o", &output, "--to", "diffusers", "--component", "unet", "--json"].json();
        assert_eq!(notices(&report), ["prediction-not-read"]);
        assert_eq!(prediction(&output), prediction(&input));
        let back = folder.join(&format!("{name}-back.safetensors"));
        run!["convert", &output, "-o", &back].done();
        let marks = |path: &Path| tensors(path).split_off(1680).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(marks(&back).len(), 2);
    }
}

#[test]
fn reads_a_scheduler_with_numbers_that_json_lacks() {
    let folder = Folder::new();
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    let config = "{\n  \"_class_name\": \"DPMSolverMultistepScheduler\",\n  \"lambda_min_clipped\": -Infinity,\n  \
                  \"prediction_type\": \"epsilon\"\n}\n";
    fs::write(input.join(SCHEDULER), config).unwrap();
    run!["convert", &input, "-o", folder.join("v"), "--to", "diffusers", "--prediction", "v"].done();
    let found = fs::read_to_string(folder.join("v").join(SCHEDULER)).unwrap();
    assert_eq!(found, config.replace("epsilon", "v_prediction"));
}
