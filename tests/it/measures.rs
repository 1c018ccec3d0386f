//! `diff --stats`: how far values are apart, compared with NumPy.

use std::path::Path;

use half::f16;
use serde_json::Value;

use crate::support::peers::Peers;
use crate::support::{Folder, f32s, fixture, save, tensor, tensors};
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};

const FIELDS: [&str; 4] = ["mean_abs", "l2", "relative_l2", "cosine"];

/// Measures by key or by component.
type Measured = Vec<(String, Value)>;

/// The measures of each tensor that differs, by key, and those of each component.
fn measured(a: &Path, b: &Path, options: &[&str]) -> (Measured, Measured) {
    let mut arguments: Vec<std::ffi::OsString> =
        vec!["diff".into(), a.into(), b.into(), "--stats".into(), "--json".into()];
    arguments.extend(options.iter().map(Into::into));
    let report = crate::support::run(&arguments).json_of_no();
    let components = report["components"].as_array().unwrap();
    let name = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |line: &Value| (name(&line["key"]), line["measures"].clone());
    let lines = components.iter().flat_map(|component| component["different"].as_array().unwrap());
    (lines.map(of).collect(), components.iter().map(|it| (name(&it["name"]), it["measures"].clone())).collect())
}

#[track_caller]
fn assert_close(found: &Value, expected: &Value, key: &str) {
    for field in ["pairs", "non_finite_pairs", "not_close"] {
        assert_eq!(found[field], expected[field], "{key} {field}");
    }
    for field in FIELDS {
        let (found, expected) = (found[field].as_f64(), expected[field].as_f64());
        let is_close = |(found, expected): (f64, f64)| (found - expected).abs() <= 1e-9 * expected.abs() + 1e-300;
        let is_same = found.zip(expected).map_or(found.is_none() && expected.is_none(), is_close);
        assert!(is_same, "{key} {field}: {found:?}, numpy {expected:?}");
    }
}

/// Tensors of every dtype, with NaN, infinite and large values, and more elements than are read at a time.
fn pair(folder: &Folder) -> (std::path::PathBuf, std::path::PathBuf) {
    let long = |factor: f32| {
        let value = |index: u64| ((index * 7919) % 100_003) as f32 / 1000.0 - 40.0;
        (0..300_000_u64).map(|index| value(index) * if index % 3 == 0 { factor } else { 1.0 }).collect::<Vec<f32>>()
    };
    let halves = |values: &[f32]| {
        let bytes = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        tensor(Dtype::F16, &[values.len() as u64], bytes)
    };
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    let mut left = tensors(&fixture("dtypes.ckpt"));
    left.retain(|(_, tensor)| !matches!(tensor.dtype(), Dtype::C64 | Dtype::C128));
    let changed = |(key, tensor): &(String, LazyTensor)| {
        let mut bytes = tensor.to_bytes().unwrap();
        // The lowest byte of the first element.
        if let Some(first) = bytes.first_mut() {
            *first ^= 1;
        }
        (key.clone(), LazyTensor::owned(tensor.dtype(), tensor.shape().clone(), bytes).unwrap())
    };
    let mut right: Vec<(String, LazyTensor)> = left.iter().map(changed).collect();
    for (key, a, b) in [
        ("long", f32s(&long(1.0)), f32s(&long(1.001))),
        ("odd", f32s(&[nan, nan, infinite, infinite, 1.0, 3e38]), f32s(&[nan, 1.0, infinite, -infinite, 1.5, -3e38])),
        ("zero", f32s(&[0.0, 0.0]), f32s(&[0.0, 1.0])),
        ("close", f32s(&[1.0, 2.0]), f32s(&[1.000_001, 2.0])),
        ("rounded", f32s(&[0.1, 0.7, nan]), halves(&[0.1, 0.7, nan])),
        ("wide", f32s(&[0.1, 0.7]), halves(&[0.1, 0.8])),
    ] {
        left.push((key.to_owned(), a));
        right.push((key.to_owned(), b));
    }
    let (a, b) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
    save(&a, left);
    save(&b, right);
    (a, b)
}

