//! `inspect --for`: which modules of a LoRA fit a model, in every layout of the model and with every spelling of the LoRA.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::narrow::{Narrow, filled};
use crate::support::{Folder, fixture, save, tensors};
use trinart_ckpt::models::family::Architecture;

const STYLE: &str = "render/networks/style.safetensors";

/// Saves a model with the shapes that the LoRAs of `fixtures/render/networks` are for.
fn model(folder: &Folder) -> PathBuf {
    let text = fs::read_to_string(fixture("render/tiny-sd1.json")).unwrap();
    let shapes: BTreeMap<String, Vec<u64>> = serde_json::from_str(&text).unwrap();
    let path = folder.join("model.safetensors");
    save(&path, shapes.into_iter().map(|(key, dims)| (key, filled(&dims))));
    path
}

fn fit_of(ran: Value) -> Value {
    ran["files"][0]["lora_fit"].clone()
}

#[track_caller]
fn fits(lora: &Path, model: &Path) -> Value {
    let found = fit_of(run!["inspect", lora, "--for", model, "--json"].json());
    assert_eq!((&found["fits"], &found["verdict"]), (&json!(true), &json!("fits")), "{found}");
    assert_eq!((&found["missing"], &found["mismatched"]), (&json!([]), &json!([])), "{found}");
    found
}

#[track_caller]
fn does_not_fit(lora: &Path, model: &Path) -> Value {
    let found = fit_of(run!["inspect", lora, "--for", model, "--json"].json_of_no());
    assert_eq!(found["fits"], false, "{found}");
    found
}

#[test]
fn every_spelling_fits_every_layout() {
    let folder = Folder::new();
    let model = model(&folder);
    let diffusers = folder.join("diffusers");
    run!["convert", &model, "-o", format!("{}/", diffusers.display())].done();
    let unet = folder.join("unet.safetensors");
    run!["convert", &model, "--component", "unet", "-o", &unet].done();
    let kinds = folder.join("kinds.ckpt");
    run!["convert", fixture("render/networks/kinds.safetensors"), "--drop", "*.on_input", "-o", &kinds].done();
    for lora in [STYLE, "render/networks/style-diffusers.safetensors", "render/networks/kinds.safetensors"] {
        for model in [&model, &diffusers] {
            let found = fits(&fixture(lora), model);
            assert_eq!(found["ignored_by_webui"], json!([]), "{found}");
        }
    }
    fits(&kinds, &model);
    let peft = folder.join("peft/adapter_model.safetensors");
    fs::create_dir(folder.join("peft")).unwrap();
    run!["convert", fixture(STYLE), "--select", "lora_unet_*", "--lora-names", "peft", "-o", &peft].done();
    let found = fits(&peft, &unet);
    assert_eq!(found["networks"].as_array().unwrap().len(), 1);
    // LyCORIS's own wrapper has names that WebUI does not look for.
    let lycoris = folder.join("lycoris.safetensors");
    let renamed = tensors(&peft).into_iter().map(|(key, tensor)| {
        let (module, part) = key.split_once(".lora_").unwrap();
        let module = module.strip_prefix("base_model.model.").unwrap().replace('.', "_");
        (format!("lycoris_{module}.lora_{}", part.replace("A.", "down.").replace("B.", "up.")), tensor)
    });
    save(&lycoris, renamed);
    let found = fits(&lycoris, &unet);
    assert_eq!(found["ignored_by_webui"].as_array().unwrap().len(), 18, "{found}");
}

#[test]
fn names_what_the_model_lacks() {
    let folder = Folder::new();
    let model = model(&folder);
    let unet = folder.join("unet.safetensors");
    run!["convert", &model, "--component", "unet", "-o", &unet].done();
    let found = does_not_fit(&fixture(STYLE), &unet);
    assert_eq!(found["verdict"], "fits except for 9 of 27 modules");
    assert_eq!((found["missing"].as_array().unwrap().len(), &found["mismatched"]), (9, &json!([])));
    let network = &found["networks"][1];
    let expected = json!({ "network": "text-encoder", "modules": 9, "fit": 0, "missing": 9, "mismatched": 0,
        "is_in_model": false });
    assert_eq!(network, &expected);
    let text = run!["inspect", fixture(STYLE), "--for", &unet].no();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "  verdict           fits except for 9 of 27 modules");
    for words in [
        "  fit               UNet: 18 of 18 modules\n",
        "  fit               text encoder: 0 of 9 modules, 9 missing; the model has no such network\n",
        "  missing           lora_te_text_model_encoder_layers_0_mlp_fc1\n",
        "  missing           and 3 more\n",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let text = run!["inspect", fixture(STYLE), "--for", &unet, "--keys"].no();
    assert_eq!(text.lines().filter(|line| line.starts_with("  missing  ")).count(), 9, "{text}");
}

