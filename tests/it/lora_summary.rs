//! What `inspect` shows of a LoRA: networks, ranks, scales, contradictions, and singular values compared with PyTorch.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::peers::Peers;
use crate::support::{Folder, f32s, fixture, save, tensor};
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};

const KOHYA: &str = "render/networks/style.safetensors";

/// What `inspect --json` has for a LoRA.
fn lora(path: &Path, options: &[&str]) -> Value {
    let mut arguments: Vec<std::ffi::OsString> = vec!["inspect".into(), path.into(), "--json".into()];
    arguments.extend(options.iter().map(Into::into));
    crate::support::run(&arguments).json()["files"][0]["lora"].take()
}

/// A matrix or a kernel.
fn zeros(dims: &[u64]) -> LazyTensor {
    tensor(Dtype::F32, dims, vec![0; dims.iter().product::<u64>() as usize * 4])
}

#[test]
fn singular_values_are_those_of_torch() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let file = folder.join("lora.safetensors");
    let expected = peers.script("lora_spectra.py", &[&file]);
    for jobs in ["1", "3"] {
        let found = lora(&file, &["--stats", "--jobs", jobs]);
        let modules = found["module_list"].as_array().unwrap();
        assert_eq!(modules.len(), expected.as_object().unwrap().len());
        for module in modules {
            let name = module["module"].as_str().unwrap();
            let (spectrum, expected) = (&module["spectrum"], &expected[name]);
            let numbers = |values: &Value| values.as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
            let (found, values): (Vec<f64>, Vec<f64>) =
                (numbers(&spectrum["singular_values"]), numbers(&expected["values"]));
            assert_eq!(found.len(), values.len(), "{name}");
            for (found, value) in found.iter().zip(&values) {
                assert!((found - value).abs() <= 1e-9 * values[0], "{name}: {found}, torch {value}");
            }
            for (field, of_torch) in [("down_norm", "down"), ("up_norm", "up"), ("norm", "norm")] {
                let (found, expected) = (spectrum[field].as_f64().unwrap(), expected[of_torch].as_f64().unwrap());
                assert!((found - expected).abs() <= 1e-12 * expected, "{name} {field}: {found}, torch {expected}");
            }
            let squares: Vec<f64> = values.iter().map(|value| value * value).collect();
            let sum: f64 = squares.iter().sum();
            for (field, part) in [("rank_90", 0.90), ("rank_95", 0.95), ("rank_99", 0.99)] {
                let has = |ranks: &usize| squares.iter().take(*ranks).sum::<f64>() >= part * sum * (1.0 - 1e-12);
                let ranks = (0..).find(has).unwrap();
                assert_eq!(spectrum[field], ranks, "{name} {field}");
            }
            let stable = if sum > 0.0 { sum / squares[0] } else { 0.0 };
            assert!((spectrum["stable_rank"].as_f64().unwrap() - stable).abs() <= 1e-9 * stable, "{name}");
        }
    }
    let text = run!["inspect", &file, "--stats"].done();
    let query = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q";
    let line = text.lines().find(|line| line.starts_with(&format!("  module {query}: "))).unwrap();
    assert!(line.contains("LoRA, rank 4, alpha 2, norms: down ") && line.contains(" % in rank "), "{line}");
}

