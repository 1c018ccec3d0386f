//! Quantized weights: copied whole, dequantized by casts and for folders, refused where their values cannot be known. And
//! casts to 8-bit floats.

use std::path::{Path, PathBuf};

use serde_json::Value;
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt::{Checkpoint, ComponentDtype, Convert, MergeVae};

use crate::support::peers::Peers;
use crate::support::{Folder, Row, f32s, fixture, open, read, save, tensor, tensors};

const UNET: &str = "model.diffusion_model.";
/// A linear layer of the fixture's UNet, without `.weight`.
const LAYER: &str = "model.diffusion_model.time_embed.0";

/// The tensors of a file by key, in any order.
fn sorted(path: &Path) -> Vec<Row> {
    let mut rows = read(path);
    rows.sort();
    rows
}

#[track_caller]
fn assert_same_tensors(found: &Path, expected: &Path) {
    let (found, expected) = (sorted(found), sorted(expected));
    let difference = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert_eq!(difference, None);
    assert_eq!(found.len(), expected.len());
}

/// Saves the fixture with scaled fp8 weights in its UNet, and the same model with the values of these weights.
fn scaled(folder: &Folder) -> (PathBuf, PathBuf) {
    let (mut quantized, mut plain) = (vec![("scaled_fp8".to_owned(), eighths(&[2], &[0, 0]))], Vec::new());
    for (key, tensor) in tensors(&fixture("tiny-sd1.safetensors")) {
        let is_scaled = key.starts_with(UNET) && key.ends_with(".weight") && tensor.shape().dims().len() == 2;
        if !is_scaled {
            quantized.push((key.clone(), tensor.clone()));
            plain.push((key, tensor));
            continue;
        }
        // A power of two, so that the values are exact in F16.
        let scale = 2_f32.powi(-(key.len() as i32 % 5) - 3);
        let codes: Vec<u8> = (0..tensor.shape().elements()).map(|index| (index * 37 % 0x7f) as u8).collect();
        let codes = eighths(tensor.shape().dims(), &codes);
        quantized.push((key.clone(), codes.clone()));
        quantized.push((key.replace(".weight", ".scale_weight"), f32s(&[scale])));
        plain.push((key, scaled_by(&codes, scale)));
    }
    let paths = (folder.join("scaled.safetensors"), folder.join("plain.safetensors"));
    save(&paths.0, quantized);
    save(&paths.1, plain);
    paths
}

fn eighths(shape: &[u64], codes: &[u8]) -> LazyTensor {
    tensor(Dtype::F8E4M3, shape, codes.to_vec())
}

/// The values of fp8 codes times a scale, in F16.
fn scaled_by(codes: &LazyTensor, scale: f32) -> LazyTensor {
    let overflow = trinart_ckpt::formats::Overflow::Refuse;
    let singles = codes.clone().cast(Dtype::F32, overflow).unwrap().to_bytes().unwrap();
    let halves = singles
        .chunks(4)
        .flat_map(|bytes| half::f16::from_f32(f32::from_le_bytes(bytes.try_into().unwrap()) * scale).to_le_bytes());
    tensor(Dtype::F16, codes.shape().dims(), halves.collect())
}

fn scales(path: &Path) -> usize {
    read(path).iter().filter(|row| row.0.ends_with(".scale_weight")).count()
}

// --- Scaled fp8 ----------------------------------------------------------------------------------------------------

