//! `convert --repair`: each defect alone and with others, in each container; and what `inspect` says about it.

use std::path::{Path, PathBuf};

use crate::support::narrow::{Narrow, filled};
use crate::support::{Folder, Row, f32s, fixture, position_ids, read, save, tensor, tensors};
use serde_json::Value;
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor, Shape};
use trinart_ckpt::models::family::Architecture;

const VAE: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";

type Tensors = Vec<(String, LazyTensor)>;

fn reshaped(tensor: &LazyTensor, dims: Vec<u64>) -> LazyTensor {
    tensor.clone().reshape(Shape::new(dims).unwrap()).unwrap()
}

fn is_attention(key: &str) -> bool {
    key.contains(".mid.attn_1.") && !key.contains(".norm.")
}

/// The names that converters give the attention of a VAE.
fn attention(names: [&'static str; 4]) -> impl Fn(Tensors) -> Tensors {
    move |tensors| {
        let rename = |key: String| {
            let mut key = key;
            for (right, wrong) in ["q", "k", "v", "proj_out"].iter().zip(names) {
                key = key.replace(&format!(".attn_1.{right}."), &format!(".attn_1.{wrong}."));
            }
            key
        };
        tensors.into_iter().map(|(key, tensor)| (if is_attention(&key) { rename(key) } else { key }, tensor)).collect()
    }
}

fn prefixed(prefix: &'static str) -> impl Fn(Tensors) -> Tensors {
    move |tensors| tensors.into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)).collect()
}

fn replaced(from: &'static str, to: &'static str) -> impl Fn(Tensors) -> Tensors {
    move |tensors| {
        let place = |key: String| key.strip_prefix(from).map_or(key.clone(), |rest| format!("{to}{rest}"));
        tensors.into_iter().map(|(key, tensor)| (place(key), tensor)).collect()
    }
}

/// Changes the tensors whose keys `is_wanted` accepts.
fn each(is_wanted: fn(&str) -> bool, change: fn(&LazyTensor) -> LazyTensor) -> impl Fn(Tensors) -> Tensors {
    move |tensors| {
        let changed = |(key, tensor): (String, LazyTensor)| {
            let tensor = if is_wanted(&key) { change(&tensor) } else { tensor };
            (key, tensor)
        };
        tensors.into_iter().map(changed).collect()
    }
}

