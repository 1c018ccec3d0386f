//! `--component` and the dtypes of components on files that have a single network, under names without a prefix.

use std::path::Path;

use trinart_ckpt::formats::tensor::LazyTensor;

use crate::support::{Folder, assert_rows, expected, fixture, read, save, tensors};

const UNET: &str = "model.diffusion_model.";

#[test]
fn a_text_encoder_in_the_names_of_transformers_becomes_a_folder() {
    use crate::support::narrow::Narrow;
    use trinart_ckpt::models::family::Architecture;
    let folder = Folder::new();
    let (whole, pipeline) = (folder.join("whole.safetensors"), folder.join("pipeline"));
    Narrow::new(Architecture::Ssd1b).save(&whole, &[]);
    run!["convert", &whole, "-o", &pipeline, "--to", "diffusers"].done();
    for part in ["text_encoder", "text_encoder_2"] {
        let weights = pipeline.join(part).join("model.safetensors");
        let alone = folder.join(&format!("{part}.safetensors"));
        std::fs::copy(&weights, &alone).unwrap();
        let output = folder.join(&format!("{part}-folder"));
        let report = run!["convert", &alone, "-o", &output, "--to", "diffusers", "--json"].json();
        assert_eq!(crate::support::read(&output.join("model.safetensors")), crate::support::read(&weights), "{part}");
        let lines = report["ledger"].as_array().unwrap();
        assert!(lines.iter().all(|line| line["outcome"] == "written"), "{part}");
    }
}

#[test]
fn a_vae_in_diffusers_names_gets_the_keys_and_shapes_that_webui_loads() {
    let folder = Folder::new();
    let original = fixture("diffusers/sd1/vae/diffusion_pytorch_model.safetensors");
    let whole = folder.join("whole.safetensors");
    run!["convert", fixture("diffusers/sd1"), "-o", &whole, "--component", "vae"].done();
    for prefix in ["", "vae.", "first_stage_model."] {
        let (input, output) = (folder.join("in.safetensors"), folder.join(&format!("out-{prefix}.safetensors")));
        save(&input, tensors(&original).into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)));
        run!["convert", &input, "-o", &output, "--component", "vae"].done();
        let sorted = |path| {
            let mut rows = read(path);
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows
        };
        assert_rows(&sorted(&output), &sorted(&whole));
        assert_eq!(read(&output).len(), 248);
        std::fs::remove_file(input).unwrap();
    }
}

#[test]
fn a_unet_or_text_encoder_alone_is_that_component() {
    let folder = Folder::new();
    let bare = folder.join("bare.safetensors");
    let all = tensors(&fixture("tiny-sd1.safetensors")).into_iter();
    save(&bare, all.filter_map(|(key, tensor)| Some((key.strip_prefix(UNET)?.to_owned(), tensor))));
    let unet = fixture("diffusers/sd1/unet/diffusion_pytorch_model.safetensors");
    let clip = fixture("diffusers/sd1/text_encoder/model.safetensors");
    let files = [(bare, "unet", "text-encoder"), (unet, "unet", "vae"), (clip, "text-encoder", "vae")];
    for (index, (input, own, other)) in files.iter().enumerate() {
        let cast = folder.join(&format!("{index}-cast.safetensors"));
        run!["convert", input, "-o", &cast, &format!("--{own}-dtype"), "bf16"].done();
        assert!(read(&cast).iter().all(|row| row.1 == "BF16"), "{own}");
        let kept = folder.join(&format!("{index}-kept.safetensors"));
        let report = run!["convert", input, "-o", &kept, &format!("--{other}-dtype"), "bf16"].done();
        assert!(report.contains("to cast"), "{report}");
        assert_rows(&read(&kept), &read(input));
        let left = folder.join(&format!("{index}-left.safetensors"));
        run!["convert", input, "-o", &left, "--component", other].refused(&["to extract; the file is:"]);
        let report = run!["inspect", input].done();
        assert!(!report.contains("MISSING") && !report.contains("  VAE") && !report.contains("  other"), "{report}");
    }
}

/// Removes or replaces the start of each key.
fn respelled(rows: &[(String, LazyTensor)], from: &str, to: &str) -> Vec<(String, LazyTensor)> {
    let bare = |key: &str| key.strip_prefix(from).map(|bare| format!("{to}{bare}"));
    rows.iter().filter_map(|(key, tensor)| Some((bare(key)?, tensor.clone()))).collect()
}

