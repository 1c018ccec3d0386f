//! ControlNets: between the names of the original code and diffusers, and what is refused.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::support::narrow::{Narrow, filled};
use crate::support::peers::Peers;
use crate::support::{Folder, PROGRAM, assert_rows, read, save, tensors};
use serde_json::json;
use trinart_ckpt::formats::tensor::LazyTensor;
use trinart_ckpt::models::family::Architecture::Sd1;

/// The tensors of a narrow ControlNet in the names of the original code, from the key list `NAME-controlnet.ldm.keys`.
fn narrow(name: &str) -> Vec<(String, LazyTensor)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/layouts/{name}-controlnet.ldm.keys"));
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let [key, _, shape] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let narrow = |dim: u64| if dim <= 16 { dim } else { (dim / 32).max(1) };
        let dims: Vec<u64> = shape.split('x').map(|dim| narrow(dim.parse().unwrap())).collect();
        (key.to_owned(), filled(&dims))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

#[test]
fn diffusers_opens_controlnets_of_every_architecture() {
    let Some(peers) = Peers::find_with("diffusers") else { return };
    let found = peers.script("controlnets.py", &[OsStr::new(PROGRAM).as_ref()]);
    let expected = json!({ "sd1": [], "sd1-one-channel": [], "sd1-shuffle": [], "sd2": [], "sdxl": [] });
    assert_eq!(found, expected);
}

#[test]
fn a_controlnet_goes_to_a_folder_and_back() {
    let folder = Folder::new();
    for (name, tensors) in [("sd1", 340), ("sd2", 340), ("sdxl", 844)] {
        let file = folder.join(&format!("{name}.safetensors"));
        save(&file, narrow(name));
        let (output, back) = (folder.join(name), folder.join(&format!("{name}-back.safetensors")));
        let report = run!["convert", &file, "-o", &output, "--to", "diffusers", "--json"].json();
        assert_eq!((&report["tensors"], &report["notices"]), (&json!(tensors), &json!([])));
        let config: serde_json::Value = serde_json::from_slice(&fs::read(output.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["_class_name"], "ControlNetModel");
        run!["convert", &output, "-o", &back].done();
        let sorted = |path: &Path| {
            let mut rows = read(path);
            rows.sort();
            rows
        };
        assert_rows(&sorted(&back), &sorted(&file));
        run!["diff", &file, &output].done();
        // Files keep their names unless a component is asked for.
        let weights = output.join("diffusion_pytorch_model.safetensors");
        let same = folder.join("same.safetensors");
        run!["convert", &weights, "-o", &same, "--force"].done();
        assert_eq!(read(&same), read(&weights));
        let report = run!["inspect", &weights, "--json"].json();
        let summary = &report["files"][0];
        let found = &summary["components"][0];
        assert_eq!((&summary["kind"], &found["name"]), (&json!("controlnet"), &json!("controlnet")));
        assert_eq!((&summary["task"], &summary["prediction"]), (&json!(null), &json!(null)));
    }
}

#[test]
fn a_controlnet_beside_its_model_is_a_component() {
    let folder = Folder::new();
    let (whole, alone) = (folder.join("whole.safetensors"), folder.join("alone.safetensors"));
    let mut model = Narrow::new(Sd1);
    let own = model.0.len();
    model.0.extend(narrow("sd1"));
    model.save(&whole, &[]);
    let inspected = run!["inspect", &whole, "--json"].json();
    let found = &inspected["files"][0];
    assert_eq!(
        (&found["name"], &found["also"]),
        (&json!("Stable Diffusion checkpoint (SD v1), with a ControlNet"), &json!([]))
    );
    let report = run!["convert", &whole, "-o", &alone, "--component", "controlnet", "--json"].json();
    assert_eq!(report["tensors"], 340);
    save(&folder.join("expected.safetensors"), narrow("sd1"));
    assert_rows(&read(&alone), &read(&folder.join("expected.safetensors")));
    let unet = folder.join("unet.safetensors");
    run!["convert", &whole, "-o", &unet, "--component", "unet"].done();
    assert!(tensors(&unet).iter().all(|(key, _)| key.starts_with("model.diffusion_model.")));
    let output = folder.join("out");
    let to_folder = || run!["convert", &whole, "-o", &output, "--to", "diffusers"];
    to_folder().refused(&["whole.safetensors: tensor control_model.", "no place", "--allow-loss"]);
    let hashes = run!["hash", &whole, "--json"].json();
    assert!(hashes["files"][0]["components"].as_object().unwrap().contains_key("controlnet"), "{hashes}");
    assert_eq!(own, 1131);
}

#[test]
fn refuses_controlnets_of_wrong_shapes_and_other_kinds() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out"));
    let refused = |tensors: Vec<(String, LazyTensor)>, words: &[&str]| {
        save(&input, tensors);
        run!["convert", &input, "-o", &output, "--to", "diffusers"].refused(words);
        fs::remove_file(&input).unwrap();
    };
    let with = |key: &str, dims: &[u64]| {
        let mut tensors = narrow("sd1");
        tensors.iter_mut().find(|(found, _)| found == key).unwrap().1 = filled(dims);
        tensors
    };
    let zero = "control_model.zero_convs.4.0.weight";
    refused(with(zero, &[20, 7, 1, 1]), &["in.safetensors: tensor ", zero, "expected [20, 20, 1, 1]"]);
    let hint = "control_model.input_hint_block.6.weight";
    refused(with(hint, &[1, 1, 1, 1]), &["in.safetensors: tensor ", hint, "expected [1, 1, 3, 3]"]);
    let last = "control_model.middle_block_out.0.bias";
    let lacking = narrow("sd1").into_iter().filter(|(key, _)| key != last).collect();
    refused(lacking, &["in.safetensors: tensor ", last, "missing"]);
    // The difference to the UNet of a model, which this program would have to add.
    let difference = narrow("sd1").into_iter().chain([("difference".to_owned(), filled(&[1]))]).collect();
    refused(difference, &["in.safetensors: tensor difference", "differences to the weights of its base model"]);
    let bare = narrow("sd1").into_iter().map(|(key, tensor)| (key.replacen("control_model.", "", 1), tensor));
    let difference = bare.chain([("difference".to_owned(), filled(&[1]))]).collect();
    refused(difference, &["in.safetensors: tensor difference", "differences to the weights of its base model"]);
    let union = narrow("sdxl").into_iter().chain([("control_model.task_embedding".to_owned(), filled(&[6, 10]))]);
    refused(union.collect(), &["in.safetensors: tensor control_model.task_embedding"]);
}

