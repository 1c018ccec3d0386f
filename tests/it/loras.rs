//! `convert --lora-names`: between the names of kohya, diffusers and PEFT, and what is refused.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::peers::Peers;
use crate::support::{Folder, PROGRAM, Row, fixture, read, save, tensors};
use serde_json::{Value, json};

/// A LoRA of kohya's names, and the same one in those of diffusers, without alphas.
const KOHYA: &str = "render/networks/style.safetensors";
const DIFFUSERS: &str = "render/networks/style-diffusers.safetensors";

fn sorted(path: &Path) -> Vec<Row> {
    let mut rows = read(path);
    rows.sort();
    rows
}

/// The names of the tensors of a file, sorted.
fn names(path: &Path) -> Vec<String> {
    sorted(path).into_iter().map(|row| row.0).collect()
}

/// Converts a file to a file of this name.
fn named(folder: &Folder, input: &Path, name: &str, names: &str) -> PathBuf {
    let output = folder.join(name);
    run!["convert", input, "-o", &output, "--lora-names", names, "--force"].done();
    output
}

#[test]
fn diffusers_and_peft_load_converted_loras() {
    let Some(peers) = Peers::find_with("peft") else { return };
    let found = peers.script("loras.py", &[OsStr::new(PROGRAM).as_ref()]);
    let expected = json!({ "sd1": [], "sd1-locon": [], "sd1-patterns": [], "sd1-dora": [], "sd2": [], "sdxl": [] });
    assert_eq!(found, expected);
}

#[test]
fn a_lora_of_kohya_comes_back_the_same() {
    let folder = Folder::new();
    let source = fixture(KOHYA);
    let diffusers = named(&folder, &source, "diffusers.safetensors", "diffusers");
    // The fixture of diffusers has the scale in its values.
    assert_eq!(names(&diffusers), names(&fixture(DIFFUSERS)));
    let back = named(&folder, &diffusers, "back.safetensors", "kohya");
    assert_eq!(read(&back), read(&source));
    let metadata = |path: &Path| run!["inspect", path, "--json"].json()["files"][0]["metadata"].clone();
    let found = metadata(&back);
    assert_eq!(found["ss_output_name"], "trained style");
    // Names that the file has already stay, with everything else.
    let same = named(&folder, &source, "same.safetensors", "kohya");
    assert_eq!((read(&same), metadata(&same)), (read(&source), metadata(&source)));
}

#[test]
fn an_adapter_of_peft_has_its_configuration_beside_it() {
    let folder = Folder::new();
    let source = fixture(KOHYA);
    let whole = folder.join("whole.safetensors");
    let to_peft = run!["convert", &source, "-o", &whole, "--lora-names", "peft"];
    to_peft.refused(&["style.safetensors: changes unet and text_encoder", "one network", "--select"]);
    let adapter = folder.join("adapter_model.safetensors");
    let arguments = ["--select", "lora_unet_*", "--lora-names", "peft", "--json"];
    let report =
        run!["convert", &source, "-o", &adapter, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]]
            .json();
    let beside = folder.join("adapter_config.json");
    assert_eq!(report["also_wrote"], json!([beside.to_str().unwrap()]));
    let config: Value = serde_json::from_slice(&fs::read(&beside).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(2)));
    assert!(tensors(&adapter).iter().all(|(key, _)| key.starts_with("base_model.model.")));
    let back = named(&folder, &adapter, "back.safetensors", "kohya");
    let of_unet: Vec<Row> = read(&source).into_iter().filter(|row| row.0.starts_with("lora_unet_")).collect();
    assert_eq!(read(&back), of_unet);
    // Without the configuration, the scale is assumed.
    fs::remove_file(&beside).unwrap();
    let report = run!["convert", &adapter, "-o", &back, "--force", "--lora-names", "kohya", "--json"].json();
    assert_eq!(report["notices"][0]["code"], "lora-scale-assumed");
    assert!(tensors(&back).iter().all(|(key, _)| !key.ends_with(".alpha")));
}