#[test]
fn every_spelling_of_a_network_is_the_same() {
    let folder = Folder::new();
    let (part, whole) = (folder.join("part.safetensors"), folder.join("whole.safetensors"));
    let source = fixture("diffusers/sd1");
    run!["convert", &source, "-o", &whole].done();
    let all = tensors(&whole);
    let of = |name: &str| tensors(&source.join(name));
    let clip = of("text_encoder/model.safetensors");
    let long = respelled(&clip, "", "text_model.");
    let unet = of("unet/diffusion_pytorch_model.safetensors");
    let cases = [
        (
            "unet",
            UNET,
            vec![
                respelled(&all, UNET, ""),
                respelled(&all, UNET, "module."),
                respelled(&all, UNET, "module.model.diffusion_model."),
                respelled(&all, UNET, "diffusion_model."),
                respelled(&unet, "", "unet."),
                respelled(&unet, "", "model."),
                unet,
            ],
        ),
        (
            "text-encoder",
            "cond_stage_model.",
            vec![
                respelled(&all, "cond_stage_model.transformer.", ""),
                respelled(&all, "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
                respelled(&all, "cond_stage_model.transformer.", "clip_l.transformer."),
                respelled(&clip, "", "text_encoder."),
                respelled(&long, "", "module."),
                long,
                clip,
            ],
        ),
    ];
    for (component, prefix, spellings) in cases {
        let twin = folder.join(&format!("{component}.safetensors"));
        save(&twin, all.iter().filter(|(key, _)| key.starts_with(prefix)).cloned());
        let sorted = |path: &Path| {
            let mut rows = read(path);
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows
        };
        let hash = |path: &Path| run!["hash", path, "--json"].json()["components"][component].clone();
        for (index, spelling) in spellings.into_iter().enumerate() {
            let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
            save(&input, spelling);
            run!["convert", &input, "-o", &output, "--component", component, "--force"].done();
            assert_rows(&sorted(&output), &sorted(&twin));
            assert_eq!(hash(&input), hash(&twin), "{component} {index}");
            run!["diff", &input, &twin].done();
            run!["diff", &twin, &input].done();
            std::fs::remove_file(&input).unwrap();
        }
        run!["convert", &whole, "-o", &part, "--component", component, "--force"].done();
        assert_rows(&sorted(&part), &sorted(&twin));
    }
}

#[test]
fn a_vae_file_has_its_old_rows() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    run!["convert", fixture("tiny-vae.vae.pt"), "-o", &output, "--component", "vae"].done();
    assert_rows(&read(&output), &expected("tiny-vae.vae.pt"));
}

#[test]
fn refuses_a_text_encoder_in_two_spellings() {
    let folder = Folder::new();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    let all = tensors(&fixture("tiny-sd1.safetensors"));
    let twice = respelled(&all, "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.");
    save(&input, all.into_iter().chain(twice));
    run!["convert", &input, "-o", &output, "--component", "text-encoder"].refused(&["in.safetensors", "two spellings"]);
}

/// A UNet with other layers between those of Stable Diffusion stays whole: without them it would be another model.
#[test]
fn other_unets_are_neither_thinned_nor_renamed() {
    use crate::support::narrow::Narrow;
    use trinart_ckpt::models::family::Architecture;
    let folder = Folder::new();
    let (whole, pipeline) = (folder.join("whole.safetensors"), folder.join("pipeline"));
    Narrow::new(Architecture::Sd1).save(&whole, &[]);
    run!["convert", &whole, "-o", &pipeline, "--to", "diffusers"].done();
    let unet = tensors(&pipeline.join("unet/diffusion_pytorch_model.safetensors"));
    for (added, prefix) in
        [("down_blocks.0.temp_convs.0.conv1.0.weight", ""), ("down_blocks.0.motion_modules.0.norm.weight", "unet.")]
    {
        let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
        let more = (added.to_owned(), crate::support::f32s(&[1.0; 8]));
        save(&input, unet.iter().cloned().chain([more]).map(|(key, tensor)| (format!("{prefix}{key}"), tensor)));
        let _ = std::fs::remove_file(&output);
        let ran = run!["convert", &input, "-o", &output, "--component", "unet"];
        if ran.code == Some(0) {
            assert_eq!(read(&output).len(), unet.len() + 1, "{added}");
        } else {
            assert!(!output.exists());
        }
        run!["convert", &input, "-o", folder.join("folder"), "--to", "diffusers"]
            .refused(&["a folder cannot hold this file"]);
        std::fs::remove_file(&input).unwrap();
    }
}