#[test]
fn names_modules_of_another_shape() {
    let folder = Folder::new();
    let model = model(&folder);
    let mut list = tensors(&fixture("render/networks/kinds.safetensors"));
    let change = |list: &mut Vec<(_, _)>, key: &str, dims: &[u64]| {
        list.iter_mut().find(|(other, _): &&mut (String, _)| other == key).unwrap().1 = filled(dims);
    };
    let unet = "lora_unet_down_blocks_0_";
    let attention = format!("{unet}attentions_0_transformer_blocks_0_attn1_");
    let mlp = "lora_te_text_model_encoder_layers_0_mlp_fc1";
    change(&mut list, &format!("{attention}to_q.lora_up.weight"), &[48, 3]);
    change(&mut list, &format!("{attention}to_k.dora_scale"), &[1, 31]);
    change(&mut list, &format!("{attention}to_v.hada_w2_b"), &[2, 32]);
    change(&mut list, &format!("{attention}to_v.hada_w1_b"), &[2, 31]);
    change(&mut list, &format!("{attention}to_out_0.lokr_w1"), &[4, 5]);
    change(&mut list, &format!("{unet}resnets_0_conv1.lora_mid.weight"), &[3, 2, 1, 1]);
    change(&mut list, &format!("{unet}resnets_0_conv2.hada_t1"), &[2, 2, 5, 5]);
    change(&mut list, &format!("{unet}resnets_1_norm1.w_norm"), &[30]);
    change(&mut list, &format!("{mlp}.diff_b"), &[63]);
    change(&mut list, "lora_te_text_model_encoder_layers_0_self_attn_q_proj.weight", &[31]);
    change(&mut list, "lora_te_text_model_encoder_layers_1_mlp_fc1.b1.weight", &[2, 31]);
    let lora = folder.join("lora.safetensors");
    save(&lora, list);
    let found = does_not_fit(&lora, &model);
    assert_eq!((&found["verdict"], &found["missing"]), (&json!("fits except for 10 of 13 modules"), &json!([])));
    let mismatched = found["mismatched"].as_array().unwrap();
    let of = |module: &str| mismatched.iter().find(|it| it["module"] == module).unwrap_or_else(|| panic!("{found}"));
    let query = of(&format!("{attention}to_q"));
    assert_eq!((&query["lora_shape"], &query["model_shape"]), (&json!([48, 32]), &json!([32, 32])));
    assert_eq!(query["key"], "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight");
    for (module, shape) in [
        (format!("{attention}to_k"), json!([1, 31])),
        (format!("{attention}to_v"), json!([32, 31])),
        (format!("{attention}to_out_0"), json!([32, 40])),
        (format!("{unet}resnets_0_conv1"), json!([32, 32, 1, 1])),
        (format!("{unet}resnets_0_conv2"), json!([32, 32, 5, 5])),
        (format!("{unet}resnets_1_norm1"), json!([30])),
        (mlp.to_owned(), json!([63])),
    ] {
        assert_eq!(of(&module)["lora_shape"], shape, "{module}");
    }
    assert!(of(mlp)["key"].as_str().unwrap().ends_with("mlp.fc1.bias"), "{found}");
    let text = run!["inspect", &lora, "--for", &model].no();
    assert!(text.contains("attn1_to_q: [48, 32] in the LoRA, [32, 32] in the model (model.diffusion_model."), "{text}");
}

