//! Folders of every kind of model: their configurations, shapes that no model has, and folders without a key layout.

use std::fs;
use std::path::Path;

use crate::support::narrow::Narrow;
use crate::support::{Folder, assert_rows, copy_folder, f32s, fixture, read, save};
use serde_json::{Value, json};
use trinart_ckpt::formats::tensor::Shape;
use trinart_ckpt::models::family::Architecture::{Sd1, Sd2, SdxlBase, Ssd1b, Vega};

const UNET: &str = "unet/config.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const BLOCK: &str = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0";

fn value(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn rejects_shapes_that_no_model_has() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out"));
    for (architecture, width, context) in [(Sd1, 20, 24), (Sd2, 20, 32), (SdxlBase, 20, 64), (Vega, 20, 64)] {
        let model = || Narrow::new(architecture);
        let key = |name: &str| format!("{BLOCK}.{name}");
        let mut cases = vec![
            (key("attn1.to_q.weight"), vec![width, 7], format!("expected [{width}, {width}]")),
            (key("attn2.to_v.weight"), vec![width, context + 1], format!("expected [{width}, {context}]")),
            (key("ff.net.0.proj.bias"), vec![width], format!("expected [{}]", 8 * width)),
            ("first_stage_model.decoder.mid.block_1.conv1.weight".into(), vec![16, 16, 1, 1], "[16, 16, 3, 3]".into()),
        ];
        if architecture == SdxlBase {
            let label = "model.diffusion_model.label_emb.0.0.weight";
            cases.push((label.into(), vec![40, 81], "the projection of the text encoder and 6 sizes".into()));
        }
        for (key, dims, expected) in cases {
            model().shaped(&key, &dims).save(&input, &[]);
            let found = format!("[{}", dims[0]);
            let run = run!["convert", &input, "-o", &output, "--to", "diffusers"];
            run.refused(&[&format!("in.safetensors: tensor {key}: "), &expected]);
            assert!(run.stderr.contains(&found) || key.contains("label_emb"), "{}", run.stderr);
            fs::remove_file(&input).unwrap();
        }
    }
    // The UNet of one model with the text encoder of another.
    let mut wide = Narrow::new(Sd1);
    for (key, tensor) in &mut wide.0 {
        if key.contains(".attn2.to_k.") || key.contains(".attn2.to_v.") {
            let rows = tensor.shape().dims()[0];
            *tensor = f32s(&vec![0.0; (rows * 30) as usize]).reshape(Shape::new([rows, 30]).unwrap()).unwrap();
        }
    }
    wide.save(&input, &[]);
    run!["convert", &input, "-o", &output, "--to", "diffusers"]
        .refused(&["30 columns, expected 24: the width of the text encoder"]);
}

#[test]
fn writes_the_configurations_of_distilled_models() {
    let folder = Folder::new();
    for (architecture, down, up) in [
        (Ssd1b, json!([1, [2, 2], [4, 4]]), json!([[4, 4, 10], [2, 1, 1], 1])),
        (Vega, json!([1, [1, 1], [2, 2]]), json!([[2, 2, 2], [1, 1, 1], 1])),
    ] {
        let (input, output) = (folder.join("in.safetensors"), folder.join(architecture.name()));
        Narrow::new(architecture).save(&input, &[]);
        run!["convert", &input, "-o", &output, "--to", "diffusers"].done();
        let config = value(&output.join(UNET));
        assert_eq!(
            (&config["transformer_layers_per_block"], &config["reverse_transformer_layers_per_block"]),
            (&down, &up)
        );
        assert_eq!(
            (&config["mid_block_type"], &config["addition_time_embed_dim"]),
            (&json!("UNetMidBlock2D"), &json!(8))
        );
        assert_eq!(value(&output.join("model_index.json"))["_class_name"], "StableDiffusionXLPipeline");
        run!["diff", &input, &output].done();
        fs::remove_file(&input).unwrap();
    }
}

#[test]
fn writes_the_folder_of_sd_turbo() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out"));
    let turbo = Narrow::new(Sd2).deviation(0.02).renamed("cond_stage_model.model.", "conditioner.embedders.0.model.");
    turbo.save(&input, &[]);
    run!["convert", &input, "-o", &output, "--to", "diffusers"].done();
    assert!(output.join("text_encoder/model.safetensors").exists());
    let config = value(&output.join(SCHEDULER));
    assert_eq!(
        (&config["_class_name"], &config["timestep_spacing"]),
        (&json!("EulerDiscreteScheduler"), &json!("trailing"))
    );
}