/// The tensors of a narrow image encoder in names of transformers.
fn image_encoder(layers: usize) -> Vec<(String, LazyTensor)> {
    use crate::support::narrow::filled;
    let embeddings = "vision_model.embeddings";
    let mut all = vec![
        (format!("{embeddings}.class_embedding"), filled(&[16])),
        (format!("{embeddings}.patch_embedding.weight"), filled(&[16, 3, 14, 14])),
        (format!("{embeddings}.position_embedding.weight"), filled(&[5, 16])),
        (format!("{embeddings}.position_ids"), filled(&[1, 5])),
        ("visual_projection.weight".to_owned(), filled(&[8, 16])),
    ];
    let mut layer = |name: String, dims: &[u64]| {
        all.push((format!("vision_model.{name}.weight"), filled(dims)));
        all.push((format!("vision_model.{name}.bias"), filled(&dims[..1])));
    };
    layer("pre_layrnorm".to_owned(), &[16]);
    layer("post_layernorm".to_owned(), &[16]);
    for number in 0..layers {
        for norm in ["layer_norm1", "layer_norm2"] {
            layer(format!("encoder.layers.{number}.{norm}"), &[16]);
        }
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            layer(format!("encoder.layers.{number}.self_attn.{name}"), &[16, 16]);
        }
        layer(format!("encoder.layers.{number}.mlp.fc1"), &[32, 16]);
        layer(format!("encoder.layers.{number}.mlp.fc2"), &[16, 32]);
    }
    all
}

#[test]
fn an_image_encoder_alone_becomes_a_folder() {
    let folder = Folder::new();
    for (layers, activation, codes) in
        [(24, "quick_gelu", &["activation-assumed"][..]), (32, "gelu", &[]), (48, "gelu", &[])]
    {
        let (input, output) = (folder.join(&format!("{layers}.safetensors")), folder.join(&format!("{layers}")));
        save(&input, image_encoder(layers));
        let report = run!["convert", &input, "-o", &output, "--to", "diffusers", "--json"].json();
        let found: Vec<&str> =
            report["notices"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect();
        assert_eq!(found, codes, "{layers}");
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(output.join("config.json")).unwrap()).unwrap();
        let fields =
            ["hidden_act", "num_hidden_layers", "hidden_size", "image_size", "intermediate_size", "projection_dim"];
        let found = fields.map(|field| config[field].clone());
        assert_eq!(serde_json::json!(found), serde_json::json!([activation, layers, 16, 28, 32, 8]));
        let sorted = |path: &Path| {
            let mut rows = read(path);
            rows.retain(|row| !row.0.ends_with("position_ids"));
            rows.sort();
            rows
        };
        assert_eq!(sorted(&output.join("model.safetensors")), sorted(&input), "{layers}");
    }
}

#[test]
fn a_broken_image_encoder_is_refused_with_the_tensor() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    let refused = |tensors: Vec<(String, LazyTensor)>, words: &[&str]| {
        save(&input, tensors);
        run!["convert", &input, "-o", folder.join("out"), "--to", "diffusers"].refused(words);
        std::fs::remove_file(&input).unwrap();
    };
    let mut missing = image_encoder(32);
    missing.retain(|(key, _)| key != "vision_model.encoder.layers.7.mlp.fc2.bias");
    refused(missing, &["vision_model.encoder.layers.7.mlp.fc2.bias", "missing"]);
    let mut wide = image_encoder(32);
    wide.iter_mut().find(|(key, _)| key.ends_with("layers.3.mlp.fc1.weight")).unwrap().1 =
        crate::support::narrow::filled(&[32, 8]);
    refused(wide, &["layers.3.mlp.fc1.weight", "shape [32, 8], expected [32, 16]"]);
    let mut unknown = image_encoder(32);
    unknown.push(("vision_model.adapter.weight".to_owned(), crate::support::narrow::filled(&[4])));
    refused(unknown, &["vision_model.adapter.weight", "unknown key"]);
}

#[test]
fn transformers_opens_image_encoders_with_the_same_outputs() {
    use crate::support::peers::Peers;
    let Some(peers) = Peers::find_with("diffusers") else { return };
    let found = peers.script("image_encoders.py", &[std::ffi::OsStr::new(crate::support::PROGRAM).as_ref()]);
    let found = found.as_object().unwrap();
    assert_eq!(found.len(), 4, "{found:?}");
    for (kind, apart) in found {
        assert!(apart.as_f64().is_some_and(|apart| apart < 1e-4), "{kind}: {apart}");
    }
}
