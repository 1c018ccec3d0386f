//! `convert --replace`: components of other files in a checkpoint, and checkpoints put together from components.

use std::path::{Path, PathBuf};

use crate::support::narrow::{Narrow, empty, filled};
use crate::support::{Folder, Row, f32s, fixture, read, save, tensors};
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt::models::family::Architecture;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";
const CLIP_L: &str = "conditioner.embedders.0.transformer.";
const CLIP_G: &str = "conditioner.embedders.1.model.";

type Tensors = Vec<(String, LazyTensor)>;

/// The tensors of a component, without its prefix, in other values than those of `Narrow`.
fn part(of: &Narrow, prefix: &str) -> Tensors {
    let other = |key: &str, tensor: &LazyTensor| match tensor.dtype() {
        Dtype::I64 => tensor.clone(),
        dtype => {
            let halves: Vec<u8> = (0..tensor.shape().elements()).flat_map(|_| 0x3000_u16.to_le_bytes()).collect();
            assert_eq!(dtype, Dtype::F16, "{key}");
            crate::support::tensor(Dtype::F16, tensor.shape().dims(), halves)
        }
    };
    let bare = of.0.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?, tensor)));
    bare.map(|(key, tensor)| (key.to_owned(), other(key, tensor))).collect()
}

fn saved(folder: &Folder, name: &str, prefix: &str, part: &Tensors) -> PathBuf {
    let path = folder.join(name);
    save(&path, part.iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor.clone())));
    path
}

fn replace(component: &str, file: &Path) -> String {
    format!("--replace={component}={}", file.display())
}

/// The rows under a prefix, sorted, with keys without it.
fn rows(path: &Path, prefix: &str) -> Vec<Row> {
    let bare = |row: Row| Some((row.0.strip_prefix(prefix)?.to_owned(), row.1, row.2, row.3));
    let mut rows: Vec<Row> = read(path).into_iter().filter_map(bare).collect();
    rows.sort();
    rows
}

#[test]
fn takes_each_component_in_each_spelling_and_keeps_the_rest() {
    let folder = Folder::new();
    let model = Narrow::new(Architecture::Sd1);
    let base = folder.join("base.safetensors");
    model.save(&base, &[]);
    let all = read(&base);
    let cases = [
        (
            "unet",
            UNET,
            vec!["", UNET, "diffusion_model.", "module.", "model.module.", "_orig_mod.model.diffusion_model."],
        ),
        ("vae", VAE, vec!["", VAE, "vae."]),
        (
            "text-encoder",
            CLIP,
            vec![
                "",
                CLIP,
                CLIP_L,
                "clip_l.",
                "clip_l.transformer.",
                "text_encoders.clip_l.transformer.",
                "transformer.",
            ],
        ),
    ];
    for (component, place, prefixes) in cases {
        let part = part(&model, place);
        let right = rows(&saved(&folder, &format!("{component}-right.safetensors"), "", &part), "");
        for (index, prefix) in prefixes.iter().enumerate() {
            let extension = ["safetensors", "ckpt"][index % 2];
            let donor = saved(&folder, &format!("{component}-{index}.{extension}"), prefix, &part);
            let output = folder.join(&format!("{component}-{index}-out.safetensors"));
            let report = run!["convert", &base, replace(component, &donor), "-o", &output, "--json"].json();
            let case = format!("{component} under {prefix:?}");
            assert_eq!(rows(&output, place), right, "{case}");
            let found = read(&output);
            assert!(found.iter().map(|row| &row.0).eq(all.iter().map(|row| &row.0)), "{case}");
            for (row, before) in found.iter().zip(&all).filter(|(row, _)| !row.0.starts_with(place)) {
                assert_eq!(row, before, "{case}");
            }
            assert_eq!(report["replaced"][0]["component"], component, "{case}");
            assert_eq!(report["verified"], true, "{case}");
        }
    }
}

