//! What a model predicts, in single files: keys, metadata, the `.yaml` beside a file, the norm of SD v2.

use std::fs;
use std::path::Path;

use crate::support::narrow::{Narrow, empty};
use crate::support::{Folder, f32s, read, tensor, tensors};
use serde_json::{Value, json};
use trinart_ckpt::models::family::Architecture::{Sd1, Sd2, SdxlBase};
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};

const V_YAML: &str =
    "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: \"v\"\n";

pub(crate) fn marked() -> Narrow {
    Narrow::new(SdxlBase).with("v_pred", empty()).with("ztsnr", empty())
}

fn inspect(path: &Path) -> Value {
    run!["inspect", "--json", path].json()["files"][0].take()
}

pub(crate) fn prediction(path: &Path) -> String {
    inspect(path)["prediction"].as_str().unwrap().to_owned()
}

/// The sources of what was found, in order of precedence.
fn sources(path: &Path, field: &str) -> Vec<(String, String)> {
    let found = inspect(path)["parameterization"]["evidence"].take();
    let marks = found.as_array().unwrap().iter().filter(|mark| mark["field"] == field);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    marks.map(|mark| (text(&mark["source"]), text(&mark["value"]))).collect()
}

#[track_caller]
fn assert_sources(path: &Path, expected: &[(&str, &str)]) {
    let found = sources(path, "prediction");
    let found: Vec<_> = found.iter().map(|(source, value)| (source.as_str(), value.as_str())).collect();
    assert_eq!(found, expected, "{}", path.display());
}

pub(crate) fn notices(report: &Value) -> Vec<String> {
    report["notices"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap().to_owned()).collect()
}

fn keys(path: &Path) -> Vec<String> {
    tensors(path).into_iter().map(|(key, _)| key).filter(|key| !key.contains('.') || key.starts_with("edm")).collect()
}

fn channel_constants() -> [LazyTensor; 2] {
    let floats = |values: [f32; 4]| {
        tensor(Dtype::F32, &[1, 4, 1, 1], values.iter().flat_map(|value| value.to_le_bytes()).collect())
    };
    [floats([-1.6574, 1.886, -1.383, 2.5155]), floats([8.4927, 5.9022, 6.5498, 5.2299])]
}

/// A model like Playground 2.5.
pub(crate) fn playground() -> Narrow {
    let [mean, std] = channel_constants();
    Narrow::new(SdxlBase).with("edm_mean", mean).with("edm_std", std)
}

/// A model like CosXL.
pub(crate) fn cosxl() -> Narrow {
    let scalar = |value: f32| tensor(Dtype::F32, &[], value.to_le_bytes().to_vec());
    Narrow::new(SdxlBase).with("edm_vpred.sigma_max", scalar(120.0)).with("edm_vpred.sigma_min", scalar(0.002))
}

// --- Keys ----------------------------------------------------------------------------------------------------------

#[test]
fn every_conversion_keeps_the_marks() {
    let folder = Folder::new();
    for (name, model, expected) in
        [("v", marked(), "v-prediction"), ("playground", playground(), "edm"), ("cosxl", cosxl(), "edm-v-prediction")]
    {
        let input = folder.join(&format!("{name}.safetensors"));
        model.save(&input, &[]);
        let own = read(&input).into_iter().rev().take(2).collect::<Vec<_>>();
        for (index, (extension, options)) in [
            ("ckpt", &["--prune"][..]),
            ("safetensors", &["--component", "unet"]),
            ("safetensors", &["--dtype", "f16"]),
            ("ckpt", &["--dtype", "bf16", "--prune"]),
        ]
        .into_iter()
        .enumerate()
        {
            let output = folder.join(&format!("{name}-{index}.{extension}"));
            let mut arguments = vec!["convert".into(), input.clone().into(), "-o".into(), output.clone().into()];
            arguments.extend(options.iter().map(Into::into));
            let report = crate::support::run(&[arguments, vec!["--json".into()]].concat()).json();
            assert_eq!(notices(&report), Vec::<String>::new());
            let found = read(&output).into_iter().rev().take(2).collect::<Vec<_>>();
            assert_eq!(found, own, "{options:?}");
            assert_eq!(prediction(&output), expected);
        }
    }
}