#[test]
fn measures_are_those_of_numpy() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let (a, b) = pair(&folder);
    let expected = peers.script("tensor_differences.py", &[&a, &b]);
    let (found, components) = measured(&a, &b, &[]);
    // NaN with other bytes differ, whatever NumPy says; equal tensors are not listed.
    assert!(found.len() > 12, "{found:?}");
    for (key, measures) in &found {
        assert_close(measures, &expected[key], key);
    }
    let pairs: u64 = expected.as_object().unwrap().values().map(|it| it["pairs"].as_u64().unwrap()).sum();
    assert_eq!(components.iter().map(|(_, it)| it["pairs"].as_u64().unwrap()).sum::<u64>(), pairs);
}

#[test]
fn a_component_is_measured_as_a_whole() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let (a, b) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
    let values: [&[f32]; 2] = [&[3.0, 4.0], &[1.0, -2.0, 0.5]];
    let others: [&[f32]; 2] = [&[3.0, 4.0], &[1.5, -2.0, 0.5]];
    let key = |part: usize| format!("first_stage_model.encoder.{part}.weight");
    save(&a, (0..2).map(|part| (key(part), f32s(values[part]))));
    save(&b, (0..2).map(|part| (key(part), f32s(others[part]))));
    let (_, components) = measured(&a, &b, &[]);
    // One tensor with all values.
    let (whole_a, whole_b) = (folder.join("whole-a.safetensors"), folder.join("whole-b.safetensors"));
    save(&whole_a, [("all".to_owned(), f32s(&values.concat()))]);
    save(&whole_b, [("all".to_owned(), f32s(&others.concat()))]);
    let expected = peers.script("tensor_differences.py", &[&whole_a, &whole_b]);
    assert_eq!(components[0].0, "vae");
    assert_close(&components[0].1, &expected["all"], "vae");
}

#[test]
fn lists_every_tensor_with_its_measures() {
    let folder = Folder::new();
    let (a, b) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
    let key = |index: usize| format!("model.diffusion_model.{index}.weight");
    save(&a, (0..10).map(|index| (key(index), f32s(&[3.0, 4.0]))));
    save(&b, (0..10).map(|index| (key(index), f32s(&[3.0, if index == 9 { f32::NAN } else { 4.000_01 }]))));
    let text = run!["diff", &a, &b, "--stats"].no();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(".weight: ")).collect();
    assert_eq!(lines.len(), 10, "{text}");
    let expected = "1 elements differ by at most 1.001e-5, mean 5.007e-6, L2 1.001e-5 (relative 2.003e-6), cosine 1.000000, all close";
    assert!(lines[0].ends_with(expected), "{}", lines[0]);
    assert!(
        lines[9].contains("1 pair with NaN or infinite values left out") && !lines[9].contains("close"),
        "{}",
        lines[9]
    );
    // Without the option there are no measures, and with stricter tolerances no tensor is close.
    let plain = run!["diff", &a, &b, "--json"].json_of_no();
    assert!(plain["components"][0].get("measures").is_none(), "{plain}");
    let (strict, _) = measured(&a, &b, &["--rtol", "1e-6", "--atol", "0"]);
    assert!(strict.iter().all(|(_, it)| it["not_close"] == 1), "{strict:?}");
    let (loose, _) = measured(&a, &b, &["--atol", "0.5"]);
    assert!(loose.iter().take(9).all(|(_, it)| it["not_close"] == 0), "{loose:?}");
    for wrong in ["-1", "nan", "x"] {
        let ran = run!["diff", &a, &b, "--stats", format!("--rtol={wrong}")];
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains("--rtol") && ran.stderr.contains("number of 0 or more"), "{}", ran.stderr);
    }
}

#[test]
fn refuses_to_measure_folders() {
    let folder = Folder::new();
    for name in ["a/x.ckpt", "b/x.ckpt"] {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        folder.copy_fixture("tiny-vae.ckpt", name);
    }
    run!["diff", folder.join("a"), folder.join("b"), "--stats"].refused(&["--stats", "folders"]);
}
