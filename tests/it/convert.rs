//! `convert`: containers, dtypes, metadata and destinations.

use std::fs;
#[cfg(unix)]
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
#[cfg(unix)]
use std::process::Command;

use crate::support::{
    Folder, Row, assert_one_line, assert_rows, expected, f32s, fixture, pickle_tensor, read, records, save, tensor,
    tensors, zip,
};
use half::{bf16, f16};
use serde_json::Value;
use sha2::{Digest, Sha256};
use trinart_ckpt::formats::containers::Container;
use trinart_ckpt::formats::metadata::PyValue;
use trinart_ckpt::formats::pickle::Encoder;
use trinart_ckpt::formats::tensor::Dtype;

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn round_trips_through_every_container() {
    let folder = Folder::new();
    for name in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-vae.ckpt", "views.ckpt", "views-legacy.ckpt"] {
        let of = |step: &str| folder.join(&format!("{name}.{step}"));
        let (first, back, second) = (of("1.safetensors"), of("2.ckpt"), of("3.safetensors"));
        run!["convert", fixture(name), "-o", &first].done();
        run!["convert", &first, "-o", &back].done();
        run!["convert", &back, "-o", &second].done();
        for path in [&first, &back, &second] {
            assert_rows(&read(path), &expected(name));
        }
        assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "{name}");
    }
}

#[test]
fn notices_a_format_that_contradicts_the_extension() {
    let folder = Folder::new();
    let input = fixture("tiny-sd1.ckpt");
    let cases = [
        (
            "diffusers",
            "model.safetensors",
            Some("the output format is diffusers, but the extension of the output means safetensors"),
        ),
        (
            "safetensors",
            "model.ckpt",
            Some("the output format is safetensors, but the extension of the output means ckpt"),
        ),
        ("ckpt", "model.bin", None),
        ("safetensors", "model.sft", None),
        ("diffusers", "model/", None),
    ];
    for (format, name, expected) in cases {
        let report = run!["convert", &input, "--to", format, "-o", folder.join(name), "--dry-run", "--json"].json();
        let notices = report["notices"].as_array().unwrap();
        let found: Vec<_> = notices.iter().filter(|notice| notice["code"] == "format-contradicts-extension").collect();
        assert_eq!(found.first().map(|notice| notice["text"].as_str().unwrap()), expected, "{format} {name}");
    }
}

#[test]
fn writes_the_same_bytes_for_any_number_of_threads() {
    let folder = Folder::new();
    for name in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors", "views.ckpt"] {
        for extension in ["ckpt", "safetensors"] {
            let made = ["1", "8"].map(|jobs| {
                let output = folder.join(&format!("{name}.{jobs}.{extension}"));
                run!["convert", fixture(name), "-o", &output, "--jobs", jobs].done();
                fs::read(output).unwrap()
            });
            assert!(made[0] == made[1], "{name} to {extension}");
        }
    }
}