#[test]
fn a_vae_or_text_encoder_has_no_marks() {
    let folder = Folder::new();
    let input = folder.join("v.safetensors");
    marked().save(&input, &[]);
    for component in ["vae", "text-encoder"] {
        let output = folder.join(&format!("{component}.safetensors"));
        run!["convert", &input, "-o", &output, "--component", component].done();
        assert_eq!(keys(&output), Vec::<String>::new());
    }
    run!["convert", &input, "-o", folder.join("x.ckpt"), "--component", "vae", "--prediction", "v"]
        .refused(&["no UNet"]);
}

#[test]
fn merging_a_vae_keeps_marks_and_configuration() {
    let folder = Folder::new();
    let (base, vae) = (folder.join("base.safetensors"), folder.join("vae.safetensors"));
    marked().save(&base, &[]);
    folder.write("base.yaml", V_YAML);
    run!["convert", &base, "-o", &vae, "--component", "vae"].done();
    let output = folder.join("out.ckpt");
    let report = run!["merge-vae", &base, "--vae", &vae, "-o", &output, "--dtype", "f16", "--json"].json();
    assert_eq!(report["also_wrote"], json!([folder.join("out.yaml")]));
    assert_eq!(keys(&output), ["v_pred", "ztsnr"]);
    assert_eq!(fs::read_to_string(folder.join("out.yaml")).unwrap(), V_YAML);
}

#[test]
fn sets_the_prediction_of_a_file() {
    let folder = Folder::new();
    let (plain, v, back) = (folder.join("plain.safetensors"), folder.join("v.ckpt"), folder.join("back.safetensors"));
    Narrow::new(SdxlBase).save(&plain, &[("modelspec.prediction_type", "epsilon")]);
    assert_sources(&plain, &[("metadata", "epsilon")]);
    run!["convert", &plain, "-o", &v, "--prediction", "v"].done();
    assert_eq!(keys(&v), ["v_pred"]);
    assert_sources(&v, &[("key", "v-prediction"), ("metadata", "v-prediction")]);
    let report = run!["convert", &v, "-o", &back, "--prediction", "epsilon", "--json"].json();
    assert_eq!((keys(&back), prediction(&back)), (vec![], "epsilon".to_owned()));
    let ledger = report["ledger"].as_array().unwrap();
    assert!(ledger.iter().any(|line| line["input"] == "v_pred" && line["reason"] == "superseded"));
    assert_eq!(folder.names(), ["back.safetensors", "plain.safetensors", "v.ckpt"]);
    // Epsilon with zero terminal SNR would divide by zero.
    marked().save(&folder.join("both.safetensors"), &[]);
    let output = folder.join("none.safetensors");
    run!["convert", folder.join("both.safetensors"), "-o", &output, "--prediction", "epsilon"].done();
    assert_eq!(keys(&output), Vec::<String>::new());
}

#[test]
fn reports_contradictions_and_marks_that_nobody_reads() {
    let folder = Folder::new();
    let (a, b) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
    marked().save(&a, &[("modelspec.prediction_type", "epsilon")]);
    assert_sources(&a, &[("key", "v-prediction"), ("metadata", "epsilon")]);
    let report = run!["convert", &a, "-o", folder.join("c.ckpt"), "--json"].json();
    assert_eq!(notices(&report), ["marks-contradict"]);
    Narrow::new(SdxlBase).save(&b, &[("modelspec.predict_key", "v")]);
    let report = run!["convert", &b, "-o", folder.join("d.ckpt"), "--json"].json();
    assert_eq!((notices(&report), prediction(&b)), (vec!["prediction-not-read".to_owned()], "v-prediction".to_owned()));
}

#[test]
fn rejects_marks_that_are_no_numbers() {
    let folder = Folder::new();
    for (key, value) in [("edm_vpred.sigma_max", f32s(&[f32::NAN])), ("edm_vpred.sigma_max", f32s(&[1.0, 2.0]))] {
        let input = folder.join("bad.safetensors");
        Narrow::new(SdxlBase).with(key, value).save(&input, &[]);
        run!["convert", &input, "-o", folder.join("out.ckpt")].refused(&["bad.safetensors", key, "expected"]);
        fs::remove_file(&input).unwrap();
    }
    assert!(folder.names().is_empty());
}