#[test]
fn puts_a_checkpoint_together_from_components() {
    let folder = Folder::new();
    let pipeline = fixture("diffusers/sd1");
    let (output, back) = (folder.join("out.safetensors"), folder.join("straight.safetensors"));
    run![
        "convert",
        replace("unet", &pipeline.join("unet")),
        replace("text-encoder", &pipeline),
        replace("vae", &pipeline.join("vae")),
        "-o",
        &output
    ]
    .done();
    run!["convert", &pipeline, "-o", &back].done();
    assert_eq!(rows(&output, ""), rows(&back, ""));
    // A UNet alone is a base, too.
    let again = folder.join("again.safetensors");
    let unet =
        saved(&folder, "unet.safetensors", "", &tensors(&pipeline.join("unet/diffusion_pytorch_model.safetensors")));
    run!["convert", &unet, replace("text-encoder", &back), replace("vae", &back), "-o", &again].done();
    assert_eq!(rows(&again, ""), rows(&back, ""));
    run!["convert", replace("unet", &unet), replace("vae", &back), "-o", folder.join("no.ckpt")]
        .refused(&["no file for the text encoder that SD v1 needs", "--replace"]);
    run!["convert", replace("vae", &back), "-o", folder.join("no.ckpt")].refused(&["a file for the UNet", "--replace"]);
}

#[test]
fn takes_what_the_unet_predicts_with_it() {
    let folder = Folder::new();
    let model = Narrow::new(Architecture::SdxlBase);
    let base = folder.join("base.safetensors");
    model.save(&base, &[("modelspec.prediction_type", "epsilon")]);
    let mut unet = part(&model, UNET);
    unet = unet.into_iter().map(|(key, tensor)| (format!("{UNET}{key}"), tensor)).collect();
    unet.extend(["v_pred", "ztsnr"].map(|key| (key.to_owned(), empty())));
    let donor = saved(&folder, "v.safetensors", "", &unet);
    let output = folder.join("out.safetensors");
    let report = run!["convert", &base, replace("unet", &donor), "-o", &output, "--json"].json();
    assert!(report["notices"].as_array().unwrap().iter().any(|it| it["code"] == "prediction-changed"), "{report}");
    let inspected = run!["inspect", &output, "--json"].json();
    assert_eq!(inspected["files"][0]["prediction"], "v-prediction");
    assert_eq!(inspected["files"][0]["parameterization"]["zero_terminal_snr"], true);
    assert_eq!(inspected["files"][0]["metadata"]["modelspec.prediction_type"], "v");
    // And back: the marks of the old UNet go.
    let epsilon = folder.join("epsilon.ckpt");
    run!["convert", &output, replace("unet", &base), "-o", &epsilon].done();
    let inspected = run!["inspect", &epsilon, "--json"].json();
    assert_eq!(inspected["files"][0]["prediction"], "epsilon");
    assert!(read(&epsilon).iter().all(|row| row.0 != "v_pred" && row.0 != "ztsnr"));
    // A folder records it in its scheduler.
    let pipeline = folder.join("pipeline");
    run!["convert", &base, replace("unet", &donor), "-o", &pipeline, "--to", "diffusers"].done();
    let scheduler = std::fs::read_to_string(pipeline.join("scheduler/scheduler_config.json")).unwrap();
    assert!(scheduler.contains("\"v_prediction\""), "{scheduler}");
}

#[test]
fn combines_replacements_with_casts_and_records_the_files() {
    let folder = Folder::new();
    let model = Narrow::new(Architecture::SdxlBase);
    let base = folder.join("base.safetensors");
    model.save(&base, &[]);
    let clip_l = saved(&folder, "l.safetensors", "clip_l.transformer.", &part(&model, CLIP_L));
    let clip_g = saved(&folder, "g.safetensors", "", &part(&model, CLIP_G));
    let vae = saved(&folder, "vae.safetensors", "", &part(&model, VAE));
    let output = folder.join("out.safetensors");
    let report = run![
        "convert",
        &base,
        replace("text-encoder", &clip_l),
        replace("text-encoder-2", &clip_g),
        replace("vae", &vae),
        "--vae-dtype=f32",
        "-o",
        &output,
        "--json"
    ]
    .json();
    assert_eq!(report["vae"]["merged"], "changed");
    assert_eq!(report["vae"]["after"]["dtypes"]["F32"], 248);
    assert_eq!(rows(&output, CLIP_G), rows(&clip_g, ""));
    let metadata = &run!["inspect", &output, "--json"].json()["files"][0]["metadata"];
    let recipe: serde_json::Value = serde_json::from_str(metadata["sd_merge_recipe"].as_str().unwrap()).unwrap();
    assert_eq!(recipe["text_encoder_2"], "g.safetensors");
    for (field, file) in
        [("text_encoder_sha256", &clip_l), ("text_encoder_2_sha256", &clip_g), ("bake_in_vae_sha256", &vae)]
    {
        assert_eq!(recipe[field], run!["hash", file, "--json"].json()["files"][0]["sha256"], "{field}");
    }
    // In place.
    run!["convert", &output, replace("vae", &base), "-o", &output, "--force"].done();
    assert_eq!(rows(&output, VAE), rows(&base, VAE));
}

