//! `merge-vae`: roles, families, files in diffusers names, and errors that name both files.

use std::path::{Path, PathBuf};

use crate::support::{self, Folder, assert_rows, expected, fixture, read, save, tensors};
use serde_json::{Value, json};
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor};

const PREFIX: &str = "first_stage_model.";

/// The diffusers fixture in one file, as some trainers write it, after `change`.
fn one_file(folder: &Folder, name: &str, change: impl Fn(&mut Vec<(String, LazyTensor)>)) -> PathBuf {
    let parts = [
        ("unet.", "unet/diffusion_pytorch_model.safetensors"),
        ("vae.", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder.", "text_encoder/model.safetensors"),
    ];
    let mut all = Vec::new();
    for (prefix, file) in parts {
        let found = tensors(&fixture("diffusers/sd1").join(file));
        all.extend(found.into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)));
    }
    change(&mut all);
    let path = folder.join(name);
    save(&path, all);
    path
}

/// The VAE of a file, under bare keys and sorted.
fn vae_of(path: &Path) -> Vec<support::Row> {
    let rows = read(path).into_iter();
    let bare = |row: support::Row| Some((row.0.strip_prefix(PREFIX)?.to_owned(), row.1, row.2, row.3));
    let mut rows: Vec<_> = rows.filter_map(bare).collect();
    rows.sort();
    rows
}

fn sorted(mut rows: Vec<support::Row>) -> Vec<support::Row> {
    rows.sort();
    rows
}

/// Writes the VAE fixture with a `config.json` of diffusers, as a folder.
fn vae_folder(folder: &Folder, scaling_factor: f64) -> PathBuf {
    let path = folder.join(&format!("vae-{scaling_factor}"));
    std::fs::create_dir(&path).unwrap();
    let source = fixture("diffusers/sd1/vae");
    std::fs::copy(source.join("diffusion_pytorch_model.safetensors"), path.join("diffusion_pytorch_model.safetensors"))
        .unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    config["scaling_factor"] = json!(scaling_factor);
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    path
}