/// A prefix that training puts before all keys goes from ControlNets in every spelling, as from other files.
#[test]
fn a_repair_removes_prefixes() {
    let folder = Folder::new();
    let sd1 = folder.join("sd1.safetensors");
    save(&sd1, narrow("sd1"));
    run!["convert", &sd1, "-o", folder.join("folder"), "--to", "diffusers"].done();
    let in_diffusers_names = tensors(&folder.join("folder/diffusion_pytorch_model.safetensors"));
    let bare = |tensors: Vec<(String, LazyTensor)>| -> Vec<(String, LazyTensor)> {
        tensors.into_iter().map(|(key, tensor)| (key.replacen("control_model.", "", 1), tensor)).collect()
    };
    let union = || {
        let task = [("task_embedding", [6, 10]), ("control_add_embedding.linear_1.weight", [40, 10])];
        let task = task.map(|(key, dims)| (key.to_owned(), filled(&dims)));
        in_diffusers_names.iter().cloned().chain(task).collect::<Vec<_>>()
    };
    let adapter =
        vec![("body.0.block1.weight".to_owned(), filled(&[4, 4])), ("conv_in.weight".into(), filled(&[4, 64]))];
    let t5 = [("shared.weight", [8, 4]), ("encoder.block.0.layer.0.SelfAttention.q.weight", [4, 4])];
    let t5 = t5.map(|(key, dims)| (key.to_owned(), filled(&dims)));
    let cases = [
        ("sd1", narrow("sd1"), "module."),
        ("sd2", narrow("sd2"), "module."),
        ("sdxl", narrow("sdxl"), "model."),
        ("bare", bare(narrow("sd1")), "_orig_mod.module."),
        ("diffusers", in_diffusers_names.clone(), "module."),
        ("union", union(), "module."),
        ("t2i-adapter", adapter, "module."),
        ("t5", t5.into(), "_orig_mod."),
    ];
    for (name, right, prefix) in cases {
        let healthy = folder.join(&format!("{name}-right.safetensors"));
        save(&healthy, right.clone());
        assert_eq!(run!["inspect", &healthy, "--json"].json()["files"][0]["repairs"], json!([]), "{name}");
        let broken = folder.join(&format!("{name}-broken.ckpt"));
        save(&broken, right.into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)));
        let output = folder.join(&format!("{name}-out.safetensors"));
        let report = run!["convert", &broken, "--repair", "-o", &output, "--json"].json();
        assert_eq!(report["repairs"][0]["kind"], "prefix", "{name}: {}", report["repairs"]);
        let sorted = |path: &Path| {
            let mut rows = read(path);
            rows.sort();
            rows
        };
        assert_rows(&sorted(&output), &sorted(&healthy));
    }
}

#[test]
fn names_the_class_of_a_folder_that_it_does_not_take() {
    let folder = Folder::new();
    let input = folder.join("flux");
    fs::create_dir(&input).unwrap();
    fs::write(input.join("config.json"), r#"{"_class_name": "FluxControlNetModel"}"#).unwrap();
    save(
        &input.join("diffusion_pytorch_model.safetensors"),
        [("controlnet_x_embedder.weight".to_owned(), filled(&[2, 2]))],
    );
    run!["convert", &input, "-o", folder.join("out.ckpt")].refused(&["flux: ", "FluxControlNetModel", "as a file"]);
}