// --- The norm of SD v2 -----------------------------------------------------------------------------------------------

#[test]
fn judges_sd2_by_its_norm() {
    let folder = Folder::new();
    for (deviation, expected) in
        [(0.02, "epsilon"), (0.0899, "epsilon"), (0.0901, "v-prediction"), (0.3, "v-prediction")]
    {
        let path = folder.join(&format!("{deviation}.safetensors"));
        Narrow::new(Sd2).deviation(deviation).save(&path, &[]);
        assert_sources(&path, &[("statistic", expected)]);
    }
    for channels in [5, 8, 9] {
        let path = folder.join(&format!("{channels}.ckpt"));
        Narrow::new(Sd2).deviation(0.3).channels(channels).save(&path, &[]);
        assert_sources(&path, &[("default", "epsilon")]);
    }
    let path = folder.join("marked.ckpt");
    Narrow::new(Sd2).deviation(0.3).save(&path, &[("modelspec.prediction_type", "epsilon")]);
    assert_sources(&path, &[("metadata", "epsilon")]);
    Narrow::new(Sd1).save(&folder.join("sd1.ckpt"), &[]);
    assert_sources(&folder.join("sd1.ckpt"), &[("default", "epsilon")]);
}

// --- The .yaml -------------------------------------------------------------------------------------------------------

#[test]
fn reads_and_carries_the_yaml_beside_a_file() {
    let folder = Folder::new();
    let sgm = |scaling: &str| {
        format!(
            "model:\n  target: sgm.models.diffusion.DiffusionEngine\n  params:\n    scale_factor: 0.13025\n    \
             denoiser_config:\n      params:\n        scaling_config:\n          \
             target: sgm.modules.diffusionmodules.denoiser_scaling.{scaling}\n"
        )
    };
    let ldm =
        |rest: &str| format!("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    {rest}\n");
    for (index, (architecture, yaml, expected)) in [
        (Sd1, V_YAML.to_owned(), "v-prediction"),
        (Sd1, ldm("parameterization: eps"), "epsilon"),
        (Sd2, ldm("linear_start: 0.00085"), "epsilon"),
        (Sd2, ldm("'parameterization': v # velocity"), "v-prediction"),
        (Sd2, "{model: {params: {parameterization: v}}}".to_owned(), "v-prediction"),
        (SdxlBase, sgm("VScaling"), "v-prediction"),
        (SdxlBase, sgm("EpsScaling"), "epsilon"),
        (SdxlBase, sgm("VScalingWithEDMcNoise"), "edm-v-prediction"),
    ]
    .into_iter()
    .enumerate()
    {
        let input = folder.join(&format!("{index}.safetensors"));
        Narrow::new(architecture).save(&input, &[]);
        fs::write(input.with_extension("yaml"), &yaml).unwrap();
        assert_sources(&input, &[("yaml", expected)]);
        let output = folder.join(&format!("{index}-out.ckpt"));
        run!["convert", &input, "-o", &output].done();
        assert_eq!(fs::read_to_string(output.with_extension("yaml")).unwrap(), yaml);
        assert_eq!(prediction(&output), expected);
    }
    // A file of another kind says nothing, and stays where it is.
    let input = folder.join("other.safetensors");
    Narrow::new(Sd1).save(&input, &[]);
    folder.write("other.yaml", "learning_rate: 1e-5\n");
    run!["convert", &input, "-o", folder.join("other.ckpt")].done();
    assert_sources(&input, &[("default", "epsilon")]);
}