#[test]
fn copies_keep_weights_scales_and_marker() {
    let folder = Folder::new();
    let (input, _) = scaled(&folder);
    let copy = folder.join("copy.safetensors");
    run!["convert", &input, "-o", &copy].done();
    assert_same_tensors(&copy, &input);
    let count = scales(&input);
    assert!(count > 100, "{count}");
    for (name, options) in [("pruned", &["--prune"][..]), ("unet", &["--component", "unet"])] {
        let output = folder.join(&format!("{name}.safetensors"));
        let mut command: Vec<_> = ["convert".into(), input.clone().into(), "-o".into(), output.clone().into()].into();
        command.extend(options.iter().map(Into::into));
        let report = crate::support::run(&command).done();
        assert_eq!(scales(&output), count, "{name}");
        assert!(read(&output).iter().any(|row| row.0 == "scaled_fp8"), "{name}");
        assert!(!report.contains("unknown component"), "{report}");
    }
    let vae = folder.join("vae.safetensors");
    run!["convert", &input, "-o", &vae, "--component", "vae"].done();
    let report = run!["inspect", &input, "--json"].json();
    assert_eq!(report["files"][0]["quantization"]["scaled-fp8"], count);
    let report = run!["inspect", &input].done();
    assert!(report.contains(&format!("quantized         {count} weights, scaled fp8")), "{report}");
    assert_eq!(read(&vae).len(), 248);
}

#[test]
fn a_cast_multiplies_by_the_scales_and_drops_them() {
    let folder = Folder::new();
    let (input, plain) = scaled(&folder);
    let (found, expected) = (folder.join("found.safetensors"), folder.join("expected.safetensors"));
    let report = run!["convert", &input, "-o", &found, "--dtype", "f16", "--json"].json();
    run!["convert", &plain, "-o", &expected, "--dtype", "f16"].done();
    assert_same_tensors(&found, &expected);
    let ledger = report["ledger"].as_array().unwrap();
    assert_eq!(ledger.len(), read(&input).len());
    let dropped = ledger.iter().filter(|line| line["reason"] == "dequantized").count();
    assert_eq!(dropped, scales(&input) + 1);
    let weight = ledger.iter().find(|line| line["input"] == format!("{LAYER}.weight")).unwrap();
    assert_eq!(weight["changes"][0], serde_json::json!({"change": "dequantized", "from": "F8_E4M3", "to": "F16"}));
}

#[test]
fn only_the_components_that_are_cast_lose_their_scales() {
    let folder = Folder::new();
    let (input, plain) = scaled(&folder);
    let stored = folder.join("stored.safetensors");
    run!["convert", &input, "-o", &stored, "--vae-dtype", "bf16"].done();
    assert_eq!(scales(&stored), scales(&input));
    assert!(read(&stored).iter().any(|row| row.0 == "scaled_fp8"));
    let cast = folder.join("cast.safetensors");
    run!["convert", &input, "-o", &cast, "--unet-dtype", "f16"].done();
    assert_same_tensors(&cast, &plain);
}

#[test]
fn a_folder_gets_the_values() {
    let folder = Folder::new();
    let (input, plain) = scaled(&folder);
    let (found, expected) = (folder.join("found"), folder.join("expected"));
    let report = run!["convert", &input, "-o", &found, "--to", "diffusers", "--json"].json();
    assert_eq!(report["notices"][0]["code"], "dequantized", "{}", report["notices"]);
    assert!(report["notices"][0]["text"].as_str().unwrap().contains("F16"));
    run!["convert", &plain, "-o", &expected, "--to", "diffusers"].done();
    let weights = "unet/diffusion_pytorch_model.safetensors";
    assert_same_tensors(&found.join(weights), &expected.join(weights));
}

#[test]
fn merging_a_vae_keeps_scales_or_dequantizes_them() {
    let folder = Folder::new();
    let (input, plain) = scaled(&folder);
    let vae = fixture("tiny-vae.vae.pt");
    let kept = folder.join("kept.safetensors");
    run!["merge-vae", &input, "--vae", &vae, "-o", &kept].done();
    assert_eq!(scales(&kept), scales(&input));
    let (found, expected) = (folder.join("found.safetensors"), folder.join("expected.safetensors"));
    run!["merge-vae", &input, "--vae", &vae, "-o", &found, "--dtype", "f16"].done();
    run!["merge-vae", &plain, "--vae", &vae, "-o", &expected, "--dtype", "f16"].done();
    assert_same_tensors(&found, &expected);
}