type Defect = (&'static str, Box<dyn Fn(Tensors) -> Tensors>);

/// The defects of an SD v1 checkpoint, by the kind of their repair.
fn defects() -> Vec<Defect> {
    let flat = |tensor: &LazyTensor| match *tensor.shape().dims() {
        [rows, columns, 1, 1] => reshaped(tensor, vec![rows, columns]),
        _ => tensor.clone(),
    };
    let biases = |tensor: &LazyTensor| match *tensor.shape().dims() {
        [rows] => reshaped(tensor, vec![rows, 1, 1]),
        _ => tensor.clone(),
    };
    let is_ids = |key: &str| key.ends_with("position_ids");
    vec![
        ("vae-names", Box::new(attention(["to_q", "to_k", "to_v", "to_out.0"]))),
        ("vae-names", Box::new(attention(["to_to_q", "to_to_k", "to_to_v", "to_to_out.0"]))),
        ("vae-names", Box::new(attention(["query", "key", "value", "proj_attn"]))),
        ("ranks", Box::new(each(is_attention, flat))),
        ("ranks", Box::new(each(is_attention, biases))),
        ("ranks", Box::new(each(|key| key.ends_with(".proj_out.weight"), flat))),
        ("prefix", Box::new(prefixed("module."))),
        ("prefix", Box::new(prefixed("model."))),
        ("prefix", Box::new(prefixed("_orig_mod.module."))),
        ("prefix", Box::new(replaced(CLIP, "clip_l.transformer."))),
        ("prefix", Box::new(replaced(CLIP, "text_encoders.clip_l.transformer."))),
        ("prefix", Box::new(replaced(CLIP, "conditioner.embedders.0.transformer."))),
        ("prefix", Box::new(replaced(VAE, "vae."))),
        ("prefix", Box::new(replaced(VAE, "model.first_stage_model."))),
        (
            "text-encoder-names",
            Box::new(replaced("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")),
        ),
        ("position-ids", Box::new(each(is_ids, |_| f32s(&(0..77).map(|at| at as f32 * 0.999).collect::<Vec<_>>())))),
        (
            "position-ids",
            Box::new(each(is_ids, |_| tensor(Dtype::I32, &[1, 77], (0..77_i32).flat_map(i32::to_le_bytes).collect()))),
        ),
        (
            "position-ids",
            Box::new(|mut tensors: Tensors| {
                tensors.retain(|(key, _)| !key.ends_with("position_ids"));
                tensors
            }),
        ),
        (
            "stray-position-ids",
            Box::new(|mut tensors: Tensors| {
                let key = "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids";
                tensors.push((key.to_owned(), position_ids(77)));
                tensors
            }),
        ),
        (
            "duplicate",
            Box::new(|mut tensors: Tensors| {
                let twins = tensors.clone().into_iter().filter_map(|(key, tensor)| {
                    let rest = key.strip_prefix("cond_stage_model.transformer.text_model.")?;
                    Some((format!("cond_stage_model.transformer.{rest}"), tensor))
                });
                let twins: Vec<_> = twins.collect();
                tensors.extend(twins);
                tensors
            }),
        ),
    ]
}

/// The rows of a file, sorted.
fn sorted(path: &Path) -> Vec<Row> {
    let mut rows = read(path);
    rows.sort();
    rows
}

fn kinds(repairs: &Value) -> Vec<String> {
    let kinds = repairs.as_array().unwrap().iter().map(|repair| repair["kind"].as_str().unwrap().to_owned());
    kinds.collect()
}

fn saved(folder: &Folder, name: &str, tensors: Tensors) -> PathBuf {
    let path = folder.join(name);
    save(&path, tensors);
    path
}

#[test]
fn repairs_each_defect_alone_and_with_another_one_in_each_container() {
    let folder = Folder::new();
    let healthy = Narrow::new(Architecture::Sd1).0;
    let right = sorted(&saved(&folder, "right.safetensors", healthy.clone()));
    let defects = defects();
    for (index, (kind, defect)) in defects.iter().enumerate() {
        let (other_kind, other) = &defects[(index + 3) % defects.len()];
        let cases = [defect(healthy.clone()), other(defect(healthy.clone()))];
        for (round, tensors) in cases.into_iter().enumerate() {
            let extension = ["safetensors", "ckpt"][(index + round) % 2];
            let broken = saved(&folder, &format!("broken-{index}-{round}.{extension}"), tensors);
            let case = format!("defect {index} ({kind}), round {round}");
            let inspected = &run!["inspect", &broken, "--json"].json()["files"][0];
            assert_eq!(inspected["unrepairable"], Value::Null, "{case}");
            let output = folder.join(&format!("fixed-{index}-{round}.safetensors"));
            let report = run!["convert", &broken, "--repair", "-o", &output, "--json"].json();
            assert_eq!(report["repairs"], inspected["repairs"], "{case}");
            let found = kinds(&report["repairs"]);
            // Two defects of the same names can be one repair.
            let is_expected = |found: &String| found == kind || (round == 1 && found == other_kind);
            assert!(!found.is_empty() && found.iter().all(is_expected), "{case}: {found:?}");
            let fixed = sorted(&output);
            let difference = fixed.iter().zip(&right).find(|(a, b)| a != b);
            assert!(
                fixed.len() == right.len() && difference.is_none(),
                "{case}: {:?}",
                difference.map(|(a, b)| (&a.0, &b.0))
            );
            if round == 1 {
                continue;
            }
            let again =
                run!["convert", &output, "--repair", "-o", folder.join("again.ckpt"), "--force", "--json"].json();
            assert_eq!(again["repairs"], Value::Array(vec![]), "{case}");
        }
    }
}

#[test]
fn removes_trailing_bytes_and_f64() {
    let folder = Folder::new();
    let healthy = Narrow::new(Architecture::Sd1).0;
    let right = saved(&folder, "right.safetensors", healthy.clone());
    for extension in ["safetensors", "ckpt"] {
        let broken = saved(&folder, &format!("trailing.{extension}"), healthy.clone());
        let mut bytes = std::fs::read(&broken).unwrap();
        bytes.extend([0; 8]);
        std::fs::write(&broken, bytes).unwrap();
        let output = folder.join(&format!("{extension}.safetensors"));
        if extension == "safetensors" {
            run!["convert", &broken, "-o", &output]
                .refused(&["extra bytes were appended behind the tensors: 8", "convert --repair"]);
        }
        let report = run!["convert", &broken, "--repair", "-o", &output, "--json"].json();
        assert_eq!(kinds(&report["repairs"]), ["trailing-bytes"]);
        assert_eq!(read(&output), read(&right));
        assert_eq!(run!["inspect", &broken, "--json"].json()["files"][0]["repairs"], report["repairs"]);
    }
    let wide = each(
        |key| key.contains("norm"),
        |narrow| {
            let values = (0..narrow.shape().elements()).flat_map(|_| 0.0625_f64.to_le_bytes());
            tensor(Dtype::F64, narrow.shape().dims(), values.collect())
        },
    );
    let broken = saved(&folder, "f64.safetensors", wide(healthy.clone()));
    let output = folder.join("f32.safetensors");
    let report = run!["convert", &broken, "--repair", "-o", &output, "--json"].json();
    assert_eq!(kinds(&report["repairs"]), ["dtype"]);
    assert!(tensors(&output).iter().all(|(_, tensor)| tensor.dtype() != Dtype::F64));
}

#[test]
fn repairs_components_alone() {
    let folder = Folder::new();
    let healthy = Narrow::new(Architecture::Sd1).0;
    let part = |prefix: &str| -> Tensors {
        let bare =
            healthy.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?.to_owned(), tensor.clone())));
        bare.collect()
    };
    let cases = [
        ("vae", part(VAE), prefixed("module.")(attention(["to_q", "to_k", "to_v", "to_out.0"])(part(VAE)))),
        ("clip", part(CLIP), prefixed("clip_l.")(part(CLIP))),
        ("clip-comfy", part(CLIP), prefixed("text_encoders.clip_l.transformer.")(part(CLIP))),
        ("unet", part("model.diffusion_model."), prefixed("module.")(part("model.diffusion_model."))),
    ];
    for (name, right, broken) in cases {
        let right = saved(&folder, &format!("{name}-right.safetensors"), right);
        let broken = saved(&folder, &format!("{name}.safetensors"), broken);
        let output = folder.join(&format!("{name}-out.safetensors"));
        run!["convert", &broken, "--repair", "-o", &output].done();
        assert_eq!(sorted(&output), sorted(&right), "{name}");
        assert_eq!(run!["inspect", &right, "--json"].json()["files"][0]["repairs"], Value::Array(vec![]), "{name}");
    }
}

