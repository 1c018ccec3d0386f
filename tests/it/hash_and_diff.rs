//! `hash` and `diff`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    FIXTURES, Folder, assert_one_line, content_hash, content_hashes, expected, f32s, facts, fixture, read, save,
    sha256, tensor, tensors,
};
use half::{bf16, f16};
use serde_json::{Value, json};
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt::models::Component;

const VAE: &str = "first_stage_model.";
/// The same state dict in three containers.
const SAME: [&str; 3] = ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors"];
/// The first digits of the sha256 of empty data, which is the legacy hash of every file below 1 MiB.
const NOTHING: &str = "e3b0c442";

// --- hash ----------------------------------------------------------------------------------------------------------

/// The entry of one file in `hash --json`.
#[track_caller]
fn hashes(path: &Path) -> Value {
    let mut report = run!["hash", path, "--json"].json();
    assert_eq!((report.as_object().unwrap().len(), &report["schema"]), (2, &json!("trinart-ckpt/1")));
    assert_eq!(report["files"].as_array().unwrap().len(), 1);
    report["files"][0].take()
}

/// The offset of the end of a safetensors header.
fn data_offset(bytes: &[u8]) -> usize {
    8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap()
}

#[test]
fn hashes_the_bytes_of_a_file() {
    for name in FIXTURES {
        let bytes = fs::read(fixture(name)).unwrap();
        let found = hashes(&fixture(name));
        let whole = sha256(&bytes);
        assert_eq!(found["file"], fixture(name).to_str().unwrap());
        assert_eq!(found["sha256"], whole.as_str());
        assert_eq!(found["sha256"], facts(name)["sha256"]);
        assert_eq!(found["autov2"], whole[..10]);
        let autov3 = name.ends_with(".safetensors").then(|| sha256(&bytes[data_offset(&bytes)..])[..12].to_owned());
        assert_eq!(found["autov3"], json!(autov3), "{name}");
        let legacy = &bytes[bytes.len().min(0x10_0000)..bytes.len().min(0x11_0000)];
        assert_eq!(found["legacy"], sha256(legacy)[..8], "{name}");
        assert!(bytes.len() > 0x10_0000 || found["legacy"] == NOTHING);
        assert_eq!(found["published"], Value::Null);
        let fields: Vec<&String> = found.as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            [
                "file",
                "sha256",
                "autov2",
                "autov3",
                "legacy",
                "published",
                "components",
                "rounded",
                "toolkit",
                "which_vae",
                "which_text_encoder",
                "unreadable",
                "non_finite"
            ]
        );
    }
}

#[test]
fn prints_every_hash_with_its_name() {
    for name in ["tiny-sd1.safetensors", "tiny-vae.ckpt"] {
        let text = run!["hash", fixture(name)].done();
        let found = hashes(&fixture(name));
        let mut lines = vec![("sha256", &found["sha256"]), ("AutoV2", &found["autov2"])];
        lines.extend(found["autov3"].is_string().then_some(("AutoV3", &found["autov3"])));
        lines.push(("legacy hash", &found["legacy"]));
        let label = |name: &str| Component::ALL.iter().find(|it| it.name() == name).unwrap().text();
        lines.extend(found["components"].as_object().unwrap().iter().map(|(name, hash)| (label(name), hash)));
        let mut lines: Vec<String> =
            lines.iter().map(|(label, hash)| format!("  {label:<17} {}\n", hash.as_str().unwrap())).collect();
        for (name, hash) in found["rounded"].as_object().unwrap() {
            if ["unet", "vae", "text-encoder"].contains(&name.as_str()) {
                lines.push(format!("  {:<17} {}\n", format!("{} F16", label(name)), hash.as_str().unwrap()));
            }
        }
        lines.push(format!("  {:<17} {}\n", "model-toolkit", found["toolkit"].as_str().unwrap()));
        assert_eq!(text, format!("{}\n{}", fixture(name).display(), lines.concat()));
    }
}

