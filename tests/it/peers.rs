//! Loads this program's outputs with torch, safetensors and picklescan, and applies the rules of WebUI's unpickler.
//!
//! Needs the Python environment that `python3 tests/peers/install.py` creates. Without it every test here is skipped
//! with a message, or fails with `TRINART_PEERS_REQUIRED=1`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::peers::{Facts, Peers};
use crate::support::{FIXTURES, Folder, Row, expected, facts, fixture, read, run, save, sha256, tensor, tensors};
use half::{bf16, f16};
use serde_json::json;
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};

const CONTAINERS: [&str; 2] = ["ckpt", "safetensors"];
const CASTS: [&str; 2] = ["f16", "bf16"];

/// The dtypes that every WebUI version accepts in a `.ckpt` file.
const DTYPES_OF_CKPT: [Dtype; 7] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::I32, Dtype::U8];

const POSITION_IDS: &str = "cond_stage_model.transformer.text_model.embeddings.position_ids";

// --- Helpers -------------------------------------------------------------------------------------------------------

/// Converts `input` to `name` in the folder.
fn convert(folder: &Folder, input: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let output = folder.join(name);
    let mut arguments = vec!["-q".into(), "convert".into(), input.into(), "-o".into(), output.clone().into()];
    arguments.extend(flags.iter().map(Into::into));
    run(&arguments).done();
    output
}

fn merge(folder: &Folder, base: &Path, vae: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let output = folder.join(name);
    let mut arguments = vec!["-q".into(), "merge-vae".into(), base.into(), "--vae".into(), vae.into()];
    arguments.extend(["-o".into(), output.clone().into()]);
    arguments.extend(flags.iter().map(Into::into));
    run(&arguments).done();
    output
}

/// The rows of the checkpoint with its VAE replaced, matched by key.
fn merged(base: &[Row], vae: &[Row]) -> Vec<Row> {
    let bare = |key: &str| key.strip_prefix("first_stage_model.").unwrap_or(key).to_owned();
    let place = |row: &Row| {
        if !row.0.starts_with("first_stage_model.") {
            return row.clone();
        }
        let (_, dtype, shape, hash) = vae.iter().find(|(key, ..)| bare(key) == bare(&row.0)).unwrap().clone();
        (row.0.clone(), dtype, shape, hash)
    };
    base.iter().map(place).collect()
}

/// Asserts that every library, and this program's reader, reads the expected tensors from every file.
#[track_caller]
fn assert_judged(peers: &Peers, files: &[(PathBuf, Vec<Row>)]) -> Vec<Facts> {
    let judged = peers.judge(files.iter().map(|(path, _)| path));
    for (facts, (path, expected)) in judged.iter().zip(files) {
        facts.assert_welcome();
        facts.assert_tensors(expected);
        facts.assert_tensors(&read(path));
    }
    judged
}

// --- Containers ----------------------------------------------------------------------------------------------------

#[test]
fn loads_every_fixture_from_every_container() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let mut files = Vec::new();
    for name in FIXTURES {
        for container in CONTAINERS {
            // A .ckpt cannot contain all of these dtypes; the next test covers the others.
            if (*name, container) != ("dtypes.ckpt", "ckpt") {
                let output = convert(&folder, &fixture(name), &format!("{name}.{container}"), &[]);
                files.push((output, expected(name)));
            }
        }
    }
    assert_judged(&peers, &files);
}

#[test]
fn loads_every_dtype_that_a_ckpt_can_hold() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let source = folder.join("source.safetensors");
    let fits = |(_, tensor): &(String, LazyTensor)| DTYPES_OF_CKPT.contains(&tensor.dtype());
    save(&source, tensors(&fixture("dtypes.ckpt")).into_iter().filter(fits));
    let known = expected("dtypes.ckpt");
    let expected: Vec<Row> = read(&source).into_iter().filter(|row| known.contains(row)).collect();
    assert_eq!(expected.len(), DTYPES_OF_CKPT.len());
    let output = convert(&folder, &source, "output.ckpt", &[]);
    assert_judged(&peers, &[(output, expected)]);
}