#[test]
fn merging_a_scaled_vae_leaves_no_scale_behind() {
    let folder = Folder::new();
    let key = "first_stage_model.decoder.mid.attn_1.q";
    let mut base = tensors(&fixture("tiny-sd1.safetensors"));
    let weight = base.iter_mut().find(|(found, _)| *found == format!("{key}.weight")).unwrap();
    let dims = weight.1.shape().dims().to_vec();
    let codes = eighths(&dims, &vec![0x38; dims.iter().product::<u64>() as usize]);
    weight.1 = codes.clone();
    base.push((format!("{key}.scale_weight"), f32s(&[0.5])));
    let quantized = folder.join("quantized.safetensors");
    save(&quantized, base);
    // As the checkpoint, and as the donor.
    let merged = folder.join("merged.safetensors");
    run!["merge-vae", &quantized, "--vae", fixture("tiny-vae.vae.pt"), "-o", &merged].done();
    assert_eq!(scales(&merged), 0);
    let baked = folder.join("baked.safetensors");
    run!["merge-vae", fixture("tiny-sd1.ckpt"), "--vae", &quantized, "-o", &baked].done();
    let found = open(&baked).unwrap();
    let found = found.state_dict().get(&format!("{key}.weight")).unwrap();
    let halves = found.clone().cast(Dtype::F32, trinart_ckpt::formats::Overflow::Refuse).unwrap().to_bytes().unwrap();
    assert!(halves.chunks(4).all(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()) == 0.5));
    assert_eq!(scales(&baked), 0);
}

#[test]
fn replacing_weights_by_their_average_leaves_no_scale_behind() {
    let folder = Folder::new();
    let (input, plain) = scaled(&folder);
    let with_average = |path: &Path, name: &str| {
        let mut all = tensors(path);
        let average = |(key, _): &(String, LazyTensor)| {
            let bare = key.strip_prefix("model.")?.split('.').collect::<Vec<_>>().concat();
            bare.starts_with("diffusion_model").then(|| format!("model_ema.{bare}"))
        };
        let found = tensors(&plain);
        all.extend(found.iter().filter_map(|pair| Some((average(pair)?, pair.1.clone()))));
        let output = folder.join(name);
        save(&output, all);
        output
    };
    let (input, plain) =
        (with_average(&input, "scaled-ema.safetensors"), with_average(&plain, "plain-ema.safetensors"));
    let (found, expected) = (folder.join("found.safetensors"), folder.join("expected.safetensors"));
    run!["convert", &input, "-o", &found, "--ema", "use"].done();
    run!["convert", &plain, "-o", &expected, "--ema", "use"].done();
    assert_same_tensors(&found, &expected);
}

#[test]
fn compares_scaled_weights_with_plain_ones_by_value() {
    let folder = Folder::new();
    let (input, plain) = scaled(&folder);
    let report = run!["diff", &input, &plain, "--json"].json_of_no();
    let components = report["components"].as_array().unwrap();
    let different = components.iter().flat_map(|component| component["different"].as_array().unwrap());
    assert!(different.clone().count() > 100);
    assert!(different.clone().all(|line| line["result"] == "same-values"), "{report}");
    run!["diff", &input, &input].done();
}

/// Saves the fixture with one layer changed, and converts it.
fn with_layer(folder: &Folder, layer: &[(&str, LazyTensor)], options: &[&str]) -> crate::support::Ran {
    let mut all = tensors(&fixture("tiny-sd1.safetensors"));
    all.retain(|(key, _)| *key != format!("{LAYER}.weight"));
    all.extend(layer.iter().map(|(end, tensor)| (format!("{LAYER}{end}"), tensor.clone())));
    let input = folder.join("layer.safetensors");
    let _ = std::fs::remove_file(&input);
    save(&input, all);
    let output = folder.join("out.safetensors");
    let mut command: Vec<_> =
        ["convert".into(), input.into(), "-o".into(), output.clone().into(), "--force".into()].into();
    command.extend(options.iter().map(Into::into));
    let ran = crate::support::run(&command);
    assert_eq!(output.exists(), ran.code == Some(0));
    ran
}