#[test]
fn names_the_model_that_it_was_made_for() {
    let folder = Folder::new();
    let xl = folder.join("xl.safetensors");
    Narrow::new(Architecture::SdxlBase).save(&xl, &[]);
    let found = does_not_fit(&fixture(STYLE), &xl);
    assert_eq!(found["verdict"], "does not fit: made for SD v1 or v2, the model is SDXL base");
    // An inpainting model has five more input channels, and WebUI changes the first four.
    let inpainting = folder.join("inpainting.safetensors");
    let mut list = tensors(&model(&folder));
    let input = list.iter_mut().find(|(key, _)| key == "model.diffusion_model.input_blocks.0.0.weight").unwrap();
    input.1 = filled(&[32, 9, 3, 3]);
    save(&inpainting, list);
    fits(&fixture("render/networks/kinds.safetensors"), &inpainting);
}

#[test]
fn checks_the_projections_of_openclip() {
    let folder = Folder::new();
    let (sd2, sd1) = (folder.join("sd2.safetensors"), model(&folder));
    Narrow::new(Architecture::Sd2).save(&sd2, &[]);
    let pair = |layer: &str, width: u64| {
        let module = format!("lora_te_text_model_encoder_layers_0_self_attn_{layer}");
        [("down", vec![2, width]), ("up", vec![width, 2])]
            .map(|(part, dims)| (format!("{module}.lora_{part}.weight"), filled(&dims)))
    };
    let lora = folder.join("lora.safetensors");
    save(&lora, ["q_proj", "k_proj", "v_proj", "out_proj"].into_iter().flat_map(|layer| pair(layer, 32)));
    assert_eq!(fits(&lora, &sd2)["ignored_by_webui"], json!([]));
    assert_eq!(fits(&lora, &sd1)["ignored_by_webui"], json!([]));
    // WebUI applies all four or none.
    let lora = folder.join("half.safetensors");
    save(&lora, ["q_proj", "v_proj"].into_iter().flat_map(|layer| pair(layer, 32)));
    assert_eq!(fits(&lora, &sd2)["ignored_by_webui"].as_array().unwrap().len(), 2);
    let lora = folder.join("narrow.safetensors");
    save(&lora, ["q_proj", "k_proj", "v_proj", "out_proj"].into_iter().flat_map(|layer| pair(layer, 24)));
    let found = does_not_fit(&lora, &sd2);
    assert_eq!(found["mismatched"][2]["model_shape"], json!([32, 32]), "{found}");
}

#[test]
fn checks_loras_of_other_models_by_the_names_of_the_file() {
    let folder = Folder::new();
    let pair = |module: &str, dims: [u64; 2]| {
        [
            (format!("{module}.lora_A.weight"), filled(&[4, dims[1]])),
            (format!("{module}.lora_B.weight"), filled(&[dims[0], 4])),
        ]
    };
    let weight = |key: &str, dims: [u64; 2]| (format!("{key}.weight"), filled(&dims));
    let model = folder.join("language.safetensors");
    let layer = "model.layers.0.self_attn";
    let embedding = weight("model.embed_tokens", [100, 16]);
    save(
        &model,
        [embedding, weight(&format!("{layer}.q_proj"), [16, 16]), weight(&format!("{layer}.k_proj"), [8, 16])],
    );
    let lora = folder.join("lora.safetensors");
    let modules = [("q_proj", [16, 16]), ("k_proj", [8, 16])];
    let of_peft = |(name, dims): (&str, _)| pair(&format!("base_model.model.{layer}.{name}"), dims);
    save(&lora, modules.into_iter().flat_map(of_peft));
    fits(&lora, &model);
    let lora = folder.join("other.safetensors");
    save(&lora, [("q_proj", [16, 16]), ("v_proj", [8, 16]), ("k_proj", [8, 8])].into_iter().flat_map(of_peft));
    let found = does_not_fit(&lora, &model);
    assert_eq!(found["missing"].as_array().unwrap().len(), 1);
    assert_eq!(found["mismatched"][0]["lora_shape"], json!([8, 8]));
}

#[test]
fn refuses_files_that_are_no_lora_or_no_model() {
    let lora = fixture(STYLE);
    let vae = fixture("tiny-vae.vae.pt");
    run!["inspect", &lora, "--for", &vae].refused(&["tiny-vae.vae.pt", "expected a model", "VAE"]);
    run!["inspect", &lora, "--for", &lora].refused(&["expected a model", "LoRA (kohya)"]);
    run!["inspect", fixture("tiny-sd1.ckpt"), "--for", fixture("tiny-sd1.ckpt")].refused(&["expected a LoRA"]);
}