#[test]
fn replaces_both_text_encoders_of_distilled_models() {
    let folder = Folder::new();
    for architecture in [Architecture::Ssd1b, Architecture::Vega] {
        let model = Narrow::new(architecture);
        let base = folder.join(&format!("{}.safetensors", architecture.name()));
        model.save(&base, &[]);
        let clip_l = saved(&folder, "l.safetensors", "", &part(&model, CLIP_L));
        let clip_g = saved(&folder, "g.safetensors", "", &part(&model, CLIP_G));
        let output = folder.join("out.safetensors");
        let options = [replace("text-encoder", &clip_l), replace("text-encoder-2", &clip_g)];
        run!["convert", &base, &options[0], &options[1], "-o", &output, "--force"].done();
        assert_eq!((rows(&output, CLIP_L), rows(&output, CLIP_G)), (rows(&clip_l, ""), rows(&clip_g, "")));
        assert_eq!(read(&output).len(), read(&base).len());
        std::fs::remove_file(&clip_l).unwrap();
        std::fs::remove_file(&clip_g).unwrap();
    }
}

#[test]
fn replaces_in_folders_and_drops_the_old_ema() {
    let folder = Folder::new();
    let pipeline = folder.join("pipeline");
    run!["convert", fixture("diffusers/sd1"), "-o", &pipeline, "--to", "diffusers"].done();
    let donor = folder.join("donor.safetensors");
    run!["convert", fixture("diffusers/sd1"), "-o", &donor, "--dtype", "f32"].done();
    // Windows replaces no folder that an input is read from.
    let output = if cfg!(windows) { folder.join("new") } else { pipeline.clone() };
    run![
        "convert",
        &pipeline,
        replace("unet", &donor),
        replace("vae", &donor),
        "-o",
        &output,
        "--to",
        "diffusers",
        "--force"
    ]
    .done();
    let file = folder.join("file.safetensors");
    run!["convert", &output, "-o", &file].done();
    assert_eq!(rows(&file, UNET), rows(&donor, UNET));
    let report = run![
        "convert",
        fixture("tiny-sd1.ckpt"),
        replace("unet", &fixture("tiny-sd1.safetensors")),
        "-o",
        folder.join("ema.ckpt"),
        "--json"
    ]
    .json();
    let dropped = report["ledger"].as_array().unwrap().iter().filter(|line| line["reason"] == "ema-of-replaced");
    assert_eq!(dropped.count(), 2);
}