fn bytes(dtype: Dtype, shape: &[u64]) -> LazyTensor {
    tensor(dtype, shape, vec![0; shape.iter().product::<u64>() as usize * dtype.size()])
}

/// The tensors of a layer by the end of their key, and words of the error.
type Refused<'a> = (&'a [(&'a str, LazyTensor)], &'a [&'a str]);

#[test]
fn refuses_values_that_cannot_be_known() {
    let codes = || eighths(&[4, 8], &[0x38; 32]);
    let json = |text: &str| tensor(Dtype::U8, &[text.len() as u64], text.as_bytes().to_vec());
    let cases: &[Refused<'_>] = &[
        (&[(".scale_weight", f32s(&[0.5]))], &[".scale_weight", "time_embed.0.weight, which is missing"]),
        (&[(".weight", codes()), (".scale_weight", f32s(&[0.5; 3]))], &[".scale_weight", "[3]", "unknown blocks"]),
        (&[(".weight", codes()), (".scale_weight", f32s(&[0.5; 8]))], &[".scale_weight", "unknown blocks"]),
        (&[(".weight", codes()), (".weight_scale", bytes(Dtype::F8E8M0, &[4, 1]))], &[".weight_scale", "F8_E8M0"]),
        (
            &[(".weight", codes()), (".weight_scale", f32s(&[0.5])), (".scale_weight", f32s(&[0.5]))],
            &[".scale_weight", "too"],
        ),
        (&[(".weight", bytes(Dtype::F16, &[4, 8])), (".scale_weight", f32s(&[0.5]))], &[".scale_weight", "F16"]),
        (
            &[(".weight", codes()), (".weight_scale", f32s(&[0.5])), (".comfy_quant", json(r#"{"format": "mxfp8"}"#))],
            &["mxfp8"],
        ),
        (
            &[(".weight", bytes(Dtype::U8, &[4, 4])), (".weight_scale", codes()), (".weight_scale_2", f32s(&[1.0]))],
            &[".weight_scale_2", "NVFP4"],
        ),
        (&[(".weight", bytes(Dtype::I8, &[4, 8]))], &[".weight", "I8", "unknown way"]),
        (&[(".qweight", bytes(Dtype::I32, &[4, 8])), (".scales", f32s(&[1.0]))], &[".qweight", "GPTQ"]),
        (&[(".weight._data", bytes(Dtype::I8, &[4, 8])), (".weight._scale", f32s(&[1.0]))], &["._data", "Quanto"]),
        (&[(".weight", bytes(Dtype::U8, &[16, 1])), (".weight.absmax", f32s(&[1.0]))], &[".weight.absmax", "missing"]),
        (&[(".weight", codes()), (".SCB", f32s(&[1.0; 4]))], &[".SCB", "expected I8"]),
    ];
    let folder = Folder::new();
    for (layer, words) in cases {
        let words: Vec<&str> = words.iter().copied().chain(["layer.safetensors"]).collect();
        with_layer(&folder, layer, &["--dtype", "f16"]).refused(&words);
        with_layer(&folder, layer, &["--to", "diffusers"]).refused(&words[..1]);
        // A copy needs no values.
        with_layer(&folder, layer, &[]).done();
        std::fs::remove_file(folder.join("out.safetensors")).unwrap();
        // Nor does a cast of another component.
        with_layer(&folder, layer, &["--vae-dtype", "f16"]).done();
        std::fs::remove_file(folder.join("out.safetensors")).unwrap();
    }
}

#[test]
fn a_scale_of_one_beside_a_plain_weight_is_no_obstacle() {
    let folder = Folder::new();
    let layer = [(".weight", bytes(Dtype::F16, &[4, 8])), (".scale_weight", f32s(&[1.0]))];
    with_layer(&folder, &layer, &["--dtype", "f32"]).done();
    assert_eq!(scales(&folder.join("out.safetensors")), 0);
}

#[test]
fn removes_the_description_of_dequantized_layers_from_the_metadata() {
    let folder = Folder::new();
    let layers = format!(r#"{{"format_version": "1.0", "layers": {{"{LAYER}": {{"format": "float8_e4m3fn"}}}}}}"#);
    let input = folder.join("described.safetensors");
    let mut state_dict = trinart_ckpt::StateDict::new();
    for (key, tensor) in [(".weight", eighths(&[4, 8], &[0x38; 32])), (".weight_scale", f32s(&[0.5]))] {
        state_dict.insert(format!("{LAYER}{key}"), tensor).unwrap();
    }
    let metadata = trinart_ckpt::Metadata::from([(
        "_quantization_metadata".to_owned(),
        trinart_ckpt::formats::PyValue::Str(layers),
    )]);
    let options = trinart_ckpt::formats::WriteOptions::default();
    let target = trinart_ckpt::Target::Safetensors;
    trinart_ckpt::formats::containers::write(&input, target, &state_dict, &metadata, &options).unwrap();
    let checkpoint = Checkpoint::open(&input).unwrap();
    Convert::new(&checkpoint).write(folder.join("copy.safetensors")).unwrap();
    assert_eq!(open(folder.join("copy.safetensors")).unwrap().metadata(), &metadata);
    Convert::new(&checkpoint)
        .unet_dtype(ComponentDtype::As(Dtype::F32))
        .write(folder.join("cast.safetensors"))
        .unwrap();
    assert!(open(folder.join("cast.safetensors")).unwrap().metadata().is_empty());
}

// --- Values as torch and bitsandbytes compute them -----------------------------------------------------------------

#[test]
fn casts_and_scales_as_torch_does() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    peers.quantize(folder.path());
    let convert = |input: &str, dtype: &str, options: &[&str]| {
        let output = folder.join(&format!("{input}-{dtype}-found.safetensors"));
        let input = folder.join(&format!("{input}.safetensors"));
        let mut command: Vec<_> = ["convert".into(), input.into(), "-o".into(), output.clone().into()].into();
        command.extend(["--dtype", dtype].iter().chain(options).map(Into::into));
        (crate::support::run(&command), output)
    };
    for dtype in ["f8e4m3", "f8e5m2"] {
        for (input, options) in [("fits", &[][..]), ("all", &["--saturate"])] {
            let input = format!("{input}-{dtype}");
            let (ran, output) = convert(&input, dtype, options);
            ran.done();
            assert_same_tensors(&output, &folder.join(&format!("{input}.{dtype}.safetensors")));
        }
        convert(&format!("all-{dtype}"), dtype, &["--force"]).0.refused(&["too large", "--saturate"]);
    }
    for dtype in ["f32", "f16", "bf16", "f8e5m2"] {
        let (ran, output) = convert("scaled", dtype, &[]);
        ran.done();
        assert_same_tensors(&output, &folder.join(&format!("scaled.{dtype}.safetensors")));
    }
}

#[test]
fn dequantizes_as_bitsandbytes_does() {
    let folder = Folder::new();
    let input = fixture("quantized/bitsandbytes.safetensors");
    let values = open(fixture("quantized/bitsandbytes.values.safetensors")).unwrap();
    for (name, dtype) in [("f32", Dtype::F32), ("bf16", Dtype::BF16), ("f16", Dtype::F16)] {
        let (found, expected) =
            (folder.join(&format!("{name}.safetensors")), folder.join(&format!("{name}-e.safetensors")));
        run!["convert", &input, "-o", &found, "--dtype", name].done();
        let overflow = trinart_ckpt::formats::Overflow::Refuse;
        let cast = |(key, tensor): (&str, &LazyTensor)| (key.to_owned(), tensor.clone().cast(dtype, overflow).unwrap());
        save(&expected, values.state_dict().iter().map(cast));
        assert_same_tensors(&found, &expected);
    }
    let copy = folder.join("copy.safetensors");
    run!["convert", &input, "-o", &copy].done();
    assert_same_tensors(&copy, &input);
}

/// Changes the tensors of a file.
type Changing<'a> = &'a dyn Fn(&mut Vec<(String, LazyTensor)>);

#[test]
fn refuses_4_bit_weights_whose_parts_contradict_each_other() {
    let folder = Folder::new();
    let nested = format!("{UNET}nf4-True-2-64.weight");
    let changed = |change: Changing<'_>| {
        let mut all = tensors(&fixture("quantized/bitsandbytes.safetensors"));
        change(&mut all);
        let input = folder.join("changed.safetensors");
        let _ = std::fs::remove_file(&input);
        save(&input, all);
        run!["convert", &input, "-o", folder.join("out.safetensors"), "--dtype", "f16"]
    };
    for part in ["absmax", "nested_absmax", "nested_quant_map"] {
        let part = format!("{nested}.{part}");
        changed(&|all| all.retain(|(key, _)| *key != part)).refused(&["nf4-True", "missing"]);
    }
    let put = |end: &str, tensor: LazyTensor| {
        let wanted = format!("{nested}{end}");
        changed(&|all| all.iter_mut().find(|(key, _)| *key == wanted).unwrap().1 = tensor.clone())
    };
    put(".quant_map", f32s(&[0.5; 16])).refused(&["quant_map", "nf4"]);
    put("", bytes(Dtype::U8, &[9599, 1])).refused(&["9600 bytes"]);
    put(".nested_absmax", f32s(&[1.0; 5])).refused(&["[5]", "expected 2"]);
    put(".quant_state.bitsandbytes__nf4", bytes(Dtype::U8, &[70_000])).refused(&["70000 bytes", "limit"]);
    put(".quant_state.bitsandbytes__nf4", bytes(Dtype::U8, &[7])).refused(&["not JSON"]);
}

#[test]
fn opens_a_quantized_folder_with_its_values() {
    let folder = Folder::new();
    let source = fixture("diffusers/sd1");
    let copy = crate::support::copy_folder(&source, &folder.join("sd1"));
    let weights = copy.join("unet/diffusion_pytorch_model.safetensors");
    let mut all = tensors(&weights);
    let scaled: Vec<_> =
        all.iter_mut().filter(|(key, it)| key.contains(".ff.") && it.shape().dims().len() == 2).collect();
    assert!(scaled.len() > 10);
    let mut companions = Vec::new();
    for (key, weight) in scaled {
        let dims = weight.shape().dims().to_vec();
        *weight = eighths(&dims, &vec![0x38; dims.iter().product::<u64>() as usize]);
        companions.push((key.replace(".weight", ".weight_scale"), f32s(&[0.5])));
    }
    all.extend(companions);
    save(&folder.join("weights.safetensors"), all);
    std::fs::rename(folder.join("weights.safetensors"), &weights).unwrap();
    let config = copy.join("unet/config.json");
    let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    fields["quantization_config"] = serde_json::json!({"quant_method": "x"});
    std::fs::write(&config, fields.to_string()).unwrap();

    let single = folder.join("single.safetensors");
    let report = run!["convert", &copy, "-o", &single, "--json"].json();
    assert!(report["notices"].as_array().unwrap().iter().any(|notice| notice["code"] == "dequantized"));
    assert!(read(&single).iter().all(|row| !row.0.contains("scale") && row.1 != "F8_E4M3"));
    let again = folder.join("again");
    run!["convert", &copy, "-o", &again, "--to", "diffusers"].done();
    let fields: Value = serde_json::from_slice(&std::fs::read(again.join("unet/config.json")).unwrap()).unwrap();
    assert!(fields.get("quantization_config").is_none() && fields.get("_class_name").is_some(), "{fields}");
}

// --- Dtypes --------------------------------------------------------------------------------------------------------

#[test]
fn understands_what_people_call_dtypes() {
    let folder = Folder::new();
    let input = fixture("tiny-sd1.safetensors");
    let names = [
        ("F16", &["fp16", "half", "float16", "FP16", "f16"][..]),
        ("BF16", &["bfloat16", "bf16", "BF16"]),
        ("F32", &["fp32", "float32", "float", "f32"]),
        ("F8_E4M3", &["fp8", "fp8_e4m3fn", "float8_e4m3fn", "f8e4m3", "e4m3fn"]),
        ("F8_E5M2", &["fp8_e5m2", "float8_e5m2", "f8e5m2"]),
    ];
    for (dtype, names) in names {
        for name in names {
            let output = folder.join("out.safetensors");
            run!["convert", &input, "-o", &output, "--dtype", *name, "--component", "unet", "--force"].done();
            assert!(read(&output).iter().all(|row| row.1 == dtype), "{name}");
        }
    }
    let help = run!["convert", "--help"].done();
    assert!(help.contains("f8e4m3") && !help.contains("float8e4m3"), "{help}");
}

#[test]
fn ckpt_files_hold_no_8_bit_floats() {
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    run!["convert", fixture("tiny-sd1.safetensors"), "-o", &output, "--dtype", "fp8"]
        .refused(&["F8_E4M3", "safetensors"]);
    assert!(!output.exists());
}

#[test]
fn casts_each_component_to_its_own_dtype() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    let options = ["--dtype", "f32", "--unet-dtype", "fp8", "--vae-dtype", "keep", "--text-encoder-dtype", "bf16"];
    let input = fixture("tiny-sd1.ckpt");
    let mut command: Vec<_> = ["convert".into(), input.clone().into(), "-o".into(), output.clone().into()].into();
    command.extend(options.iter().map(Into::into));
    crate::support::run(&command).done();
    let before = read(&input);
    for (key, dtype, ..) in read(&output) {
        let stored = &before.iter().find(|row| row.0 == key).unwrap().1;
        let expected = match key.split('.').next().unwrap() {
            _ if !stored.contains('F') => stored,
            "model" => "F8_E4M3",
            "first_stage_model" => stored,
            "cond_stage_model" => "BF16",
            _ => "F32",
        };
        assert_eq!(dtype, expected, "{key}");
    }
}

#[test]
fn notes_a_dtype_for_a_component_that_is_absent() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(fixture("tiny-vae.vae.pt")).unwrap();
    let report = Convert::new(&checkpoint)
        .unet_dtype(ComponentDtype::As(Dtype::F16))
        .vae_dtype(ComponentDtype::As(Dtype::F16))
        .write(folder.join("out.safetensors"))
        .unwrap();
    let texts: Vec<_> = report.notices.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(texts, ["no UNet to cast"]);
}

#[test]
fn notes_wrong_position_ids_in_a_merge() {
    let folder = Folder::new();
    let ids = "cond_stage_model.transformer.text_model.embeddings.position_ids";
    let mut all = tensors(&fixture("tiny-sd1.safetensors"));
    let floats: Vec<u8> = (0..77).flat_map(|index| (index as f32 * 0.9999).to_le_bytes()).collect();
    all.iter_mut().find(|(key, _)| key == ids).unwrap().1 = tensor(Dtype::F32, &[1, 77], floats);
    let input = folder.join("broken.safetensors");
    save(&input, all);
    let (base, vae) = (Checkpoint::open(&input).unwrap(), Checkpoint::open(fixture("tiny-vae.vae.pt")).unwrap());
    let output = folder.join("out.safetensors");
    let report = MergeVae::new(&base, &vae).dtype(Dtype::F16).write(&output).unwrap();
    assert!(report.notices.iter().any(|notice| notice.text.contains(ids)), "{:?}", report.notices);
    assert_eq!(read(&output).iter().find(|row| row.0 == ids), read(&input).iter().find(|row| row.0 == ids));
}