#[test]
fn repairs_ranks_of_a_unet_and_of_text_encoders_alone() {
    let folder = Folder::new();
    let narrow = |architecture, prefix: &str| -> Tensors {
        let all = Narrow::new(architecture).0.into_iter();
        all.filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?.to_owned(), tensor))).collect()
    };
    // The text width tells SD v1, because the ranks do not.
    let widened = |mut unet: Tensors| {
        let is_text = |key: &str| key.contains("attn2.to_k.") || key.contains("attn2.to_v.");
        for (_, tensor) in unet.iter_mut().filter(|(key, _)| is_text(key)) {
            *tensor = filled(&[tensor.shape().dims()[0], 768]);
        }
        unet
    };
    let flat = each(
        |key| key.contains(".proj_in.") || key.contains(".proj_out."),
        |tensor| match *tensor.shape().dims() {
            [rows, columns, 1, 1] => reshaped(tensor, vec![rows, columns]),
            _ => tensor.clone(),
        },
    );
    let deep = each(
        |key| key.contains("attn") && (key.ends_with("weight") || key.ends_with("bias")),
        |tensor| reshaped(tensor, [tensor.shape().dims(), &[1, 1]].concat()),
    );
    let unet = widened(narrow(Architecture::Sd1, "model.diffusion_model."));
    let prefixed_unet = prefixed("model.diffusion_model.")(unet.clone());
    let of_xl = narrow(Architecture::SdxlBase, "model.diffusion_model.");
    let cases = [
        ("unet", unet.clone(), flat(unet)),
        ("prefixed", prefixed_unet.clone(), flat(prefixed_unet)),
        ("xl", of_xl.clone(), deep(of_xl)),
        ("clip-l", narrow(Architecture::Sd1, CLIP), deep(narrow(Architecture::Sd1, CLIP))),
        ("open-clip", narrow(Architecture::SdxlBase, "conditioner.embedders.1.model."), Vec::new()),
    ];
    for (name, right, broken) in cases {
        let broken = if broken.is_empty() { deep(right.clone()) } else { broken };
        let right = saved(&folder, &format!("{name}-right.safetensors"), right);
        let broken = saved(&folder, &format!("{name}.safetensors"), broken);
        let output = folder.join(&format!("{name}-out.safetensors"));
        let report = run!["convert", &broken, "--repair", "-o", &output, "--json"].json();
        assert!(kinds(&report["repairs"]).contains(&"ranks".to_owned()), "{name}: {}", report["repairs"]);
        assert_eq!(sorted(&output), sorted(&right), "{name}");
        assert_eq!(run!["inspect", &right, "--json"].json()["files"][0]["repairs"], Value::Array(vec![]), "{name}");
    }
}