#[test]
fn shows_networks_ranks_and_scales() {
    let found = lora(&fixture(KOHYA), &[]);
    assert_eq!((&found["names"], &found["kinds"]), (&json!("kohya"), &json!({ "LoRA": found["modules"] })));
    let networks: Vec<&str> =
        found["networks"].as_array().unwrap().iter().map(|it| it["network"].as_str().unwrap()).collect();
    assert_eq!(networks, ["unet", "text-encoder"]);
    let scales = found["scales"].as_array().unwrap();
    let modules = |list: &[Value]| list.iter().map(|it| it["modules"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        (modules(scales), modules(found["networks"].as_array().unwrap())),
        (found["modules"].as_u64().unwrap(), found["modules"].as_u64().unwrap())
    );
    for scale in scales {
        let (rank, alpha) = (scale["rank"].as_f64().unwrap(), scale["alpha"].as_f64().unwrap());
        assert_eq!(scale["scale"].as_f64().unwrap(), alpha / rank);
    }
    assert!(found.get("module_list").is_none());
    let text = run!["inspect", fixture(KOHYA)].done();
    for words in [
        "  modules           ",
        "UNet ",
        " in ",
        "text encoder ",
        "  rank              2, alpha ",
        "  layers            ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Without alphas, changes are not scaled.
    let text = run!["inspect", fixture("render/networks/style-diffusers.safetensors")].done();
    assert!(text.contains("  rank              2, no alpha (scale 1): "), "{text}");
    let other = run!["inspect", fixture("tiny-vae.vae.pt"), "--json"].json();
    assert!(other["files"][0].get("lora").is_none());
}

#[test]
fn counts_the_kinds_of_changes() {
    let found = lora(&fixture("render/networks/kinds.safetensors"), &["--stats"]);
    let kinds = json!({ "full difference": 1, "IA3": 2, "GLoRA": 1, "LoRA": 2, "DoRA": 1, "LoKr": 2, "LoHa": 2,
        "LoCon with a Tucker core": 1, "change of a norm": 1 });
    assert_eq!(found["kinds"], kinds);
    assert_eq!(
        (&found["modules"], &found["other_tensors"], &found["contradictions"]),
        (&json!(13), &json!(0), &json!([]))
    );
    let has_spectrum = |module: &&Value| module.get("spectrum").is_some();
    let list = found["module_list"].as_array().unwrap();
    let with: Vec<&str> = list.iter().filter(has_spectrum).map(|module| module["kind"].as_str().unwrap()).collect();
    assert_eq!(with, ["LoRA", "DoRA", "LoRA"]);
    let is_wide = |scale: &&Value| scale["is_convolution"].as_bool().unwrap();
    let wide = found["scales"].as_array().unwrap().iter().filter(is_wide);
    assert_eq!(wide.map(|scale| scale["modules"].as_u64().unwrap()).sum::<u64>(), 4);
}

#[test]
fn names_what_the_metadata_contradicts() {
    let folder = Folder::new();
    let with = |fields: &[&str]| {
        let output = folder.join("out.safetensors");
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["convert".into(), fixture(KOHYA).into(), "-o".into(), output.clone().into(), "--force".into()];
        arguments.extend(fields.iter().flat_map(|field| ["--set-metadata".into(), (*field).into()]));
        crate::support::run(&arguments).done();
        (lora(&output, &[]), run!["inspect", &output].done())
    };
    let scales = lora(&fixture(KOHYA), &[])["scales"].take();
    let alpha = format!("ss_network_alpha={}", scales[0]["alpha"]);
    let (found, _) = with(&["ss_network_dim=2", &alpha, "ss_base_model_version=sd_v1", "ss_sd_model_name=base.ckpt"]);
    assert_eq!((&found["contradictions"], &found["base_model"]), (&json!([]), &json!("sd_v1, base.ckpt")));
    let (found, text) = with(&["ss_network_dim=32", "ss_base_model_version=sdxl_base_v1-0"]);
    assert_eq!(found["contradictions"].as_array().unwrap().len(), 2, "{found}");
    for words in [
        "CONTRADICTION     ss_base_model_version is sdxl_base_v1-0, and",
        "CONTRADICTION     ss_network_dim is 32, and no",
    ] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn names_modules_with_missing_and_wrong_tensors() {
    let folder = Folder::new();
    let file = folder.join("lora.safetensors");
    let name = |module: usize, part: &str| format!("lora_te_text_model_encoder_layers_{module}_mlp_fc1.{part}");
    save(
        &file,
        [
            (name(0, "lora_down.weight"), zeros(&[4, 768])),
            (name(1, "lora_down.weight"), zeros(&[4, 768])),
            (name(1, "lora_up.weight"), zeros(&[3072, 8])),
            (name(2, "lora_down.weight"), zeros(&[4, 768])),
            (name(2, "lora_up.weight"), zeros(&[3072, 4])),
            (name(2, "alpha"), f32s(&[f32::NAN])),
            ("bundle_emb.word.string_to_param.*".to_owned(), zeros(&[1, 768])),
        ],
    );
    let found = lora(&file, &["--stats"]);
    let words: Vec<&str> = found["contradictions"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert!(words[0].contains("layers_0_mlp_fc1.lora_down.weight lacks the other matrix"), "{words:?}");
    assert!(words[1].contains("[4, 768]") && words[1].contains("[3072, 8]"), "{words:?}");
    assert!(words[2].contains("NaN") && words[2].contains("layers_2_mlp_fc1.alpha"), "{words:?}");
    assert_eq!((&found["modules"], &found["other_tensors"]), (&json!(3), &json!(1)));
}

#[test]
fn reads_the_alphas_of_configurations() {
    let folder = Folder::new();
    let adapter = folder.join("adapter_model.safetensors");
    let select = ["--select", "lora_unet_*", "--lora-names", "peft"];
    run!["convert", fixture(KOHYA), "-o", &adapter, select[0], select[1], select[2], select[3]].done();
    let found = lora(&adapter, &[]);
    let of_kohya = lora(&fixture(KOHYA), &["--keys"]);
    let alphas = |found: &Value| {
        let scales = found["scales"].as_array().unwrap().iter();
        scales.map(|scale| scale["alpha"].as_f64()).collect::<Vec<_>>()
    };
    assert!(alphas(&found).iter().all(|alpha| alpha.is_some() && alphas(&of_kohya).contains(alpha)), "{found}");
    assert_eq!((&found["names"], &found["networks"][0]["network"]), (&json!("peft"), &json!("unet")));
    fs::remove_file(folder.join("adapter_config.json")).unwrap();
    assert!(alphas(&lora(&adapter, &[])).iter().all(Option::is_none));
}

#[test]
fn summarizes_loras_of_other_models() {
    let folder = Folder::new();
    let file = folder.join("flux.safetensors");
    let pair = |module: &str| {
        [(format!("{module}.lora_A.weight"), zeros(&[8, 3072])), (format!("{module}.lora_B.weight"), zeros(&[3072, 8]))]
    };
    let modules =
        ["transformer.transformer_blocks.0.attn.to_q", "transformer.single_transformer_blocks.37.attn.to_out.0"];
    save(&file, modules.into_iter().flat_map(pair));
    let found = lora(&file, &["--keys"]);
    assert_eq!(found["networks"], json!([{ "network": "diffusion-model", "modules": 2, "blocks": 2 }]));
    assert_eq!(found["targets"], json!({ "attn_to_out_0": 1, "attn_to_q": 1 }));
    let list = found["module_list"].as_array().unwrap();
    assert!(list.iter().all(|module| module["rank"] == 8 && module["alpha"].is_null()), "{found}");
}

/// OFT and BOFT have blocks of rotations under the same name; those of BOFT come in layers.
#[test]
fn tells_boft_from_oft() {
    let folder = Folder::new();
    let module = "lora_unet_mid_block_attentions_0_proj_in";
    for (name, dims, kind) in [("oft", &[4, 4, 4][..], "OFT"), ("boft", &[2, 4, 4, 4], "BOFT")] {
        let file = folder.join(&format!("{name}.safetensors"));
        save(&file, [(format!("{module}.oft_blocks"), zeros(dims)), (format!("{module}.alpha"), zeros(&[]))]);
        let found = lora(&file, &["--keys"]);
        assert_eq!(found["kinds"], json!({ kind: 1 }));
        assert_eq!((&found["module_list"][0]["kind"], &found["other_tensors"]), (&json!(kind), &json!(0)));
    }
}