#[test]
fn checks_who_is_the_checkpoint_and_who_the_vae() {
    let folder = Folder::new();
    let checkpoint = fixture("tiny-sd1.safetensors");
    let vae = fixture("tiny-vae.vae.pt");
    let lora = folder.join("lora.safetensors");
    save(&lora, vec![("lora_unet_mid_block.lora_down.weight".to_owned(), support::f32s(&[1.0]))]);
    let junk = folder.join("junk.ckpt");
    save(&junk, vec![("a.weight".to_owned(), support::f32s(&[1.0]))]);
    let output = folder.join("out.safetensors");
    let before = folder.snapshot();
    let cases: [(&Path, &Path, &[&str]); 5] = [
        (
            &vae,
            &checkpoint,
            &["tiny-vae.vae.pt: ", "found: VAE", "tiny-sd1.safetensors is such a checkpoint", "swap the two"],
        ),
        (&lora, &vae, &["lora.safetensors: ", "LoRA (kohya)", "tiny-vae.vae.pt"]),
        (&junk, &vae, &["junk.ckpt: ", "no known keys (a.weight)"]),
        (&checkpoint, &lora, &["lora.safetensors: ", "no VAE", "LoRA (kohya)", "tiny-sd1.safetensors"]),
        (&checkpoint, &junk, &["junk.ckpt: ", "no known keys (a.weight)", "tiny-sd1.safetensors"]),
    ];
    for (base, donor, words) in cases {
        run!["merge-vae", base, "--vae", donor, "-o", &output].refused(words);
    }
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn rejects_a_vae_of_another_family_unless_allowed() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.ckpt");
    let output = folder.join("out.safetensors");
    let other = vae_folder(&folder, 0.13025);
    run!["merge-vae", &base, "--vae", &other, "-o", &output].refused(&[
        "vae-0.13025: ",
        "scaling_factor 0.13025",
        "SD v1",
        "tiny-sd1.ckpt",
        "--allow-family-mismatch",
    ]);
    let report = run!["merge-vae", &base, "--vae", &other, "-o", &output, "--allow-family-mismatch", "--json"].json();
    assert_eq!(report["notices"][0]["code"], "vae-family-mismatch");
    let same = vae_folder(&folder, 0.18215);
    let report = run!["merge-vae", &base, "--vae", &same, "-o", &output, "--force", "--json"].json();
    assert_eq!(report["notices"], json!([]));
    // Into a folder of another scaling factor.
    let pipeline = folder.join("pipeline");
    run!["convert", fixture("diffusers/sd1"), "-o", &pipeline, "--to", "diffusers"].done();
    let config = pipeline.join("vae/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("0.18215"));
    std::fs::write(&config, text.replace("0.18215", "0.13025")).unwrap();
    run!["merge-vae", &pipeline, "--vae", &same, "-o", folder.join("out2.safetensors")].refused(&["another family"]);
    run!["merge-vae", &pipeline, "--vae", &other, "-o", folder.join("out3.safetensors")].done();
}

#[test]
fn reads_a_checkpoint_in_diffusers_names_in_one_file() {
    let folder = Folder::new();
    let vae = fixture("tiny-vae.vae.pt");
    let ldm = folder.join("ldm.safetensors");
    run!["convert", fixture("diffusers/sd1"), "-o", &ldm].done();
    let whole = one_file(&folder, "one.safetensors", |_| ());
    let converted = folder.join("converted.safetensors");
    let report = run!["convert", &whole, "-o", &converted, "--json"].json();
    assert_eq!(sorted(read(&converted)), sorted(read(&ldm)));
    let codes: Vec<&Value> = report["notices"].as_array().unwrap().iter().map(|notice| &notice["code"]).collect();
    assert!(codes.contains(&&json!("diffusers-names")), "{codes:?}");
    run!["diff", &whole, &ldm].done();

    let headless = one_file(&folder, "headless.ckpt", |all| all.retain(|(key, _)| !key.starts_with("vae.")));
    let broken = one_file(&folder, "broken.safetensors", |all| {
        for (key, tensor) in all.iter_mut().filter(|(key, _)| key.starts_with("vae.") && key.contains(".attentions.0."))
        {
            *key = key.replace(".to_q.", ".to_to_q.");
            if let &[rows] = tensor.shape().dims() {
                *tensor = support::tensor(Dtype::F32, &[rows, 1, 1], tensor.to_bytes().unwrap());
            }
        }
    });
    let wrapped = one_file(&folder, "wrapped.ckpt", |all| {
        all.iter_mut().for_each(|(key, _)| *key = format!("model.{key}"));
        all.push(("betas".to_owned(), support::f32s(&[1.0])));
    });
    let mut names: Vec<String> = read(&ldm).into_iter().map(|row| row.0).collect();
    names.sort();
    for base in [&whole, &headless, &broken, &wrapped] {
        let output = folder.join(&format!("{}.out.safetensors", base.file_stem().unwrap().to_string_lossy()));
        let report = run!["merge-vae", base, "--vae", &vae, "-o", &output, "--json"].json();
        assert_rows(&vae_of(&output), &sorted(expected("tiny-vae.vae.pt")));
        let mut found: Vec<String> = read(&output).into_iter().map(|row| row.0).filter(|key| key != "betas").collect();
        found.sort();
        assert_eq!(found, names, "{}", base.display());
        let has = |code: &str| report["notices"].as_array().unwrap().iter().any(|notice| notice["code"] == code);
        assert_eq!((has("old-vae-broken"), has("vae-inserted")), (base == &broken, base == &headless));
        assert!(has("diffusers-names") && !has("incomplete"), "{}", report["notices"]);
    }
    // A key that no model has: the file keeps its names, and merging says why it cannot.
    let unknown = one_file(&folder, "unknown.safetensors", |all| {
        all.push(("unet.stray.weight".to_owned(), support::f32s(&[1.0])));
    });
    let copy = folder.join("copy.safetensors");
    run!["convert", &unknown, "-o", &copy].done();
    assert_eq!(sorted(read(&copy)), sorted(read(&unknown)));
    run!["merge-vae", &unknown, "--vae", &vae, "-o", folder.join("no.safetensors")]
        .refused(&["unknown.safetensors: ", "names of diffusers that cannot be translated"]);
}

#[test]
fn errors_about_values_name_the_input_tensor_and_both_files() {
    let folder = Folder::new();
    let base = fixture("tiny-sd1.safetensors");
    let huge = |key: &str, all: &mut Vec<(String, LazyTensor)>| {
        let (_, tensor) = all.iter_mut().find(|(found, _)| found == key).unwrap();
        let elements = tensor.shape().elements() as usize;
        let bytes = std::iter::repeat_n(1e30_f32, elements).flat_map(f32::to_le_bytes).collect();
        *tensor = support::tensor(Dtype::F32, tensor.shape().dims(), bytes);
    };
    let mut all = tensors(&fixture("tiny-vae.vae.pt"));
    huge("decoder.conv_in.weight", &mut all);
    all.iter_mut().for_each(|(key, _)| *key = format!("vae.{key}"));
    let vae = folder.join("huge.safetensors");
    save(&vae, all);
    for output in ["out.safetensors", "out.ckpt"] {
        run!["merge-vae", &base, "--vae", &vae, "-o", folder.join(output), "--dtype", "f16"].refused(&[
            "huge.safetensors: tensor vae.decoder.conv_in.weight: ",
            "merging into ",
            "tiny-sd1.safetensors",
            "--saturate",
        ]);
    }
    let whole = one_file(&folder, "one.safetensors", |all| huge("unet.conv_in.weight", all));
    run!["convert", &whole, "-o", folder.join("out.ckpt"), "--dtype", "f16"]
        .refused(&["one.safetensors: tensor unet.conv_in.weight: ", "--saturate"]);
}