#[test]
fn lists_the_names_of_diffusers_in_one_file() {
    let folder = Folder::new();
    let mut all = Vec::new();
    for (prefix, file) in [
        ("unet.", "unet/diffusion_pytorch_model.safetensors"),
        ("vae.", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder.", "text_encoder/model.safetensors"),
    ] {
        let found = tensors(&fixture("diffusers/sd1").join(file));
        all.extend(found.into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)));
    }
    let path = saved(&folder, "one-file.safetensors", all);
    let output = folder.join("out.safetensors");
    let report = run!["convert", &path, "--repair", "-o", &output, "--json"].json();
    assert_eq!(kinds(&report["repairs"]), ["position-ids", "unet-names", "vae-names", "text-encoder-names"]);
    let listed = |kind: &str| {
        let repairs = report["repairs"].as_array().unwrap();
        repairs.iter().find(|repair| repair["kind"] == kind).unwrap()["keys"].as_array().unwrap().len()
    };
    assert_eq!((listed("unet-names"), listed("vae-names"), listed("text-encoder-names")), (686, 248, 196));
    assert_eq!(run!["inspect", &path, "--json"].json()["files"][0]["repairs"], report["repairs"]);
    assert_eq!(run!["inspect", &output, "--json"].json()["files"][0]["repairs"], Value::Array(vec![]));
}

#[test]
fn a_healthy_file_stays_as_it_is() {
    let folder = Folder::new();
    for architecture in [Architecture::Sd1, Architecture::Sd2, Architecture::SdxlBase] {
        let path = folder.join(&format!("{}.safetensors", architecture.name()));
        Narrow::new(architecture).save(&path, &[("title", "x")]);
        let output = folder.join("out.safetensors");
        let text = run!["convert", &path, "--repair", "-o", &output, "--force"].done();
        assert!(text.contains("repaired     nothing"), "{text}");
        assert_eq!(std::fs::read(&output).unwrap(), std::fs::read(&path).unwrap(), "{architecture:?}");
    }
    // tiny-sd1.ckpt has a transposed tensor, which torch loads.
    for name in ["tiny-sd1.safetensors", "tiny-sd1.ckpt", "tiny-vae.vae.pt", "tiny-vae.ckpt", "diffusers/sd1"] {
        let inspected = &run!["inspect", fixture(name), "--json"].json()["files"][0];
        assert_eq!(inspected["repairs"], Value::Array(vec![]), "{name}");
        assert_eq!(inspected["unrepairable"], Value::Null, "{name}");
    }
}

#[test]
fn refuses_what_it_cannot_decide() {
    let folder = Folder::new();
    let healthy = Narrow::new(Architecture::Sd1).0;
    let mut twins = healthy.clone();
    let (key, first) = healthy.iter().find(|(key, _)| key.ends_with("fc1.weight")).unwrap();
    let zeros = tensor(Dtype::F16, first.shape().dims(), vec![0; first.bytes() as usize]);
    twins.push((key.replace("text_model.", ""), zeros));
    let mut missing = healthy.clone();
    missing.retain(|(key, _)| key != "first_stage_model.decoder.conv_in.bias");
    let mut shape = healthy.clone();
    let wrong = shape.iter_mut().find(|(key, _)| key.ends_with("decoder.mid.attn_1.q.bias")).unwrap();
    wrong.1 = f32s(&[1.0, 2.0]);
    let before = folder.snapshot();
    for (name, tensors, words) in [
        ("twins.safetensors", twins, ["differs from", "cannot tell which"]),
        ("missing.safetensors", missing, ["decoder.conv_in.bias: missing", "take the VAE from another file"]),
        ("shape.safetensors", shape, ["decoder.mid.attn_1.q.bias: shape [2]", "cannot change it"]),
    ] {
        let path = saved(&folder, name, tensors);
        run!["convert", &path, "--repair", "-o", folder.join("out.safetensors")].refused(&[name, words[0], words[1]]);
        let inspected = &run!["inspect", &path, "--json"].json()["files"][0];
        assert!(inspected["unrepairable"].as_str().unwrap().contains(words[1]), "{inspected}");
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn other_commands_name_the_repair() {
    let folder = Folder::new();
    let healthy = Narrow::new(Architecture::Sd1).0;
    let module = saved(&folder, "module.safetensors", prefixed("module.")(healthy.clone()));
    let model = saved(&folder, "model.safetensors", prefixed("model.")(healthy.clone()));
    let names = attention(["to_q", "to_k", "to_v", "to_out.0"])(healthy.clone());
    let names = saved(&folder, "names.safetensors", names);
    let vae = fixture("tiny-vae.vae.pt");
    // A folder has names of its own, so those of the file do not matter.
    for (broken, output) in [(&module, "module"), (&model, "model"), (&names, "names")] {
        run!["convert", broken, "-o", folder.join(output), "--to", "diffusers"].done();
    }
    run!["merge-vae", &module, "--vae", &vae, "-o", folder.join("out.ckpt")].refused(&["convert --repair"]);
    run!["convert", &module, "--repair", "-o", folder.join("folder"), "--to", "diffusers"].done();
    let fixed = folder.join("fixed.safetensors");
    run!["convert", &module, "--repair", "--replace", &format!("vae={}", names.display()), "-o", &fixed].done();
    assert_eq!(sorted(&fixed), sorted(&saved(&folder, "right.safetensors", healthy)));
}