#[test]
fn loads_a_ckpt_converted_there_and_back() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let mut files = Vec::new();
    for name in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "views.ckpt"] {
        let there = convert(&folder, &fixture(name), &format!("{name}.there.safetensors"), &[]);
        files.push((convert(&folder, &there, &format!("{name}.back.ckpt"), &[]), expected(name)));
    }
    assert_judged(&peers, &files);
}

#[test]
fn keeps_shared_storages_shared() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let names = ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "views.ckpt", "views-legacy.ckpt"];
    let outputs = names.map(|name| convert(&folder, &fixture(name), name, &[]));
    let halved = convert(&folder, &fixture("tiny-sd1.ckpt"), "halved.ckpt", &["--dtype", "bf16"]);
    let attention = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1";
    let projections = json!([[format!("{attention}.to_q.weight"), format!("{attention}.to_k.weight")]]);
    assert_eq!(facts("tiny-sd1.ckpt")["shared"], projections);
    // Strided views become separate tensors. So do views that cover only a small part of their storage.
    let views = json!([["contiguous", "shared.flat_tail"], ["twice.first", "twice.second"]]);
    let shared = [&projections, &projections, &views, &views, &projections];
    for (facts, shared) in peers.judge(outputs.iter().chain([&halved])).iter().zip(shared) {
        assert_eq!(facts.field("shared"), shared, "{}", facts.file().display());
    }
}

#[test]
fn loads_plain_metadata_as_values() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let zip = convert(&folder, &fixture("tiny-sd1.ckpt"), "zip.ckpt", &[]);
    let legacy = convert(&folder, &fixture("tiny-sd1-legacy.ckpt"), "legacy.ckpt", &[]);
    let text = convert(&folder, &fixture("tiny-sd1.ckpt"), "text.safetensors", &[]);
    let described = convert(&folder, &fixture("tiny-sd1.safetensors"), "described.ckpt", &[]);
    let [zip, legacy, text, described] = peers.judge([zip, legacy, text, described]).try_into().ok().unwrap();
    // Compared as text because the order matters. The learning rate was a NumPy scalar, which describe.py would report.
    let values = json!({
        "epoch": 6,
        "global_step": 470_000,
        "pytorch-lightning_version": "1.4.2",
        "lr_schedulers": [{"last_epoch": 470_000, "_last_lr": [1e-4]}],
        "datamodule_counts": {"images": 1000, "skipped": 3},
    });
    assert_eq!(zip.field("extras").to_string(), values.to_string());
    assert_eq!(legacy.field("extras").to_string(), values.to_string());
    let texts = json!({
        "epoch": "6",
        "global_step": "470000",
        "pytorch-lightning_version": "1.4.2",
        "lr_schedulers": r#"[{"last_epoch": 470000, "_last_lr": [0.0001]}]"#,
        "datamodule_counts": r#"{"images": 1000, "skipped": 3}"#,
    });
    assert_eq!(text.field("metadata"), &texts);
    assert_eq!(described.field("extras"), &facts("tiny-sd1.safetensors")["metadata"]);
}

// --- Merging -------------------------------------------------------------------------------------------------------

#[test]
fn loads_merges_of_every_container() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let bare = convert(&folder, &fixture("tiny-vae.vae.pt"), "bare.safetensors", &[]);
    let donor = merge(&folder, &fixture("tiny-sd1.ckpt"), &bare, "donor.ckpt", &[]);
    let vaes = [fixture("tiny-vae.ckpt"), fixture("tiny-vae.vae.pt"), bare, donor];
    let mut files = Vec::new();
    for base in ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors"] {
        for (index, vae) in vaes.iter().enumerate() {
            for container in CONTAINERS {
                let output = merge(&folder, &fixture(base), vae, &format!("{base}.{index}.{container}"), &[]);
                files.push((output, merged(&expected(base), &expected("tiny-vae.ckpt"))));
            }
        }
    }
    let judged = assert_judged(&peers, &files);
    let vae = sha256(&fs::read(fixture("tiny-vae.ckpt")).unwrap());
    for (facts, place) in judged.iter().zip(["extras", "metadata"]) {
        let recipe = facts.field(place)["sd_merge_recipe"].as_str().unwrap();
        assert!(recipe.contains(&vae), "{recipe}");
    }
}