#[test]
fn keeps_the_order_of_metadata_as_values_or_text() {
    let folder = Folder::new();
    let (ckpt, safetensors) = (folder.join("out.ckpt"), folder.join("out.safetensors"));
    for name in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt"] {
        run!["convert", fixture(name), "-o", &ckpt, "--force"].done();
        run!["convert", fixture(name), "-o", &safetensors, "--force"].done();
        let values = crate::support::open(&ckpt).unwrap().metadata().clone();
        let text = crate::support::open(&safetensors).unwrap().metadata().clone();
        let names = ["epoch", "global_step", "pytorch-lightning_version", "lr_schedulers", "datamodule_counts"];
        let kept = |name: &&String| names.contains(&name.as_str());
        assert!(values.keys().filter(kept).eq(names), "{values:?}");
        assert!(text.keys().filter(kept).eq(names), "{text:?}");
        assert_eq!(values["epoch"], PyValue::Int(6));
        assert_eq!(values["pytorch-lightning_version"], PyValue::Str("1.4.2".into()));
        let string = |text: &str| PyValue::Str(text.into());
        let rates = PyValue::List(vec![PyValue::Float(1e-4)]);
        let scheduler = vec![(string("last_epoch"), PyValue::Int(470_000)), (string("_last_lr"), rates)];
        assert_eq!(values["lr_schedulers"], PyValue::List(vec![PyValue::Dict(scheduler)]));
        assert_eq!(text["global_step"], string("470000"));
        assert_eq!(text["lr_schedulers"], string(r#"[{"last_epoch": 470000, "_last_lr": [0.0001]}]"#));
        assert_eq!(text["datamodule_counts"], string(r#"{"images": 1000, "skipped": 3}"#));
    }
    run!["convert", fixture("tiny-sd1.safetensors"), "-o", &ckpt, "--force"].done();
    let (before, after) =
        (crate::support::open(fixture("tiny-sd1.safetensors")).unwrap(), crate::support::open(&ckpt).unwrap());
    assert!(after.metadata().iter().eq(before.metadata().iter()), "{:?}", after.metadata());
    assert_eq!(after.metadata()["modelspec.title"], PyValue::Str("Tiny SD v1 \u{2013} fixture".into()));
}

#[test]
fn lists_opaque_entries_without_writing_them() {
    let folder = Folder::new();
    for name in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt"] {
        for extension in ["ckpt", "safetensors"] {
            let output = folder.join(&format!("{name}.{extension}"));
            let report = run!["convert", fixture(name), "-o", &output, "--json"].json();
            let left_out = report["left_out"].as_array().unwrap();
            let (before, after) = (fs::read(fixture(name)).unwrap(), fs::read(&output).unwrap());
            for (entry, class) in [("callbacks", "ModelCheckpoint"), ("hyper_parameters", "DictConfig")] {
                let listed = |line: &Value| line["path"].as_str().unwrap().starts_with(entry);
                assert!(left_out.iter().any(listed), "{left_out:?}");
                assert!(contains(report["left_out"].to_string().as_bytes(), class), "{left_out:?}");
                assert!(contains(&before, class) && !contains(&after, class), "{class}");
            }
            assert!(left_out.iter().any(|line| line["path"].as_str().unwrap().starts_with("optimizer_states")));
            assert!(!contains(&after, "exp_avg"));
        }
    }
}

#[test]
fn casts_floats_and_leaves_integers() {
    let folder = Folder::new();
    let before = expected("tiny-sd1.ckpt");
    let floats = tensors(&fixture("tiny-sd1.ckpt"));
    for (dtype, name) in [("f16", "F16"), ("bf16", "BF16"), ("f32", "F32")] {
        let output = folder.join(&format!("{dtype}.safetensors"));
        let report = run!["convert", fixture("tiny-sd1.ckpt"), "-o", &output, "--dtype", dtype, "--json"].json();
        let after = read(&output);
        assert_eq!(after.len(), before.len());
        for (after, before) in after.iter().zip(&before) {
            match before.1.as_str() {
                "F16" | "F32" => assert_eq!((&after.0, after.1.as_str(), &after.2), (&before.0, name, &before.2)),
                _ => assert_eq!(after, before),
            }
        }
        let casts = report["ledger"].to_string().matches(r#""change":"cast""#).count();
        let is_cast = |row: &&Row| row.1 != name && row.1.starts_with(['F', 'B']);
        assert_eq!(casts, before.iter().filter(is_cast).count());
    }
    // Compare some f32 tensors with the conversions of the crate `half`.
    let open =
        |dtype: &str| crate::support::open(folder.join(&format!("{dtype}.safetensors"))).unwrap().state_dict().clone();
    let (halves, brains) = (open("f16"), open("bf16"));
    let singles: Vec<_> = floats.iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F32).step_by(10).collect();
    assert!(singles.len() > 20);
    for (key, single) in singles {
        let bytes = single.to_bytes().unwrap();
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let half: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let brain: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        assert_eq!(halves.get(key).unwrap().to_bytes().unwrap(), half, "{key}");
        assert_eq!(brains.get(key).unwrap().to_bytes().unwrap(), brain, "{key}");
    }
}

#[test]
fn rejects_a_cast_that_overflows_unless_saturating() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    let values = [1.0, -65520.0, f32::INFINITY, 7e4];
    save(&input, [("a".into(), f32s(&[1.0])), ("big.weight".into(), f32s(&values))]);
    for output in ["out.ckpt", "out.safetensors"] {
        let output = folder.join(output);
        run!["convert", &input, "-o", &output, "--dtype", "f16"].refused(&[
            "in.safetensors: tensor big.weight: ",
            "element 1",
            "-6.552e4",
            "--saturate",
        ]);
        assert_eq!(folder.names(), ["in.safetensors"]);
        run!["convert", &input, "-o", &output, "--dtype", "f16", "--saturate"].done();
        let found = crate::support::open(&output).unwrap().state_dict().get("big.weight").unwrap().to_bytes().unwrap();
        let halves = [f16::ONE, f16::MIN, f16::INFINITY, f16::MAX];
        assert_eq!(found, halves.map(f16::to_le_bytes).concat());
        fs::remove_file(output).unwrap();
    }
    let output = folder.join("dtypes.safetensors");
    run!["convert", fixture("dtypes.ckpt"), "-o", &output, "--dtype", "f16"].refused(&["dtypes.ckpt: tensor "]);
    run!["convert", fixture("dtypes.ckpt"), "-o", &output, "--dtype", "f16", "--saturate"].done();
    let floats = ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0"];
    for (after, before) in read(&output).iter().zip(&expected("dtypes.ckpt")) {
        let is_float = floats.contains(&before.1.as_str());
        assert_eq!(after.1, if is_float { "F16" } else { before.1.as_str() });
        assert!(is_float || after == before, "{after:?}");
    }
}

#[test]
fn writes_tied_tensors_as_one_record() {
    let folder = Folder::new();
    let mut encoder = Encoder::new();
    let tied = |encoder: &mut Encoder, key: &str| {
        encoder.str(key)?;
        pickle_tensor(encoder, ("torch", "FloatStorage"), "0", 50_000);
        Ok(())
    };
    encoder.dict(["embedding.weight", "head.weight"].into_iter(), tied).unwrap();
    let bytes: Vec<u8> = (0..50_000_u16).flat_map(|index| f32::from(index).to_le_bytes()).collect();
    let input = folder.join("tied.ckpt");
    zip(&input, &[("data.pkl", &encoder.finish()), ("data/0", &bytes)]);
    let (kept, half, apart) = (folder.join("kept.ckpt"), folder.join("half.ckpt"), folder.join("apart.safetensors"));
    run!["convert", &input, "-o", &kept].done();
    run!["convert", &input, "-o", &half, "--dtype", "f16"].done();
    run!["convert", &input, "-o", &apart].done();
    for (path, size) in [(&kept, 200_000), (&half, 100_000)] {
        let found = records(path).into_iter().filter(|name| name.starts_with("data/")).collect::<Vec<_>>();
        assert_eq!(found, ["data/0"]);
        assert!((size..size + 4096).contains(&path.metadata().unwrap().len()), "{path:?}");
    }
    assert_rows(&read(&kept), &read(&input));
    assert_rows(&read(&apart), &read(&input));
    let output = folder.join("views.ckpt");
    run!["convert", fixture("views.ckpt"), "-o", &output].done();
    assert_rows(&read(&output), &expected("views.ckpt"));
    assert!(output.metadata().unwrap().len() <= fixture("views.ckpt").metadata().unwrap().len());
}

#[test]
fn rejects_dtypes_that_a_ckpt_cannot_hold() {
    let folder = Folder::new();
    for dtype in [Dtype::U16, Dtype::U32, Dtype::U64, Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F8E8M0] {
        let input = folder.join(&format!("{dtype}.safetensors"));
        save(&input, [("odd.weight".into(), tensor(dtype, &[3], vec![0; 3 * dtype.size()]))]);
        let before = folder.snapshot();
        let words = [&format!("{dtype}.safetensors: tensor odd.weight: "), dtype.name()];
        run!["convert", &input, "-o", folder.join("out.ckpt")].refused(&words);
        run!["convert", &input, "-o", folder.join("out.ckpt"), "--dry-run"].refused(&words);
        assert_eq!(folder.snapshot(), before);
    }
    run!["convert", fixture("dtypes.ckpt"), "-o", folder.join("all.safetensors")].done();
    assert_rows(&read(&folder.join("all.safetensors")), &expected("dtypes.ckpt"));
}

#[test]
fn continues_after_an_input_that_fails() {
    let folder = Folder::new();
    let bad = folder.write("bad.ckpt", "not a checkpoint");
    let out = folder.join("out");
    fs::create_dir(&out).unwrap();
    let (first, last) = (fixture("tiny-vae.ckpt"), fixture("views.ckpt"));
    let ran = run!["convert", &first, &bad, &last, "--out-dir", &out, "--to", "safetensors", "--json=document"];
    assert_eq!(ran.code, Some(2));
    assert_one_line(&ran.stderr, &["bad.ckpt: "]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(results[1]["error"]["kind"], "malformed");
    assert_eq!(results[1]["input"], bad.to_str().unwrap());
    assert_eq!(results[2]["input"], last.to_str().unwrap());
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["tiny-vae.safetensors", "views.safetensors"]);
    assert_rows(&read(&out.join("tiny-vae.safetensors")), &expected("tiny-vae.ckpt"));
    assert_rows(&read(&out.join("views.safetensors")), &expected("views.ckpt"));
    let good = run!["convert", &first, &last, "--out-dir", &out, "--to", "ckpt"].done();
    assert_eq!(good.lines().filter(|line| line.contains(" -> ")).count(), 2, "{good}");
}

#[test]
fn prints_the_sha256_of_the_verified_output() {
    let folder = Folder::new();
    let sha256 = |path: &Path| -> String {
        Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    for (input, extension) in [("tiny-sd1.ckpt", "safetensors"), ("tiny-sd1.safetensors", "ckpt"), ("views.ckpt", "pt")]
    {
        for jobs in ["1", "4"] {
            let output = folder.join(&format!("{jobs}.{extension}"));
            let report = run!["convert", fixture(input), "-o", &output, "--jobs", jobs, "--force", "--json"].json();
            assert_eq!((&report["sha256"], &report["verified"]), (&sha256(&output).into(), &true.into()), "{input}");
        }
    }
    let output = folder.join("merged.safetensors");
    let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.ckpt"));
    let text = run!["merge-vae", &base, "--vae", &vae, "-o", &output].done();
    assert!(text.contains(&format!("\n  sha256       {}\n", sha256(&output))), "{text}");
    let folder_output = folder.join("diffusers");
    for (output, option) in [(&output, "--no-verify"), (&output, "--dry-run"), (&folder_output, "--to=diffusers")] {
        let report = run!["convert", &base, "-o", output, option, "--force", "--json"].json();
        assert!(report["sha256"].is_null(), "{option}");
    }
}

#[test]
fn reports_an_error_as_json_and_as_one_line() {
    let folder = Folder::new();
    let bad = folder.write("bad.ckpt", "not a checkpoint");
    let ran = run!["convert", &bad, "-o", folder.join("out.safetensors"), "--json"];
    assert_eq!(ran.code, Some(2));
    assert_one_line(&ran.stderr, &["bad.ckpt: "]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["error"]["kind"], "malformed");
    assert_eq!(report["error"]["file"], bad.to_str().unwrap());
    let message = report["error"]["message"].as_str().unwrap();
    assert!(ran.stderr.contains(message), "{message}");
}

#[test]
fn takes_the_format_from_to_or_the_extension() {
    let folder = Folder::new();
    let input = fixture("tiny-vae.vae.pt");
    let cases = [
        ("a.safetensors", None, Container::Safetensors),
        ("c.SafeTensors", None, Container::Safetensors),
        ("a.ckpt", None, Container::TorchZip),
        ("a.pt", None, Container::TorchZip),
        ("a.pth", None, Container::TorchZip),
        ("a.bin", None, Container::TorchZip),
        ("b.ckpt", Some("safetensors"), Container::Safetensors),
        ("b.safetensors", Some("ckpt"), Container::TorchZip),
        ("b.weights", Some("ckpt"), Container::TorchZip),
    ];
    for (name, to, container) in cases {
        let output = folder.join(name);
        match to {
            Some(to) => run!["convert", &input, "-o", &output, "--to", to].done(),
            None => run!["convert", &input, "-o", &output].done(),
        };
        assert_eq!(crate::support::open(&output).unwrap().container(), container, "{name}");
    }
    let before = folder.snapshot();
    for name in ["c.weights", "c", "c.zip"] {
        run!["convert", &input, "-o", folder.join(name)].refused(&[name, "--to"]);
    }
    assert_eq!(folder.snapshot(), before);
}

#[cfg(unix)]
#[test]
fn creates_outputs_with_the_mode_of_the_umask() {
    let folder = Folder::new();
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        let output = folder.join(&format!("{umask}.ckpt"));
        let script = format!(r#"umask {umask}; exec "$0" "$@""#);
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, crate::support::PROGRAM, "convert"])
            .arg(fixture("views.ckpt"))
            .arg("-o")
            .arg(&output);
        assert!(command.output().unwrap().status.success());
        assert_eq!(output.metadata().unwrap().permissions().mode() & 0o777, mode, "{umask}");
    }
}

#[cfg(unix)]
#[test]
fn writes_through_a_symbolic_link() {
    let folder = Folder::new();
    fs::create_dir(folder.join("models")).unwrap();
    let (target, link) = (folder.write("models/target.ckpt", "old"), folder.join("link.ckpt"));
    symlink("models/target.ckpt", &link).unwrap();
    run!["convert", fixture("views.ckpt"), "-o", &link].refused(&["link.ckpt", "--force"]);
    assert_eq!(fs::read(&target).unwrap(), b"old");
    run!["convert", fixture("views.ckpt"), "-o", &link, "--force"].done();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&target).unwrap().is_file());
    assert_rows(&read(&target), &expected("views.ckpt"));
}
