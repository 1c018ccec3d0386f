//! Stable Video Diffusion: between a single file and a folder, and put together from components.

use std::fs;
use std::path::Path;

use crate::support::narrow::{Narrow, filled};
use crate::support::{Folder, Row, read};
use serde_json::{Value, json};
use trinart_ckpt::models::family::Architecture::{Sd1, StableVideo};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const FIRST_FRAME: &str = "conditioner.embedders.3.encoder.";
const IMAGE: &str = "conditioner.embedders.0.open_clip.model.";

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The rows of the keys that begin with a prefix, sorted, without it.
fn under(path: &Path, prefix: &str) -> Vec<Row> {
    let bare = |row: Row| Some((row.0.strip_prefix(prefix)?.to_owned(), row.1, row.2, row.3));
    let mut rows: Vec<Row> = read(path).into_iter().filter_map(bare).collect();
    rows.sort();
    rows
}

fn of_encoder(mut rows: Vec<Row>) -> Vec<Row> {
    rows.retain(|row| row.0.starts_with("encoder."));
    rows
}

#[test]
fn writes_a_folder_with_the_encoder_of_the_first_frame() {
    let folder = Folder::new();
    let (input, output, back) = (folder.join("svd.safetensors"), folder.join("out"), folder.join("back.safetensors"));
    // Another encoder than that of the first frame, to tell them apart.
    let mut model = Narrow::new(StableVideo);
    for (key, tensor) in &mut model.0 {
        if key.starts_with("first_stage_model.encoder.") && key.ends_with("conv1.bias") {
            *tensor = crate::support::f32s(&vec![3.0; tensor.shape().elements() as usize]);
        }
    }
    model.save(&input, &[]);
    let report = run!["convert", &input, "-o", &output, "--to", "diffusers", "--json"].json();
    let codes: Vec<_> = report["notices"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
    assert_eq!(codes, ["frames-assumed"]);
    let dropped = |reason: &str| {
        let lines = report["ledger"].as_array().unwrap();
        lines.iter().filter(|line| line["reason"] == reason).count()
    };
    // The encoder of videos; the decoder of the first frame with its `post_quant_conv`.
    let encoder = of_encoder(under(&input, VAE));
    let rest = under(&input, FIRST_FRAME).len() - encoder.len() - 2;
    assert_eq!(dropped("second-autoencoder"), encoder.len() + rest);
    assert_eq!(dropped("unused-by-text-encoder"), 6);
    let index = json_of(&output.join("model_index.json"));
    assert_eq!(index["_class_name"], "StableVideoDiffusionPipeline");
    assert_eq!(index["image_encoder"], json!(["transformers", "CLIPVisionModelWithProjection"]));
    let scheduler = json_of(&output.join("scheduler/scheduler_config.json"));
    let found = ["prediction_type", "sigma_max", "sigma_min", "timestep_type", "use_karras_sigmas", "timestep_spacing"];
    let found = found.map(|field| scheduler[field].clone());
    assert_eq!(json!(found), json!(["v_prediction", 700.0, 0.002, "continuous", true, "leading"]));
    let extractor = json_of(&output.join("feature_extractor/preprocessor_config.json"));
    assert_eq!(extractor["image_processor_type"], "CLIPImageProcessor");
    run!["inspect", &output].done();
    // The file has both autoencoders again, and the folder the same bytes.
    run!["convert", &output, "-o", &back].done();
    assert_eq!(of_encoder(under(&back, FIRST_FRAME)), of_encoder(under(&input, FIRST_FRAME)));
    for prefix in [UNET, "first_stage_model.decoder.", "conditioner.embedders.0.open_clip.model.visual."] {
        assert_eq!(under(&back, prefix), under(&input, prefix), "{prefix}");
    }
    assert_eq!(of_encoder(under(&back, VAE)).len(), encoder.len());
    assert!(under(&back, VAE).iter().all(|row| !row.0.contains("quant_conv")));
    let again = folder.join("again");
    run!["convert", &back, "-o", &again, "--to", "diffusers"].done();
    for part in ["unet", "vae", "image_encoder"] {
        let name = if part == "image_encoder" { "model" } else { "diffusion_pytorch_model" };
        let path = format!("{part}/{name}.safetensors");
        assert_eq!(fs::read(again.join(&path)).unwrap(), fs::read(output.join(&path)).unwrap(), "{part}");
    }
    run!["diff", &output, &again].done();
}

#[test]
fn a_file_without_the_autoencoder_of_the_first_frame_becomes_a_folder() {
    let folder = Folder::new();
    let (input, output) = (folder.join("svd.safetensors"), folder.join("out"));
    let mut model = Narrow::new(StableVideo);
    model.0.retain(|(key, _)| !key.starts_with(FIRST_FRAME));
    model.save(&input, &[]);
    let found = run!["inspect", &input, "--json"].json();
    let components = found["files"][0]["components"].as_array().unwrap().clone();
    for component in &components {
        assert_eq!((&component["missing"], &component["extra"]), (&json!([]), &json!([])), "{component}");
    }
    run!["convert", &input, "-o", &output, "--to", "diffusers"].done();
    let vae = crate::support::tensors(&output.join("vae/diffusion_pytorch_model.safetensors"));
    let values = |key: &str| {
        let (_, tensor) = vae.iter().find(|(name, _)| name == key).unwrap();
        let bytes = tensor.clone().to_bytes().unwrap();
        let halves: Vec<u16> = bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
        (tensor.shape().dims().to_vec(), halves)
    };
    let alone = folder.join("vae");
    run!["convert", &input, "-o", &alone, "--to", "diffusers", "--component", "vae"].done();
    let weights = "diffusion_pytorch_model.safetensors";
    assert_eq!(read(&alone.join(weights)), read(&output.join("vae").join(weights)));
    const ONE: u16 = 0x3c00;
    let identity: Vec<u16> = (0..64).map(|index| if index % 9 == 0 { ONE } else { 0 }).collect();
    assert_eq!(values("quant_conv.weight"), (vec![8, 8, 1, 1], identity));
    assert_eq!(values("quant_conv.bias"), (vec![8], vec![0; 8]));
}

#[test]
fn puts_a_video_model_together_from_components() {
    let folder = Folder::new();
    let (whole, pipeline) = (folder.join("svd.safetensors"), folder.join("pipeline"));
    Narrow::new(StableVideo).save(&whole, &[]);
    run!["convert", &whole, "-o", &pipeline, "--to", "diffusers"].done();
    let extracted = |component: &str, input: &Path, name: &str| {
        let path = folder.join(name);
        run!["convert", input, "-o", &path, "--component", component].done();
        path
    };
    let alone = ["unet", "vae", "image-encoder"].map(|it| extracted(it, &whole, &format!("{it}.safetensors")));
    let of_folder = ["unet", "vae", "image-encoder"].map(|it| extracted(it, &pipeline, &format!("{it}-2.safetensors")));
    let parts = ["unet", "vae", "image_encoder"].map(|it| pipeline.join(it));
    let whole_twice = [&whole, &whole, &whole].map(Clone::clone);
    for (index, sources) in [alone, of_folder, parts.clone(), whole_twice].into_iter().enumerate() {
        let [unet, vae, image] = sources.map(|path| path.display().to_string());
        let options = [format!("unet={unet}"), format!("vae={vae}"), format!("image-encoder={image}")];
        let [unet, vae, image] = options;
        let output = folder.join(&format!("out-{index}.safetensors"));
        run!["convert", "--replace", &unet, "--replace", &vae, "--replace", &image, "-o", &output].done();
        for prefix in [UNET, "first_stage_model.decoder.", "conditioner.embedders.0.open_clip.model.visual."] {
            assert_eq!(under(&output, prefix), under(&whole, prefix), "{index} {prefix}");
        }
        let found = folder.join(&format!("folder-{index}"));
        run!["convert", "--replace", &unet, "--replace", &vae, "--replace", &image, "-o", &found, "--to", "diffusers"]
            .done();
        let weights = |folder: &Path| read(&folder.join("unet/diffusion_pytorch_model.safetensors"));
        assert_eq!(weights(&found), weights(&pipeline), "{index}");
        assert!(found.join("feature_extractor/preprocessor_config.json").exists());
    }
    // In place of those of a checkpoint.
    let output = folder.join("replaced.safetensors");
    let vae = format!("vae={}", parts[1].display());
    run!["convert", &whole, "--replace", &vae, "-o", &output].done();
    assert_eq!(under(&output, IMAGE), under(&whole, IMAGE));
    assert_eq!(of_encoder(under(&output, FIRST_FRAME)), of_encoder(under(&whole, FIRST_FRAME)));
    assert_eq!(under(&output, FIRST_FRAME).len(), of_encoder(under(&output, FIRST_FRAME)).len() + 2);
}

#[test]
fn names_what_a_video_model_lacks_or_has_not() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let (whole, sd) =
        (Narrow::new(StableVideo).saved(&folder, "svd.safetensors"), Narrow::new(Sd1).saved(&folder, "sd.safetensors"));
    let option = |component: &str, file: &Path| format!("{component}={}", file.display());
    let unet = option("unet", &whole);
    run!["convert", "--replace", &unet, "-o", &output].refused(&["no file for the VAE", "Stable Video Diffusion"]);
    let text = option("text-encoder", &sd);
    run!["convert", &whole, "--replace", text, "-o", &output].refused(&["no text encoder, but an image encoder"]);
    let image = option("image-encoder", &whole);
    run!["convert", &sd, "--replace", image, "-o", &output].refused(&["SD v1 has no image encoder"]);
    let vae = option("vae", &sd);
    run!["convert", &whole, "--replace", vae, "-o", &output]
        .refused(&["sd.safetensors", "the VAE of Stable Video Diffusion has no such tensor"]);
    // Another width of the image encoder, and a decoder of single pictures.
    let input = folder.join("in.safetensors");
    let to_folder = || run!["convert", &input, "-o", folder.join("out"), "--to", "diffusers"];
    Narrow::new(StableVideo).shaped(&format!("{IMAGE}visual.proj"), &[40, 7]).save(&input, &[]);
    to_folder().refused(&["expected 7: the projection of the image encoder"]);
    fs::remove_file(&input).unwrap();
    let mut pictures = Narrow::new(StableVideo);
    pictures.0.retain(|(key, _)| !(key.starts_with(VAE) && (key.contains("time_") || key.contains("mix_factor"))));
    pictures.save(&input, &[]);
    to_folder().refused(&["first_stage_model.decoder.", "missing; the vae of a folder needs it"]);
    fs::remove_file(&input).unwrap();
}