#[test]
fn loads_merges_that_cast() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let base = "tiny-sd1.ckpt";
    let (base_path, vae_path) = (fixture(base), fixture("tiny-vae.ckpt"));
    let mut files = Vec::new();
    for to in CASTS {
        let cast = peers.describe(&["--full", "--cast", to], [&base_path, &vae_path]);
        let [base_cast, vae_cast] = [cast[0].tensors().unwrap(), cast[1].tensors().unwrap()];
        for container in CONTAINERS {
            let whole = merge(&folder, &base_path, &vae_path, &format!("whole-{to}.{container}"), &["--dtype", to]);
            files.push((whole, merged(&base_cast, &vae_cast)));
            let flags = ["--vae-dtype", to];
            let vae_alone = merge(&folder, &base_path, &vae_path, &format!("vae-{to}.{container}"), &flags);
            files.push((vae_alone, merged(&expected(base), &vae_cast)));
        }
    }
    assert_judged(&peers, &files);
}

// --- Casts ---------------------------------------------------------------------------------------------------------

#[test]
fn casts_checkpoints_like_torch() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let names = ["tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-sd1.safetensors", "tiny-vae.ckpt", "views.ckpt"];
    let mut files = Vec::new();
    for to in CASTS {
        let cast = peers.describe(&["--full", "--cast", to], names.map(fixture));
        for (name, cast) in names.iter().zip(cast) {
            let expected = cast.tensors().unwrap();
            for container in CONTAINERS {
                let output = convert(&folder, &fixture(name), &format!("{name}-{to}.{container}"), &["--dtype", to]);
                files.push((output, expected.clone()));
            }
        }
    }
    for facts in &assert_judged(&peers, &files)[..2] {
        let tensors = facts.tensors().unwrap();
        let position_ids = tensors.iter().find(|(key, ..)| key == POSITION_IDS).unwrap();
        assert_eq!((position_ids.1.as_str(), &position_ids.2), ("I64", &vec![1, 77]));
    }
}

/// Tensors of every float dtype with edge values; `limit` bounds the finite ones.
fn edges(limit: f64) -> Vec<(String, LazyTensor)> {
    let fits = |value: f64| !value.is_finite() || value.abs() <= limit;
    // An odd step reaches all exponents, both signs, subnormals, both infinities and many NaN patterns.
    let singles = (0..u32::MAX).step_by(16_411).chain([0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 1, 0x8000_0000]);
    let singles: Vec<f32> = singles.map(f32::from_bits).filter(|&value| fits(value.into())).collect();
    // Just above the midpoint of two f16 values: torch rounds twice (f64 to f32 to f16), which gives the lower value.
    let near_ties = (0..1024).map(|step| 1.0 + (f64::from(step) + 0.5) / 1024.0 + 1e-12);
    let tiny = (1..2000).map(|step| f64::from(step) * 1e-11);
    let doubles = singles.iter().map(|&value| f64::from(value) * (1.0 + 1e-10)).filter(|&value| fits(value));
    let doubles: Vec<f64> = doubles.chain(near_ties).chain(tiny).chain([1e-310, f64::MIN_POSITIVE]).collect();
    let halves: Vec<u16> = (0..=u16::MAX).filter(|&bits| fits(f16::from_bits(bits).to_f64())).collect();
    let brains: Vec<u16> = (0..=u16::MAX).filter(|&bits| fits(bf16::from_bits(bits).to_f64())).collect();
    let flat = |dtype: Dtype, bytes: Vec<u8>| tensor(dtype, &[(bytes.len() / dtype.size()) as u64], bytes);
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut tensors = vec![
        ("f64", flat(Dtype::F64, doubles.iter().flat_map(|value| value.to_le_bytes()).collect())),
        ("f32", flat(Dtype::F32, singles.iter().flat_map(|value| value.to_le_bytes()).collect())),
        ("f16", flat(Dtype::F16, words(&halves))),
        ("bf16", flat(Dtype::BF16, words(&brains))),
        ("f8_e4m3", flat(Dtype::F8E4M3, (0..=u8::MAX).collect())),
        ("f8_e5m2", flat(Dtype::F8E5M2, (0..=u8::MAX).collect())),
        ("f8_e4m3fnuz", flat(Dtype::F8E4M3Fnuz, (0..=u8::MAX).collect())),
        ("f8_e5m2fnuz", flat(Dtype::F8E5M2Fnuz, (0..=u8::MAX).collect())),
        ("i64", flat(Dtype::I64, (0..800).map(|byte| byte as u8).collect())),
    ];
    // f8_e8m0 represents powers of two up to 2^127, so half of its values exceed f16.
    if limit > 65_504.0 {
        tensors.push(("f8_e8m0", flat(Dtype::F8E8M0, (0..=u8::MAX).collect())));
    }
    tensors.into_iter().map(|(key, tensor)| (key.to_owned(), tensor)).collect()
}

