//! Compares narrow diffusers folders that are unlike published models with diffusers, transformers and k-diffusion.
//! `fixtures/render/make_folders.py` generates the configurations, the shapes and the references.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::tiny::{fixture, owned};
use candle_core::{DType, Device};
use serde_json::Value;
use tempfile::TempDir;
use trinart_ckpt_formats::containers::{self, Target, WriteOptions};
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::{Metadata, Result, StoredCheckpoint};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_render::checks::relative_distance;
use trinart_ckpt_render::job::{Device as JobDevice, RenderInput, RenderJob, RenderReport};
use trinart_ckpt_render::picture::{Picture, compare};
use trinart_ckpt_render::sampling::NoiseSource;
use trinart_ckpt_render::settings::RenderOptions;
use trinart_ckpt_render::weights::tensor;

fn configurations(name: &str) -> Value {
    let text = fs::read_to_string(fixture("folders.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[name].clone()
}

/// Writes a folder with these configurations, and the weights of its keys.
fn write(path: &Path, components: &Value) {
    let mut index = serde_json::Map::new();
    for (component, content) in components.as_object().unwrap() {
        let folder = path.join(component);
        fs::create_dir_all(&folder).unwrap();
        index.insert(component.clone(), serde_json::json!(["library", "class"]));
        let config = if component == "scheduler" { "scheduler_config.json" } else { "config.json" };
        fs::write(folder.join(config), content["config"].to_string()).unwrap();
        let mut state_dict = StateDict::new();
        for (key, shape) in content["shapes"].as_object().unwrap() {
            let shape: Vec<u64> = serde_json::from_value(shape.clone()).unwrap();
            state_dict.insert(&**key, owned(&format!("{component}/{key}"), &shape)).unwrap();
        }
        let stem = if component.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
        if component != "scheduler" {
            let file = folder.join(format!("{stem}.safetensors"));
            containers::write(&file, Target::Safetensors, &state_dict, &Metadata::new(), &WriteOptions::default())
                .unwrap();
        }
    }
    fs::write(path.join("model_index.json"), Value::Object(index).to_string()).unwrap();
}

fn render(components: &Value) -> Result<RenderReport> {
    let folder = TempDir::new().unwrap();
    write(folder.path(), components);
    let checkpoint = Checkpoint::open(folder.path())?;
    let input = RenderInput::new(folder.path(), Arc::new(checkpoint.to_render()?.into_owned()))
        .with_parameterization(checkpoint.parameterization()?)
        .with_hyperparameters(checkpoint.hyperparameters()?);
    let options =
        RenderOptions::default().prompt("1girl, cathedral, looking at viewer").negative("bad hands").seed(1234);
    let options = options.sampler("Euler").schedule("Karras").rng(NoiseSource::Cpu).size((64, 64));
    RenderJob::new(input).options(options).device(JobDevice::Cpu).jobs(1).dump(true).run(&NoProgress)
}

fn values(state_dict: &StateDict, key: &str) -> Vec<f32> {
    let lazy = state_dict.get(key).unwrap_or_else(|| panic!("no {key}"));
    tensor(lazy, DType::F32, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn renders_folders_by_their_configurations_and_keys() {
    let references = StoredCheckpoint::open(fixture("folders.safetensors")).unwrap().state_dict().clone();
    for name in ["unusual", "small", "narrow-xl"] {
        let found = render(&configurations(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let dump = found.dump.unwrap();
        for (ours, stage, tolerance) in [("text.prompt.0", "context", 1e-5), ("latent", "latent", 1e-3)] {
            let expected = values(&references, &format!("{name}/{stage}"));
            let relative = relative_distance(&expected, &values(&dump, ours));
            println!("{name}/{stage}: {relative:.2e}");
            assert!(relative < tolerance, "{name}/{stage}: {relative:.2e}");
        }
        let lazy = references.get(&format!("{name}/picture")).unwrap();
        let rgb = tensor(lazy, DType::U8, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let comparison = compare(&found.picture, &Picture { width: 64, height: 64, rgb }).unwrap();
        println!("{name}: {comparison:?}");
        let is_close = comparison.max_difference <= 1 && comparison.psnr.is_none_or(|psnr| psnr > 60.0);
        assert!(is_close, "{name}: {comparison:?}");
    }
}

#[test]
fn refuses_configurations_of_other_networks_by_their_fields() {
    let cases = [
        ("unet", "norm_eps", Value::from(1e-3), "unet/config.json: norm_eps is 0.001, expected 0.00001"),
        ("unet", "act_fn", "gelu".into(), "unet/config.json: act_fn is \"gelu\", expected \"silu\""),
        ("unet", "flip_sin_to_cos", false.into(), "flip_sin_to_cos is false, expected true"),
        ("unet", "attention_head_dim", 0.into(), "attention_head_dim is 0, expected positive numbers"),
        ("vae", "norm_num_groups", (-1).into(), "vae/config.json: norm_num_groups is -1, expected a positive number"),
        ("text_encoder", "hidden_act", "relu".into(), "hidden_act is \"relu\", expected \"quick_gelu\" or \"gelu\""),
        ("scheduler", "beta_schedule", "squaredcos_cap_v2".into(), "beta_schedule is \"squaredcos_cap_v2\""),
        ("scheduler", "num_train_timesteps", 500.into(), "num_train_timesteps is 500, expected 1000"),
    ];
    for (component, field, value, expected) in cases {
        let mut components = configurations("small");
        components[component]["config"][field] = value;
        let error = render(&components).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn refuses_a_folder_with_a_tensor_that_stable_diffusion_lacks() {
    let mut components = configurations("small");
    components["unet"]["shapes"]["down_blocks.0.motion_modules.0.norm.weight"] = serde_json::json!([32]);
    let error = render(&components).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("down_blocks.0.motion_modules.0.norm.weight: cannot be rendered"), "{error}");
}

#[test]
fn a_folder_with_other_blocks_than_published_models_gets_no_names_for_a_single_file() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &configurations("small"));
    let error = Checkpoint::open(folder.path()).unwrap().require_ldm_names().unwrap_err().to_string();
    assert!(error.contains("other numbers of residual blocks than SD v1"), "{error}");
}

#[test]
fn refuses_a_vae_with_another_number_of_latent_channels_by_name() {
    for channels in [3, 8, 16] {
        let mut components = configurations("small");
        let shapes = components["vae"]["shapes"].as_object_mut().unwrap();
        for (key, dims) in [
            ("decoder.conv_in.weight", vec![32, channels, 3, 3]),
            ("encoder.conv_out.weight", vec![2 * channels, 32, 3, 3]),
            ("encoder.conv_out.bias", vec![2 * channels]),
            ("quant_conv.weight", vec![2 * channels, 2 * channels, 1, 1]),
            ("quant_conv.bias", vec![2 * channels]),
            ("post_quant_conv.weight", vec![channels, channels, 1, 1]),
            ("post_quant_conv.bias", vec![channels]),
        ] {
            shapes.insert(key.to_owned(), dims.into());
        }
        let error = render(&components).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("its latents have {channels} channels, expected 4")), "{error}");
    }
}

#[test]
fn a_lost_middle_block_is_an_error_unless_the_configuration_has_none() {
    let mut components = configurations("small");
    components["unet"]["config"]["mid_block_type"] = "UNetMidBlock2DCrossAttn".into();
    let error = render(&components).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("middle_block.0.in_layers.0.weight: required by the model"), "{error}");
}