/// Of Stable Video 3D, diffusers has no pipeline: one model takes pictures from a given height, one from any.
#[test]
fn copies_stable_video_3d_and_makes_no_folder_of_it() {
    let folder = Folder::new();
    for (name, label) in [("sv3d_u.safetensors", 256), ("sv3d_p.safetensors", 1280)] {
        let (input, output) = (folder.join(name), folder.join(&format!("{name}.ckpt")));
        let mut model = Narrow::new(StableVideo);
        for (key, tensor) in &mut model.0 {
            *key = key.replace("conditioner.embedders.3.", "conditioner.embedders.1.");
            if key.ends_with("label_emb.0.0.weight") {
                *tensor = filled(&[40, label]);
            }
        }
        model.save(&input, &[]);
        let found = run!["inspect", &input, "--json"].json()["files"][0].clone();
        assert_eq!((&found["kind"], &found["model"]), (&json!("checkpoint-other"), &json!("sv3d")), "{name}");
        run!["convert", &input, "-o", folder.join("out"), "--to", "diffusers"].refused(&["Stable Video 3D"]);
        let report = run!["convert", &input, "-o", &output, "--json"].json();
        assert_eq!(report["notices"], json!([]), "{name}");
    }
}

#[test]
fn copies_to_another_file_note_nothing() {
    let folder = Folder::new();
    let (input, output) = (folder.join("svd.safetensors"), folder.join("svd.ckpt"));
    Narrow::new(StableVideo).save(&input, &[]);
    for dtype in ["f32", "bf16"] {
        let report = run!["convert", &input, "-o", &output, "--dtype", dtype, "--force", "--json"].json();
        assert_eq!(report["notices"], json!([]), "{dtype}");
    }
}

#[test]
fn suggests_to_swap_only_files_that_fit_the_other_way() {
    let folder = Folder::new();
    let vae = folder.join("vae.safetensors");
    let (video, sd) =
        (Narrow::new(StableVideo).saved(&folder, "svd.safetensors"), Narrow::new(Sd1).saved(&folder, "sd.safetensors"));
    run!["convert", &sd, "-o", &vae, "--component", "vae"].done();
    let tip = |base: &Path, vae: &Path| {
        let ran = run!["merge-vae", base, "--vae", vae, "-o", folder.join("out.safetensors")];
        ran.refused(&["expected a checkpoint with a Stable Diffusion UNet"]);
        ran.stderr.contains("swap the two")
    };
    assert!(tip(&vae, &sd));
    assert!(!tip(&video, &sd));
    assert!(!tip(&video, &vae));
}