#[test]
fn casts_edge_values_like_torch() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let (fitting, all) = (folder.join("fitting.safetensors"), folder.join("all.safetensors"));
    save(&fitting, edges(65_504.0));
    save(&all, edges(f64::MAX));
    let dtypes = fixture("dtypes.ckpt");
    let mut expected = Vec::new();
    let mut outputs = Vec::new();
    for to in CASTS {
        let refused = run!["convert", &all, "-o", folder.join("refused.safetensors"), "--dtype", to];
        refused.refused(&["all.safetensors: tensor", "too large for", "--saturate"]);
        let plain = ["--cast", to, "--equal-nans"];
        expected.extend(peers.describe(&plain, [&fitting]));
        expected.extend(peers.describe(&[&plain[..], &["--saturate"]].concat(), [&all, &dtypes]));
        outputs.push(convert(&folder, &fitting, &format!("fitting-{to}.ckpt"), &["--dtype", to]));
        for (input, name) in [(&all, "all"), (&dtypes, "dtypes")] {
            let flags = ["--dtype", to, "--saturate"];
            outputs.push(convert(&folder, input, &format!("{name}-{to}.safetensors"), &flags));
        }
    }
    for (found, expected) in peers.describe(&["--equal-nans"], &outputs).iter().zip(expected) {
        found.assert_tensors(&expected.tensors().unwrap());
    }
}

// --- The checks themselves -----------------------------------------------------------------------------------------

#[test]
fn detects_a_damaged_output() {
    let Some(peers) = Peers::find() else { return };
    let folder = Folder::new();
    let name = "tiny-sd1.ckpt";
    let expected = expected(name);
    let betas = &tensors(&fixture(name))[0];
    let needle = betas.1.to_bytes().unwrap();
    let mut damaged = Vec::new();
    for container in CONTAINERS {
        let whole = convert(&folder, &fixture(name), &format!("whole.{container}"), &[]);
        let bytes = fs::read(&whole).unwrap();
        let mut write = |what: &str, bytes: &[u8]| damaged.push(folder.write(&format!("{what}.{container}"), bytes));
        write("without-the-last-byte", &bytes[..bytes.len() - 1]);
        write("half", &bytes[..bytes.len() / 2]);
        write("empty", &[]);
        let place = bytes.windows(needle.len()).position(|window| window == &needle[..]).unwrap();
        let mut flipped = bytes.clone();
        flipped[place + 5] ^= 1;
        write("a-bit-flipped", &flipped);
        let mut renamed = bytes.clone();
        let key = bytes.windows(betas.0.len()).position(|window| window == betas.0.as_bytes()).unwrap();
        renamed[key] ^= 1;
        write("a-key-renamed", &renamed);
    }
    for facts in peers.describe(&[], &damaged) {
        assert!(facts.difference(&expected).is_some(), "{}", facts.file().display());
    }
    let whole = peers.describe(&[], CONTAINERS.map(|container| folder.join(&format!("whole.{container}"))));
    for facts in whole {
        assert_eq!(facts.difference(&expected), None);
        assert!(facts.difference(&expected[1..]).is_some());
        let mut swapped = expected.clone();
        swapped.swap(10, 11);
        assert!(facts.difference(&swapped).is_some());
    }
}