#[test]
fn carries_the_configurations_of_a_folder_through_a_file() {
    let folder = Folder::new();
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    let set = |path: &str, field: &str, new: Value| {
        let mut config = value(&input.join(path));
        config[field] = new;
        fs::write(input.join(path), config.to_string()).unwrap();
    };
    set(SCHEDULER, "_class_name", json!("DPMSolverMultistepScheduler"));
    set(SCHEDULER, "use_karras_sigmas", json!(true));
    set("model_index.json", "_class_name", json!("StableDiffusionImg2ImgPipeline"));
    set("model_index.json", "scheduler", json!(["diffusers", "DPMSolverMultistepScheduler"]));
    for extension in ["safetensors", "ckpt"] {
        let (file, back) = (folder.join(&format!("file.{extension}")), folder.join(extension));
        run!["convert", &input, "-o", &file].done();
        run!["convert", &file, "-o", &back, "--to", "diffusers"].done();
        for path in [SCHEDULER, UNET, "vae/config.json", "text_encoder/config.json"] {
            let (found, mut expected) = (value(&back.join(path)), value(&input.join(path)));
            expected.as_object_mut().unwrap().remove("_name_or_path");
            assert_eq!(found, expected, "{path}");
        }
        let index = value(&back.join("model_index.json"));
        assert_eq!(index["_class_name"], "StableDiffusionImg2ImgPipeline");
        assert_eq!(index["scheduler"][1], "DPMSolverMultistepScheduler");
        // A request counts more than the record.
        run!["convert", &file, "-o", &back, "--to", "diffusers", "--prediction", "v", "--force"].done();
        assert_eq!(value(&back.join(SCHEDULER))["prediction_type"], "v_prediction");
    }
}

#[test]
fn keeps_a_folder_without_a_key_layout() {
    let folder = Folder::new();
    let input = copy_folder(&fixture("diffusers/sd1"), &folder.join("in"));
    fs::remove_dir_all(input.join("unet")).unwrap();
    fs::create_dir(input.join("transformer")).unwrap();
    fs::write(input.join("transformer/config.json"), "{\"_class_name\": \"FluxTransformer2DModel\"}").unwrap();
    let weights = "transformer/diffusion_pytorch_model.safetensors";
    save(&input.join(weights), vec![("proj_out.weight".into(), f32s(&[1.0, 2.0]))]);
    let mut index = value(&input.join("model_index.json"));
    index["unet"] = json!([null, null]);
    index["transformer"] = json!(["diffusers", "FluxTransformer2DModel"]);
    fs::write(input.join("model_index.json"), index.to_string()).unwrap();
    let output = folder.join("out");
    run!["convert", &input, "-o", &output, "--to", "diffusers"].done();
    for path in ["model_index.json", "transformer/config.json", "vae/config.json"] {
        assert_eq!(fs::read(output.join(path)).unwrap(), fs::read(input.join(path)).unwrap(), "{path}");
    }
    assert_rows(&read(&output.join(weights)), &read(&input.join(weights)));
    run!["diff", &input, &output].done();
    run!["convert", &input, "-o", &output, "--to", "diffusers", "--dtype", "bf16", "--force"].done();
    assert_eq!(read(&output.join(weights))[0].1, "BF16");
    run!["convert", &input, "-o", folder.join("out.safetensors")].refused(&["in: ", "transformer", "folder"]);
}

#[test]
fn keeps_a_folder_of_a_depth_model_and_names_what_a_file_lacks_for_one() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    Narrow::new(Sd2).deviation(0.02).channels(5).save(&input, &[]);
    let output = folder.join("out");
    run!["convert", &input, "-o", &output, "--to", "diffusers"].refused(&["in.safetensors", "depth_estimator"]);
    // A folder that has all its parts, with the index of a pipeline for depth.
    let text_to_image = folder.join("4.safetensors");
    Narrow::new(Sd2).deviation(0.02).save(&text_to_image, &[]);
    let from = folder.join("from");
    run!["convert", &text_to_image, "-o", &from, "--to", "diffusers"].done();
    let weights = from.join("unet/diffusion_pytorch_model.safetensors");
    let original = folder.join("unet.safetensors");
    fs::rename(&weights, &original).unwrap();
    let unet = crate::support::tensors(&original).into_iter().map(|(key, tensor)| match key.as_str() {
        "conv_in.weight" => (key, f32s(&[0.5; 10 * 5 * 9]).reshape(Shape::new([10, 5, 3, 3]).unwrap()).unwrap()),
        _ => (key, tensor),
    });
    let unet: Vec<_> = unet.collect();
    save(&weights, unet);
    let mut index = value(&from.join("model_index.json"));
    index["_class_name"] = json!("StableDiffusionDepth2ImgPipeline");
    index["depth_estimator"] = json!(["transformers", "DPTForDepthEstimation"]);
    fs::write(from.join("model_index.json"), index.to_string()).unwrap();
    fs::create_dir(from.join("depth_estimator")).unwrap();
    fs::write(from.join("depth_estimator/config.json"), "{}").unwrap();
    save(&from.join("depth_estimator/model.safetensors"), vec![("a".into(), f32s(&[1.0]))]);
    run!["convert", &from, "-o", &output, "--to", "diffusers", "--dtype", "f16"].done();
    let part = "depth_estimator/model.safetensors";
    assert_eq!(fs::read(output.join(part)).unwrap(), fs::read(from.join(part)).unwrap());
    assert_eq!(value(&output.join("model_index.json")), index);
}

#[test]
fn names_what_a_file_of_unclip_lacks() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    Narrow::new(Sd2).with("embedder.model.ln_final.weight", f32s(&[1.0])).save(&input, &[]);
    run!["convert", &input, "-o", folder.join("out"), "--to", "diffusers"].refused(&["image_encoder"]);
}
