//! Where the tensors of a PyTorch file are: found by content, and kept where readers look for them.

use std::fs;

use crate::support::peers::Peers;
use crate::support::{Folder, f32s, open, pickle_tensor, records, save, zip};
use trinart_ckpt::formats::containers::Structure;
use trinart_ckpt::formats::pickle::Encoder;

/// A value of a pickle.
enum Object {
    /// A tensor of one element. Its record has this number as its name.
    Tensor(u8),
    Dict(Vec<(&'static str, Object)>),
    /// A list of dicts with one tensor each, under the key `weight`.
    List(Vec<u8>),
    Number(i64),
}

use Object::{Dict, List, Number, Tensor};

fn encode(encoder: &mut Encoder, object: &Object) -> trinart_ckpt::Result<()> {
    match object {
        Tensor(number) => {
            pickle_tensor(encoder, ("torch", "FloatStorage"), &number.to_string(), 1);
            Ok(())
        }
        Dict(items) => encoder.dict(items.iter(), |encoder, (key, value)| {
            encoder.str(key)?;
            encode(encoder, value)
        }),
        List(items) => {
            encoder.list(items.iter(), |encoder, &item| encode(encoder, &Dict(vec![("weight", Tensor(item))])))
        }
        Number(number) => encoder.plain(number),
    }
}

/// Writes a PyTorch file of this object. The value of tensor N is N.
fn file(folder: &Folder, name: &str, object: &Object) -> std::path::PathBuf {
    let mut encoder = Encoder::new();
    encode(&mut encoder, object).unwrap();
    let pickle = encoder.finish();
    let values: Vec<(String, [u8; 4])> =
        (0..10_u8).map(|number| (format!("data/{number}"), f32::from(number).to_le_bytes())).collect();
    let data = values.iter().map(|(name, value)| (name.as_str(), &value[..]));
    let all: Vec<(&str, &[u8])> = [("data.pkl", pickle.as_slice())].into_iter().chain(data).collect();
    let path = folder.join(name);
    zip(&path, &all);
    path
}

fn weights(numbers: std::ops::Range<u8>) -> Vec<(&'static str, Object)> {
    const NAMES: [&str; 10] = ["w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"];
    numbers.map(|number| (NAMES[usize::from(number)], Tensor(number))).collect()
}

#[test]
fn finds_the_tensors_wherever_they_are() {
    let folder = Folder::new();
    let nested = |inner: Vec<(&'static str, Object)>| Dict(vec![("state_dict", Dict(inner))]);
    let with = |items: Vec<(&'static str, Object)>, more: (&'static str, Object)| {
        items.into_iter().chain([more]).collect::<Vec<_>>()
    };
    let three = ["w0", "w1", "w2"];
    let cases: Vec<(Object, &str, &[&str], &[&str])> = vec![
        (nested(weights(0..3)), "state_dict", &three, &[]),
        (Dict(weights(0..3)), "", &three, &[]),
        (nested(with(weights(0..3), ("state_dict", Dict(vec![])))), "state_dict", &three, &["state_dict.state_dict"]),
        (
            nested(with(weights(0..3), ("state_dict", Dict(weights(3..4))))),
            "state_dict",
            &three,
            &["state_dict.state_dict"],
        ),
        (Dict(with(weights(0..3), ("state_dict", Dict(vec![])))), "", &three, &["state_dict"]),
        (Dict(with(weights(0..3), ("state_dict", Dict(weights(3..5))))), "", &three, &["state_dict"]),
        (Dict(vec![("state_dict", nested(weights(0..3)))]), "state_dict.state_dict", &three, &[]),
        (Dict(vec![("state_dict", Dict(vec![])), ("model", Dict(weights(0..3)))]), "model", &three, &["state_dict"]),
        (Dict(vec![("state_dict", Dict(weights(0..3))), ("ema", Dict(weights(3..6)))]), "state_dict", &three, &["ema"]),
        (
            Dict(vec![("state_dict", Dict(weights(0..3))), ("optimizer", List((3..10).collect()))]),
            "state_dict",
            &three,
            &["optimizer"],
        ),
        (Dict(vec![("step", Tensor(9)), ("model", Dict(weights(0..3)))]), "model", &three, &["step"]),
        (Dict(vec![("any_name", Dict(weights(0..3))), ("epoch", Number(3))]), "any_name", &three, &[]),
        (
            Dict(vec![("params", Dict(weights(3..6))), ("params_ema", Dict(weights(0..3)))]),
            "params_ema",
            &three,
            &["params"],
        ),
        (Dict(vec![("ema", Dict(weights(0..3)))]), "ema", &three, &[]),
        (
            Dict(vec![("a", Dict(weights(0..1))), ("b", List(vec![1, 2]))]),
            "",
            &["a.w0", "b.0.weight", "b.1.weight"],
            &[],
        ),
        (
            Dict(vec![("w0", Tensor(0)), ("more", Dict(vec![("w1", Tensor(1)), ("n", Number(2))]))]),
            "",
            &["w0", "more.w1"],
            &["more.n"],
        ),
    ];
    for (index, (object, root, keys, left_out)) in cases.iter().enumerate() {
        let input = file(&folder, &format!("{index}.pt"), object);
        let opened = open(&input).unwrap();
        assert_eq!(opened.root(), *root, "case {index}");
        let inner = if root.is_empty() { "state_dict".to_owned() } else { format!("{root}.state_dict") };
        let repairs = run!["inspect", &input, "--json"].json()["files"][0]["repairs"].clone();
        let kinds: Vec<_> = repairs.as_array().unwrap().iter().map(|repair| repair["kind"].clone()).collect();
        let expected: &[&str] = if left_out.contains(&inner.as_str()) { &["inner-state-dict"] } else { &[] };
        assert_eq!(kinds, expected, "case {index}");
        for extension in ["safetensors", "pt"] {
            let output = folder.join(&format!("{index}.out.{extension}"));
            let report = run!["convert", &input, "-o", &output, "--json"].json();
            let listed = report["left_out"].as_array().unwrap().iter().map(|line| line["path"].as_str().unwrap());
            assert_eq!(listed.collect::<Vec<_>>(), *left_out, "case {index}");
            let found = open(&output).unwrap();
            assert_eq!(found.state_dict().keys().collect::<Vec<_>>(), *keys, "case {index}");
            for (number, (_, tensor)) in found.state_dict().iter().enumerate() {
                assert_eq!(tensor.to_bytes().unwrap(), (number as f32).to_le_bytes(), "case {index}");
            }
        }
    }
}

#[test]
fn rejects_a_file_without_a_state_dict() {
    let folder = Folder::new();
    let cases = [
        (List(vec![1, 2]), &["found list, 2 tensors"][..]),
        (Dict(vec![("state_dict", Dict(vec![])), ("epoch", Number(2))]), &["no tensors found", "state_dict, epoch"]),
        (Dict(vec![("optimizer", Dict(weights(0..3)))]), &["no tensors found"]),
        (Dict(vec![("a.w0", Tensor(1)), ("a", Dict(weights(0..1)))]), &["tensor a.w0", "duplicate key"]),
        (Dict(vec![]), &["no tensors"]),
    ];
    for (index, (object, words)) in cases.iter().enumerate() {
        let input = file(&folder, &format!("{index}.pt"), object);
        let before = folder.snapshot();
        for output in ["out.safetensors", "out.ckpt"] {
            run!["convert", &input, "-o", folder.join(output)].refused(words);
            run!["convert", &input, "-o", folder.join(output), "--dry-run"].refused(words);
        }
        assert_eq!(folder.snapshot(), before);
    }
}

#[test]
fn keeps_the_structure_that_readers_look_for() {
    let folder = Folder::new();
    let output = folder.join("out.pt");
    for (name, keys) in [("single", &["emb_params"][..]), ("sdxl", &["clip_l", "clip_g"])] {
        let input = folder.join(&format!("{name}.safetensors"));
        save(&input, keys.iter().map(|&key| (key.to_owned(), f32s(&[1.0, 2.0]))));
        run!["convert", &input, "-o", &output, "--force"].done();
        let found = open(&output).unwrap();
        assert_eq!((found.root(), found.structure()), ("", &Structure::Bare), "{name}");
        assert_eq!(found.metadata().len(), 0);
    }
    // Files of other kinds go where most programs look.
    let input = folder.join("other.safetensors");
    save(&input, [("weight".into(), f32s(&[1.0]))]);
    run!["convert", &input, "-o", &output, "--force"].done();
    assert_eq!(open(&output).unwrap().root(), "state_dict");
    // Another component than the nested input has no structure to keep.
    let nested = Dict(vec![("a", Dict(weights(0..2))), ("b", Dict(weights(2..3)))]);
    let input = file(&folder, "nested.pt", &nested);
    run!["convert", &input, "-o", &output, "--force"].done();
    assert!(matches!(open(&output).unwrap().structure(), Structure::Nested(_)));
    assert_eq!(records(&output).iter().filter(|name| name.starts_with("data/")).count(), 3);
}

/// WebUI, spandrel and torch find the tensors of files that torch saved, and so does this program.
#[test]
fn agrees_with_torch_on_every_kind_of_file() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let outputs = folder.join("out");
    fs::create_dir(&outputs).unwrap();
    let names = peers.script("roots.py", &[folder.path()]);
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        for extension in ["safetensors", "pt"] {
            let (input, output) = (folder.join(&format!("{name}.ckpt")), outputs.join(format!("{name}.{extension}")));
            run!["convert", &input, "-o", &output].done();
        }
    }
    let faults = peers.script("roots.py", &[folder.path(), &outputs]);
    assert_eq!(faults.as_object().unwrap().len(), 0, "{faults}");
}

/// A YOLO of ADetailer is a pickled object of the program that trained it.
#[test]
fn names_the_object_of_a_file_without_a_state_dict() {
    let folder = Folder::new();
    let input = folder.join("yolo.pt");
    let pickle = b"\x80\x02}X\x05\x00\x00\x00modelcultralytics.nn.tasks\nDetectionModel\n)Rs.";
    zip(&input, &[("data.pkl", pickle)]);
    run!["inspect", &input].refused(&["no tensors found", "model (ultralytics.nn.tasks.DetectionModel)"]);
}