#[test]
fn rejects_hostile_and_unknown_yaml() {
    let folder = Folder::new();
    let input = folder.join("model.safetensors");
    Narrow::new(Sd1).save(&input, &[]);
    let bomb = "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n".to_owned();
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let large = format!("a: {}\n", "x".repeat((64 << 10) - 3));
    for (yaml, word) in [
        (bomb, "alias"),
        (deep, "64 levels"),
        (large, "limit"),
        ("a: [1\nb: 2".to_owned(), "not valid YAML"),
        ("model: {params: {parameterization: flow}}".to_owned(), "expected eps, v or x0"),
        ("? [a]\n: b\n".to_owned(), "as a key"),
    ] {
        folder.write("model.yaml", yaml);
        run!["convert", &input, "-o", folder.join("out.ckpt")].refused(&["model.yaml", word]);
    }
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    let large = format!("a: {}\n", "x".repeat((64 << 10) - 4));
    for (index, yaml) in [deep, large].into_iter().enumerate() {
        folder.write("model.yaml", yaml);
        run!["convert", &input, "-o", folder.join(&format!("{index}.ckpt"))].done();
    }
}

#[test]
fn writes_a_yaml_where_webui_needs_one() {
    let folder = Folder::new();
    for (name, architecture, word) in [("sd1", Sd1, "FrozenCLIPEmbedder"), ("sd2", Sd2, "FrozenOpenCLIPEmbedder")] {
        let (input, output) = (folder.join(&format!("{name}.safetensors")), folder.join(&format!("{name}-v.ckpt")));
        Narrow::new(architecture).save(&input, &[]);
        let report = run!["convert", &input, "-o", &output, "--prediction", "v", "--json"].json();
        assert_eq!(report["also_wrote"], json!([output.with_extension("yaml")]));
        let yaml = fs::read_to_string(output.with_extension("yaml")).unwrap();
        assert!(yaml.contains("parameterization: \"v\"") && yaml.contains(word), "{yaml}");
        assert_sources(&output, &[("metadata", "v-prediction"), ("yaml", "v-prediction")]);
    }
    // ComfyUI cannot be told.
    let (input, output) = (folder.join("judged.ckpt"), folder.join("judged-eps.ckpt"));
    Narrow::new(Sd2).deviation(0.3).save(&input, &[]);
    let report = run!["convert", &input, "-o", &output, "--prediction", "epsilon", "--json"].json();
    assert_eq!(notices(&report), ["prediction-not-read"]);
    assert!(fs::read_to_string(output.with_extension("yaml")).unwrap().contains("parameterization: \"eps\""));
    assert_eq!(prediction(&output), "epsilon");
}

#[test]
fn never_replaces_a_yaml_without_force() {
    let folder = Folder::new();
    let input = folder.join("sd1.safetensors");
    Narrow::new(Sd1).save(&input, &[]);
    let mine = "model: {params: {parameterization: v, mine: true}}\n";
    folder.write("out.yaml", mine);
    let before = folder.snapshot();
    let output = folder.join("out.ckpt");
    run!["convert", &input, "-o", &output, "--prediction", "v"].refused(&["out.yaml", "--force"]);
    // It would make WebUI misread the output.
    run!["convert", &input, "-o", &output].refused(&["out.yaml", "another prediction", "--force"]);
    assert_eq!(folder.snapshot(), before);
    run!["convert", &input, "-o", &output, "--prediction", "v", "--dry-run", "--force"].done();
    assert_eq!(folder.snapshot(), before);
    run!["convert", &input, "-o", &output, "--force"].done();
    assert_eq!(prediction(&output), "epsilon");
    marked().save(&folder.join("xl.safetensors"), &[]);
    folder.write("xl-out.yaml", "model: {params: {parameterization: eps}}\n");
    let output = folder.join("xl-out.ckpt");
    run!["convert", folder.join("xl.safetensors"), "-o", &output, "--force"].refused(&["xl-out.yaml", "move it away"]);
}

#[test]
fn converts_in_place_with_its_yaml() {
    let folder = Folder::new();
    let input = folder.join("sd1.safetensors");
    Narrow::new(Sd1).save(&input, &[]);
    folder.write("sd1.yaml", V_YAML);
    run!["convert", &input, "-o", &input, "--dtype", "f32", "--force"].done();
    assert_eq!((folder.names().len(), prediction(&input).as_str()), (2, "v-prediction"));
    run!["convert", &input, "-o", &input, "--prediction", "epsilon", "--force"].done();
    assert_eq!((folder.names().len(), prediction(&input).as_str()), (2, "epsilon"));
}