#[test]
fn ignores_metadata_in_autov3_and_content_hashes() {
    let folder = Folder::new();
    let bytes = fs::read(fixture("tiny-sd1.safetensors")).unwrap();
    let data = data_offset(&bytes);
    let mut header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    header["__metadata__"]["modelspec.title"] = "Another title, and a longer one".into();
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    assert_ne!(header.len() + 8, data);
    let edited = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &bytes[data..]].concat();
    let (before, after) = (hashes(&fixture("tiny-sd1.safetensors")), hashes(&folder.write("edited.st", edited)));
    assert_eq!(before["autov3"].as_str().unwrap().len(), 12);
    for same in ["autov3", "components"] {
        assert_eq!(before[same], after[same]);
    }
    for other in ["sha256", "autov2"] {
        assert_ne!(before[other], after[other]);
    }
}

#[test]
fn hashes_64_kib_at_1_mib_for_the_legacy_hash() {
    let folder = Folder::new();
    let file = |count: u32, name: &str| {
        let path = folder.join(name);
        let values: Vec<f32> = (0..count).map(|value| value as f32).collect();
        save(&path, [("big.weight".to_owned(), f32s(&values))]);
        path
    };
    let path = file(300_000, "large.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > 0x11_0000);
    let legacy = sha256(&bytes[0x10_0000..0x11_0000])[..8].to_owned();
    assert_eq!(hashes(&path)["legacy"], legacy.as_str());
    for (offset, is_seen) in [(0xf_ffff, false), (0x10_0000, true), (0x10_ffff, true), (0x11_0000, false)] {
        bytes[offset] ^= 1;
        let changed = hashes(&folder.write("changed.safetensors", &bytes));
        assert_eq!(changed["legacy"] != legacy.as_str(), is_seen, "{offset:#x}");
        assert_ne!(changed["sha256"], hashes(&path)["sha256"]);
        bytes[offset] ^= 1;
    }
    // A file that ends within the 64 KiB is hashed up to its end.
    let path = file(270_000, "between.safetensors");
    let bytes = fs::read(&path).unwrap();
    assert!((0x10_0000..0x11_0000).contains(&bytes.len()));
    assert_eq!(hashes(&path)["legacy"], sha256(&bytes[0x10_0000..])[..8]);
    assert_eq!(hashes(&file(1000, "small.safetensors"))["legacy"], NOTHING);
}

#[test]
fn hashes_content_independently_of_the_container() {
    let first = hashes(&fixture(SAME[0]))["components"].take();
    let names: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(names, ["unet", "vae", "text-encoder", "ema", "schedule-buffers"]);
    for name in ["unet", "vae", "text-encoder"] {
        assert_eq!(first[name], content_hash("tiny-sd1.safetensors", name), "{name}");
        let rounded = &hashes(&fixture(SAME[0]))["rounded"][name];
        assert_eq!(rounded, &content_hashes()["tiny-sd1.safetensors"][name]["rounded"], "{name}");
    }
    for name in &SAME[1..] {
        assert_eq!(hashes(&fixture(name))["components"], first, "{name}");
    }
}

#[test]
fn hashes_a_vae_alone_and_merged_alike() {
    let folder = Folder::new();
    let alone = hashes(&fixture("tiny-vae.vae.pt"))["components"].take();
    assert_eq!(alone, json!({ "vae": content_hash("tiny-vae.vae.pt", "vae") }));
    assert_eq!(hashes(&fixture("tiny-vae.ckpt"))["components"]["vae"], alone["vae"]);
    let prefixed = folder.join("prefixed.safetensors");
    let all = tensors(&fixture("tiny-vae.vae.pt")).into_iter();
    save(&prefixed, all.map(|(key, tensor)| (format!("vae.{key}"), tensor)));
    assert_eq!(hashes(&prefixed)["components"], alone);
    for name in SAME {
        let merged = folder.join(&format!("{name}.merged.safetensors"));
        run!["merge-vae", fixture(name), "--vae", fixture("tiny-vae.ckpt"), "-o", &merged].done();
        let (before, after) = (hashes(&fixture(name)), hashes(&merged));
        assert_eq!(after["components"]["vae"], alone["vae"]);
        assert_ne!(before["components"]["vae"], alone["vae"]);
        for other in ["unet", "text-encoder", "ema", "schedule-buffers"] {
            assert_eq!(before["components"][other], after["components"][other]);
        }
    }
}

#[test]
fn includes_the_dtype_in_the_content_hash() {
    let folder = Folder::new();
    let output = folder.join("f16.safetensors");
    run!["convert", fixture("tiny-sd1.ckpt"), "-o", &output, "--dtype", "f16"].done();
    let (before, after) = (hashes(&fixture("tiny-sd1.ckpt")), hashes(&output));
    assert_ne!(before["components"]["vae"], after["components"]["vae"]);
    // The UNet of the fixture is already f16.
    assert_eq!(before["components"]["unet"], after["components"]["unet"]);
}

#[test]
fn continues_after_a_file_that_fails() {
    let folder = Folder::new();
    let (good, missing) = (fixture("tiny-vae.vae.pt"), folder.join("missing.ckpt"));
    let bad = folder.write("bad.ckpt", "not a checkpoint");
    let ran = run!["hash", &good, &bad, fixture("views.ckpt"), "--json=document"];
    assert_eq!(ran.code, Some(2));
    assert_one_line(&ran.stderr, &["bad.ckpt: "]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    assert_eq!(files[0], hashes(&good));
    assert_eq!((&files[1]["file"], &files[1]["error"]["kind"]), (&json!(bad), &json!("malformed")));
    assert_eq!(files[2], hashes(&fixture("views.ckpt")));
    let ran = run!["hash", &missing, &good];
    assert_eq!((ran.code, ran.stdout), (Some(2), run!["hash", &good].done()));
    assert_one_line(&ran.stderr, &["missing.ckpt: "]);
    run!["hash", &missing].refused(&["missing.ckpt: "]);
}

// --- diff ----------------------------------------------------------------------------------------------------------

/// Writes a file with these tensors.
fn file(folder: &Folder, name: &str, tensors: &[(&str, LazyTensor)]) -> PathBuf {
    let path = folder.join(name);
    save(&path, tensors.iter().map(|(key, tensor)| ((*key).to_owned(), tensor.clone())));
    path
}

/// `component: (equal tensors, different tensors)`.
fn counts(report: &Value) -> BTreeMap<&str, (u64, usize)> {
    let count =
        |component: &Value| (component["equal"].as_u64().unwrap(), component["different"].as_array().unwrap().len());
    let components = report["components"].as_array().unwrap();
    components.iter().map(|component| (component["name"].as_str().unwrap(), count(component))).collect()
}

#[test]
fn finds_equal_content_in_every_container() {
    for (a, b) in SAME.iter().flat_map(|a| SAME.iter().map(move |b| (fixture(a), fixture(b)))) {
        let text = run!["diff", &a, &b].done();
        assert!(text.starts_with(&format!("equal\nA {}\nB {}\n", a.display(), b.display())), "{text}");
        let report = run!["diff", &a, &b, "--json"].json();
        assert_eq!((&report["a"], &report["b"], &report["equal"]), (&json!(a), &json!(b), &json!(true)));
        let equal = [("unet", 686), ("vae", 248), ("text-encoder", 197), ("ema", 2), ("schedule-buffers", 12)];
        assert_eq!(counts(&report), equal.map(|(name, equal)| (name, (equal, 0))).into());
        for (name, equal) in equal {
            let label = Component::ALL.iter().find(|it| it.name() == name).unwrap().text();
            assert!(text.contains(&format!("  {label:<17} {equal} equal\n")), "{text}");
        }
    }
}

#[test]
fn finds_only_the_vae_different_after_a_merge() {
    let folder = Folder::new();
    let (base, merged) = (fixture("tiny-sd1.ckpt"), folder.join("merged.safetensors"));
    run!["merge-vae", &base, "--vae", fixture("tiny-vae.ckpt"), "-o", &merged].done();
    let report = run!["diff", &base, &merged, "--json"].json_of_no();
    assert_eq!(report["equal"], false);
    let others = [("unet", (686, 0)), ("text-encoder", (197, 0)), ("ema", (2, 0)), ("schedule-buffers", (12, 0))];
    assert_eq!(counts(&report), others.into_iter().chain([("vae", (0, 248))]).collect());
    let components = report["components"].as_array().unwrap();
    let listed = components.iter().flat_map(|component| component["different"].as_array().unwrap());
    let keys: Vec<&str> = listed.map(|line| line["key"].as_str().unwrap()).collect();
    let expected = expected("tiny-sd1.ckpt").into_iter().map(|row| row.0).filter(|key| key.starts_with(VAE));
    assert!(expected.eq(keys.iter().copied()), "{keys:?}");
    let text = run!["diff", &base, &merged].no();
    assert!(
        text.starts_with("different: VAE\n") && text.contains("  VAE               248 with different values\n"),
        "{text}"
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("    first_stage_model.")).count(), 8);
    assert!(text.contains("    and 240 more; --json lists all\n"), "{text}");
    // The VAE in a file of bare keys is compared with that of the checkpoint.
    let report = run!["diff", &merged, fixture("tiny-vae.vae.pt"), "--json"].json_of_no();
    assert_eq!(counts(&report)["vae"], (248, 0));
    assert_eq!(counts(&report)["unet"], (0, 686));
}

#[test]
fn finds_an_f16_copy_equal_but_for_dtype() {
    let folder = Folder::new();
    let copy = folder.join("f16.safetensors");
    run!["convert", fixture("tiny-sd1.ckpt"), "-o", &copy, "--dtype", "f16"].done();
    for (a, b) in [(fixture("tiny-sd1.ckpt"), copy.clone()), (copy, fixture("tiny-sd1.ckpt"))] {
        let text = run!["diff", &a, &b].no();
        assert!(text.contains("  VAE               248 equal except for dtype\n"), "{text}");
        assert!(text.contains("  UNet              686 equal\n"), "{text}");
        let report = run!["diff", &a, &b, "--json"].json_of_no();
        assert_eq!(counts(&report)["vae"], (0, 248));
        let different = report["components"].as_array().unwrap().iter().flat_map(|component| {
            component["different"].as_array().unwrap().iter().map(|line| (&line["found"], &line["result"]))
        });
        let (found, result) = (json!("both"), json!("same-values"));
        assert!(different.into_iter().all(|line| line == (&found, &result)));
    }
}

#[test]
fn reports_every_kind_of_difference() {
    let folder = Folder::new();
    let same = ("model.diffusion_model.same", f32s(&[1.0, f32::NAN]));
    let a = [
        same.clone(),
        ("model.diffusion_model.only_a", f32s(&[1.0])),
        ("model.diffusion_model.shape", f32s(&[1.0, 2.0])),
        ("first_stage_model.encoder.values", f32s(&[1.0, 2.0, 3.0, 4.0])),
        ("strange.thing", f32s(&[0.0])),
    ];
    let b = [
        ("cond_stage_model.only_b", f32s(&[1.0])),
        ("first_stage_model.encoder.values", f32s(&[1.0, 2.25, 3.0, 2.5])),
        ("model.diffusion_model.shape", tensor(Dtype::F32, &[2, 1], vec![0; 8])),
        ("strange.thing", f32s(&[0.0])),
        same,
    ];
    let (a, b) = (file(&folder, "a.safetensors", &a), file(&folder, "b.ckpt", &b));
    let text = run!["diff", &a, &b].no();
    for line in [
        "  UNet              1 equal, 1 only in A, 1 with different shapes\n",
        "    model.diffusion_model.only_a: only in A\n",
        "    model.diffusion_model.shape: [2] and [2, 1]\n",
        "  VAE               1 with different values\n",
        "    first_stage_model.encoder.values: 2 elements differ by at most 1.500e0\n",
        "  text encoder      1 only in B\n",
        "  other             1 equal\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!text.contains("cond_stage_model.only_b"), "what only one side has is one line: {text}");
    let side = |shape: &[u64]| json!({ "dtype": "F32", "shape": shape });
    let values = json!({ "key": "first_stage_model.encoder.values", "found": "both", "a": side(&[4]), "b": side(&[4]),
        "result": "values", "elements": 2, "max_abs": 1.5 });
    let shape = json!({ "key": "model.diffusion_model.shape", "found": "both", "a": side(&[2]), "b": side(&[2, 1]),
        "result": "shape" });
    let only_a = json!({ "key": "model.diffusion_model.only_a", "found": "only-in-a" });
    let only_b = json!({ "key": "cond_stage_model.only_b", "found": "only-in-b" });
    let components = json!([
        { "name": "unet", "equal": 1, "different": [only_a, shape] },
        { "name": "vae", "equal": 0, "different": [values] },
        { "name": "text-encoder", "equal": 0, "different": [only_b] },
        { "name": "other", "equal": 1, "different": [] },
    ]);
    let report = run!["diff", &a, &b, "--json"].json_of_no();
    let schema = "trinart-ckpt/1";
    let non_finite = json!([{ "tensor": "model.diffusion_model.same", "nan": 1, "infinite": 0 }]);
    assert_eq!(
        report,
        json!({ "schema": schema, "a": a, "b": b, "equal": false, "components": components, "not_compared": 0, "metadata": [],
            "non_finite": { "a": non_finite, "b": non_finite } })
    );
}

/// The results of comparing two one-tensor files, in both directions.
fn compared(folder: &Folder, name: &str, a: LazyTensor, b: LazyTensor) -> [Value; 2] {
    let (a, b) = [("a", a), ("b", b)]
        .map(|(side, tensor)| file(folder, &format!("{name}.{side}.ckpt"), &[("t", tensor)]))
        .into();
    [run!["diff", &a, &b, "--json"], run!["diff", &b, &a, "--json"]]
        .map(|ran| ran.json_of_no()["components"][0]["different"][0]["result"].take())
}

#[test]
fn treats_rounded_values_as_the_same_in_both_directions() {
    let folder = Folder::new();
    let values = [1.001_f32, -0.3, 7.77];
    let halves = values.map(f16::from_f32);
    let half = tensor(Dtype::F16, &[3], halves.iter().flat_map(|half| half.to_le_bytes()).collect());
    let brains = halves.iter().flat_map(|half| bf16::from_f32(half.to_f32()).to_le_bytes()).collect();
    let doubles = values.iter().flat_map(|&single| f64::from(single).to_le_bytes()).collect();
    let other = |dtype: Dtype, bytes: Vec<u8>| tensor(dtype, &[3], bytes);
    for (name, a, b) in [
        ("half", f32s(&values), half.clone()),
        ("double", f32s(&values), other(Dtype::F64, doubles)),
        ("brain", half, other(Dtype::BF16, brains)),
    ] {
        assert_eq!(compared(&folder, name, a, b), ["same-values", "same-values"], "{name}");
    }
}

#[test]
fn compares_position_ids_by_value() {
    let folder = Folder::new();
    let integers = tensor(Dtype::I64, &[77], (0..77_i64).flat_map(i64::to_le_bytes).collect());
    let floats: Vec<f32> = (0..77_u8).map(f32::from).collect();
    assert_eq!(compared(&folder, "ids", integers, f32s(&floats)), ["same-values", "same-values"]);
}

#[test]
fn keeps_two_spellings_of_a_key_apart() {
    let folder = Folder::new();
    let (key, bare) = ("first_stage_model.encoder.conv_in.bias", "encoder.conv_in.bias");
    let a = file(&folder, "a.safetensors", &[(key, f32s(&[1.0])), (bare, f32s(&[2.0]))]);
    let b = file(&folder, "b.safetensors", &[(bare, f32s(&[2.0]))]);
    for (a, b) in [(&a, &b), (&b, &a)] {
        let ran = run!["diff", a, b];
        assert!(matches!(ran.code, Some(1 | 2)), "{}", ran.stdout);
    }
}

#[test]
fn reports_a_file_that_cannot_be_opened_in_one_line() {
    let folder = Folder::new();
    let (good, missing) = (fixture("tiny-vae.vae.pt"), folder.join("missing.ckpt"));
    let bad = folder.write("bad.safetensors", "not a checkpoint");
    for other in [&missing, &bad] {
        let name = other.file_name().unwrap().to_str().unwrap();
        run!["diff", &good, other].refused(&[name]);
        run!["diff", other, &good].refused(&[name]);
    }
    let ran = run!["diff", &good, &missing, "--json"];
    assert_eq!(ran.code, Some(2));
    assert_one_line(&ran.stderr, &["missing.ckpt: "]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["error"]["kind"], &report["error"]["file"]), (&json!("io"), &json!(missing)));
    assert_eq!(read(&good), expected("tiny-vae.vae.pt"));
}