#[test]
fn refuses_components_that_do_not_fit() {
    let folder = Folder::new();
    let sd1 = Narrow::new(Architecture::Sd1);
    let xl = Narrow::new(Architecture::SdxlBase);
    let (base, xl_base) = (folder.join("sd1.safetensors"), folder.join("xl.safetensors"));
    sd1.save(&base, &[]);
    xl.save(&xl_base, &[]);
    let change = |prefix: &str, name: &str, change: &dyn Fn(&mut Tensors)| {
        let mut part = part(&sd1, prefix);
        change(&mut part);
        saved(&folder, name, "", &part)
    };
    let missing = change(UNET, "missing.safetensors", &|part| part.retain(|(key, _)| key != "out.2.bias"));
    let stray = change(UNET, "stray.safetensors", &|part| part.push(("output_blocks.12.0.x".to_owned(), f32s(&[1.0]))));
    let shape = change(UNET, "shape.safetensors", &|part| {
        part.iter_mut().find(|(key, _)| key == "middle_block.1.proj_in.weight").unwrap().1 = filled(&[64, 7, 1, 1]);
    });
    let wide = change(CLIP, "wide.safetensors", &|part| {
        for (_, tensor) in part.iter_mut().filter(|(_, tensor)| tensor.dtype() == Dtype::F16) {
            let dims: Vec<u64> =
                tensor.shape().dims().iter().map(|&dim| if dim % 24 == 0 { 2 * dim } else { dim }).collect();
            *tensor = filled(&dims);
        }
    });
    let twice = saved(&folder, "twice.safetensors", "", &{
        let unet = part(&sd1, UNET);
        let prefixed = unet.iter().map(|(key, tensor)| (format!("{UNET}{key}"), tensor.clone()));
        prefixed.chain(unet.clone()).collect()
    });
    let lora = folder.join("lora.safetensors");
    save(&lora, vec![("lora_unet_mid_block.lora_down.weight".to_owned(), f32s(&[1.0]))]);
    let clip_g = saved(&folder, "g.safetensors", "", &part(&xl, CLIP_G));
    let output = folder.join("out.safetensors");
    let before = folder.snapshot();
    let cases: [(&Path, &str, &Path, &[&str]); 11] = [
        (&base, "unet", &missing, &["missing.safetensors", "out.2.bias: missing from this UNet"]),
        (&base, "unet", &stray, &["stray.safetensors", "output_blocks.12.0.x: unknown key"]),
        (
            &base,
            "unet",
            &shape,
            &["shape.safetensors", "middle_block.1.proj_in.weight: shape [64, 7, 1, 1], expected ["],
        ),
        (&base, "text-encoder", &wide, &["wide.safetensors", "reads text of width 24, the text encoders give 48"]),
        (&base, "unet", &twice, &["twice.safetensors", "2 networks that could be the UNet"]),
        (&base, "unet", &lora, &["lora.safetensors", "contains no UNet", "LoRA"]),
        (&base, "unet", &xl_base, &["xl.safetensors", "a UNet of SDXL base, the checkpoint is of SD v1"]),
        (&base, "text-encoder-2", &clip_g, &["g.safetensors", "SD v1 has only one text encoder"]),
        (&base, "text-encoder", &clip_g, &["g.safetensors", "contains no text encoder of SD v1", "ViT-bigG"]),
        (&xl_base, "vae", &base, &["sd1.safetensors", "another family", "--allow-family-mismatch"]),
        (&lora, "vae", &base, &["lora.safetensors", "contains no UNet", "LoRA (kohya)"]),
    ];
    for (base, component, donor, words) in cases {
        run!["convert", base, replace(component, donor), "-o", &output].refused(words);
    }
    run!["convert", &base, replace("vae", &base), replace("vae", &xl_base), "-o", &output].refused(&["twice"]);
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn notes_what_text_encoders_of_folders_lack() {
    let folder = Folder::new();
    let base = folder.join("sd2.safetensors");
    Narrow::new(Architecture::Sd2).save(&base, &[]);
    let pipeline = folder.join("pipeline");
    run!["convert", &base, "-o", &pipeline, "--to", "diffusers"].done();
    let (own, parts) = (folder.join("own.safetensors"), folder.join("parts.safetensors"));
    let codes = |report: serde_json::Value| {
        let notices = report["notices"].as_array().unwrap().clone();
        notices.into_iter().map(|notice| notice["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let encoder = replace("text-encoder", &pipeline.join("text_encoder"));
    assert_eq!(codes(run!["convert", &base, &encoder, "-o", &own, "--json"].json()), ["own-part-kept"]);
    assert_eq!(rows(&own, ""), rows(&base, ""));
    let unet = replace("unet", &pipeline.join("unet"));
    let report = run!["convert", &unet, &encoder, replace("vae", &pipeline), "-o", &parts, "--json"].json();
    assert!(codes(report).contains(&"incomplete".to_owned()));
    assert_eq!(read(&parts).len(), read(&base).len() - 14);
}