#[test]
fn reads_the_names_of_early_versions_of_diffusers() {
    let folder = Folder::new();
    let rename: [fn(&str) -> String; 4] = [
        |key| key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."),
        |key| {
            let key = key.replace(".lora_A.", "_lora.down.").replace(".lora_B.", "_lora.up.");
            let key = key.replace(".to_out.0_lora", ".to_out_lora");
            match key.starts_with("unet.") {
                true => key.replace(".attn1.", ".attn1.processor.").replace(".attn2.", ".attn2.processor."),
                false => key.replace("q_proj_lora", "to_q_lora").replace("v_proj_lora", "to_v_lora"),
            }
        },
        |key| key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        // ComfyUI has the names of the original code with dots.
        |key| match key.strip_prefix("unet.mid_block.attentions.0.") {
            Some(rest) => format!("diffusion_model.middle_block.1.{rest}"),
            None => key.to_owned(),
        },
    ];
    let kohya = named(&folder, &fixture(DIFFUSERS), "kohya.safetensors", "kohya");
    let of_kohya: Vec<String> = names(&fixture(KOHYA)).into_iter().filter(|name| !name.ends_with(".alpha")).collect();
    assert_eq!(names(&kohya), of_kohya);
    let expected = read(&kohya);
    for (index, rename) in rename.into_iter().enumerate() {
        let input = folder.join(&format!("{index}.safetensors"));
        save(&input, tensors(&fixture(DIFFUSERS)).into_iter().map(|(key, tensor)| (rename(&key), tensor)));
        let found = named(&folder, &input, "found.safetensors", "kohya");
        assert_eq!(read(&found), expected, "{index}");
        let found = named(&folder, &input, "found.safetensors", "diffusers");
        assert_eq!(sorted(&found), sorted(&fixture(DIFFUSERS)), "{index}");
    }
}

#[test]
fn refuses_what_the_names_cannot_express() {
    let folder = Folder::new();
    let kinds = fixture("render/networks/kinds.safetensors");
    let refused = |pattern: &str, names: &str, words: &[&str]| {
        let output = folder.join("out.safetensors");
        run!["convert", &kinds, "--select", pattern, "-o", output, "--lora-names", names].refused(words);
    };
    let unet = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_";
    for (module, kind) in [("to_v", "LoHa"), ("to_out_0", "LoKr")] {
        refused(&format!("{unet}{module}.*"), "diffusers", &["tensor lora_unet_", module, kind, "LoRA and DoRA"]);
    }
    refused(&format!("{unet}to_out_0.*"), "peft", &["LoKr", "keep the names of kohya"]);
    refused(&format!("{unet}to_k.*"), "peft", &["dora_scale", "by column", "PEFT"]);
    refused("lora_te_text_model_encoder_layers_1_mlp_fc1.*", "peft", &["GLoRA", "a1.weight"]);
    refused("lora_te_text_model_encoder_layers_0_mlp_fc1.*", "diffusers", &["full difference", ".diff"]);
    // LoHa has names in PEFT.
    let output = folder.join("loha/adapter_model.safetensors");
    fs::create_dir(folder.join("loha")).unwrap();
    run!["convert", &kinds, "--select", format!("{unet}to_v.*"), "-o", &output, "--lora-names", "peft"].done();
    let config: Value = serde_json::from_slice(&fs::read(folder.join("loha/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["peft_type"], "LOHA");
    let back = named(&folder, &output, "back.safetensors", "kohya");
    let of_module: Vec<Row> =
        read(&kinds).into_iter().filter(|row| row.0.starts_with(&format!("{unet}to_v."))).collect();
    assert_eq!(sorted(&back), of_module);
    // Diffusers reads alphas from the metadata, which a .bin file does not have.
    let output = folder.join("out.bin");
    run!["convert", fixture(KOHYA), "-o", output, "--lora-names", "diffusers"].refused(&["alpha", ".safetensors"]);
    let output = folder.join("out.safetensors");
    let of_sd = run!["convert", fixture("tiny-sd1.safetensors"), "-o", &output, "--lora-names", "kohya"];
    of_sd.refused(&["expected a LoRA", "Stable Diffusion checkpoint"]);
    let mut half = tensors(&fixture(KOHYA));
    half.retain(|(key, _)| key != "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight");
    save(&folder.join("half.safetensors"), half);
    let of_half = run!["convert", folder.join("half.safetensors"), "-o", &output, "--lora-names", "diffusers"];
    of_half.refused(&["tensor lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "the other matrix"]);
    let mut flux = tensors(&fixture(KOHYA));
    flux.push(("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight".to_owned(), flux[1].1.clone()));
    save(&folder.join("flux.safetensors"), flux);
    let of_flux = run!["convert", folder.join("flux.safetensors"), "-o", &output, "--lora-names", "diffusers"];
    of_flux.refused(&["tensor lora_unet_double_blocks_0", "no module of a known model"]);
}
