//! `audit`: each planted problem is found, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use serde_json::{Value, json};

use crate::support::{Folder, PROGRAM, Ran, fixture, save, tensor, tensors};
use trinart_ckpt::formats::tensor::{Dtype, LazyTensor, Overflow};

type Tensors = Vec<(String, LazyTensor)>;

const UNET: &str = "model.diffusion_model.middle_block.0.in_layers.2.weight";
const IDS: &str = "cond_stage_model.transformer.text_model.embeddings.position_ids";

/// The tensors of a checkpoint without EMA, in which one value is `seed`, so that no two are duplicates.
fn model(seed: u8) -> Tensors {
    let mut all = tensors(&fixture("tiny-sd1.safetensors"));
    all.retain(|(key, _)| !key.starts_with("model_ema"));
    change(&mut all, "model.diffusion_model.out.2.bias", |bytes| bytes[0] = seed);
    all
}

/// Changes the bytes of a tensor.
fn change(all: &mut Tensors, key: &str, change: impl Fn(&mut Vec<u8>)) {
    let (_, found) = all.iter_mut().find(|(found, _)| found == key).unwrap();
    let mut bytes = found.to_bytes().unwrap();
    change(&mut bytes);
    *found = tensor(found.dtype(), found.shape().dims(), bytes);
}

fn cast(all: Tensors, to: Dtype) -> Tensors {
    let as_dtype = |(key, found): (String, LazyTensor)| match found.dtype().is_float() {
        true => (key, found.cast(to, Overflow::Refuse).unwrap()),
        false => (key, found),
    };
    all.into_iter().map(as_dtype).collect()
}

fn without(mut all: Tensors, prefix: &str) -> Tensors {
    all.retain(|(key, _)| !key.starts_with(prefix));
    all
}

fn vae(all: &Tensors) -> Tensors {
    all.iter().filter_map(|(key, it)| Some((key.strip_prefix("first_stage_model.")?.to_owned(), it.clone()))).collect()
}

fn lora() -> Tensors {
    let half = |dims: &[u64]| tensor(Dtype::F16, dims, vec![1; dims.iter().product::<u64>() as usize * 2]);
    let name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    vec![(format!("{name}.lora_up.weight"), half(&[320, 4])), (format!("{name}.lora_down.weight"), half(&[4, 320]))]
}

/// A WebUI with healthy and bad files, and the findings that there should be: file and code.
struct WebUi {
    folder: Folder,
    planted: BTreeSet<(String, &'static str)>,
}

impl WebUi {
    fn new() -> Self {
        let folder = Folder::new();
        for sub in ["models/Stable-diffusion/sub folder", "models/VAE", "models/Lora", "embeddings", "venv"] {
            fs::create_dir_all(folder.join(sub)).unwrap();
        }
        WebUi { folder, planted: BTreeSet::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        // Findings name files with the separator of the system.
        name.split('/').fold(self.folder.join("models"), |path, part| path.join(part))
    }

    fn healthy(&self, name: &str, all: Tensors) {
        save(&self.path(name), all);
    }

    fn plant(&mut self, name: &str, code: &'static str, write: impl FnOnce(&Path)) {
        write(&self.path(name));
        self.planted.insert((self.path(name).to_str().unwrap().to_owned(), code));
    }
}

fn webui() -> WebUi {
    let mut ui = WebUi::new();
    ui.healthy("Stable-diffusion/good.safetensors", model(1));
    ui.healthy("Stable-diffusion/sub folder/モデル.ckpt", model(2));
    ui.healthy("Stable-diffusion/sidecarred.safetensors", without(model(3), "first_stage_model."));
    ui.healthy("VAE/kl-f8.safetensors", vae(&model(4)));
    ui.healthy("VAE/named.vae.pt", cast(vae(&model(4)), Dtype::F16));
    ui.healthy("Lora/style.safetensors", lora());
    for (name, text) in [
        ("models/Stable-diffusion/good.preview.png", "picture"),
        ("models/Stable-diffusion/good.png", "picture"),
        ("models/Stable-diffusion/good.txt", "notes"),
        ("models/Stable-diffusion/Put checkpoints here.txt", ""),
        ("venv/junk.pt", "junk"),
    ] {
        ui.folder.write(name, text);
    }
    fs::copy(ui.path("VAE/kl-f8.safetensors"), ui.path("Stable-diffusion/sidecarred.vae.safetensors")).unwrap();

    ui.plant("Stable-diffusion/bare.safetensors", "no-vae", |it| save(it, without(model(5), "first_stage_model.")));
    let broken = "first_stage_model.decoder.up.1.";
    ui.plant("Stable-diffusion/broken vae.ckpt", "broken-vae", |it| save(it, without(model(6), broken)));
    ui.plant("Stable-diffusion/less.safetensors", "incomplete", |it| {
        save(it, without(model(7), "model.diffusion_model.out.2.weight"));
    });
    ui.plant("Stable-diffusion/headless.safetensors", "incomplete", |it| {
        save(it, without(model(14), "cond_stage_model."));
    });
    ui.plant("Stable-diffusion/ids.safetensors", "position-ids", |it| {
        let mut all = model(8);
        change(&mut all, IDS, |bytes| bytes[8] = 9);
        save(it, all);
    });
    ui.plant("Stable-diffusion/named.ckpt", "wrong-extension", |it| {
        save(&it.with_extension("safetensors"), model(9));
        fs::rename(it.with_extension("safetensors"), it).unwrap();
    });
    ui.plant("Stable-diffusion/pickled.safetensors", "wrong-extension", |it| {
        save(&it.with_extension("ckpt"), model(10));
        fs::rename(it.with_extension("ckpt"), it).unwrap();
    });
    ui.plant("Stable-diffusion/sub folder/lora.safetensors", "wrong-folder", |it| save(it, lora()[..1].to_vec()));
    ui.plant("Lora/whole.safetensors", "wrong-folder", |it| save(it, model(11)));
    ui.plant("Stable-diffusion/ema.ckpt", "ema", |it| {
        let mut all = model(12);
        let big = tensor(Dtype::F32, &[100_000], vec![1; 400_000]);
        all.push(("model_ema.diffusion_modelinput_blocks00weight".into(), big));
        save(it, all);
    });
    ui.plant("Stable-diffusion/cut.safetensors", "damaged", |it| {
        save(it, model(13));
        fs::File::options().write(true).open(it).unwrap().set_len(500_000).unwrap();
    });
    ui.plant("Stable-diffusion/page.ckpt", "damaged", |it| fs::write(it, "<!DOCTYPE html>").unwrap());
    ui.plant("Stable-diffusion/evil.ckpt", "dangerous-pickle", |it| {
        fs::copy(fixture("hostile/calls-system.ckpt"), it).unwrap();
    });
    ui.plant("Stable-diffusion/gone.preview.png", "orphaned-sidecar", |it| fs::write(it, "picture").unwrap());
    ui.plant("Lora/gone.json", "orphaned-sidecar", |it| {
        fs::write(it, json!({"sd version": "SD1", "activation text": "x"}).to_string()).unwrap();
    });
    ui.plant("Stable-diffusion/good.civitai.info", "stale-sidecar", |it| {
        let hashes = json!({"SHA256": "AB".repeat(32)});
        fs::write(it, json!({"files": [{"sizeKB": 4_000_000, "hashes": hashes}]}).to_string()).unwrap();
    });
    ui.plant("Stable-diffusion/big.safetensors.crdownload", "leftover", |it| fs::write(it, "half").unwrap());
    ui.plant("Stable-diffusion/.x.1-0.trinart-partial", "leftover", |it| fs::write(it, "half").unwrap());
    ui
}

/// Runs an audit with a cache folder of its own.
fn audit(ui: &WebUi, more: &[&str]) -> Ran {
    let mut command = Command::new(PROGRAM);
    command.arg("audit").arg(ui.folder.path()).args(more);
    for name in ["XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"] {
        command.env(name, ui.folder.join("cache"));
    }
    command.output().unwrap().into()
}

fn found(report: &Value) -> BTreeSet<(String, &str)> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|it| (it["file"].as_str().unwrap().to_owned(), it["code"].as_str().unwrap())).collect()
}

#[test]
fn a_vae_without_its_checkpoint_is_moved_and_not_deleted() {
    let ui = WebUi::new();
    ui.healthy("Stable-diffusion/good.safetensors", model(1));
    ui.healthy("Stable-diffusion/alone.vae.safetensors", vae(&model(2)));
    let report = audit(&ui, &["--json=document"]).json_of_no();
    let [finding] = report["findings"].as_array().unwrap().as_slice() else { panic!("{report}") };
    let (alone, moved) = (ui.path("Stable-diffusion/alone.vae.safetensors"), ui.path("VAE/alone.vae.safetensors"));
    assert_eq!((&finding["code"], &finding["file"]), (&json!("orphaned-sidecar"), &json!(alone.to_str().unwrap())));
    assert_eq!(finding["remedy"], json!({ "move": moved.to_str().unwrap() }));
    assert!(finding.get("saves").is_none(), "{finding}");
    // Elsewhere, it stays where it is.
    let folder = Folder::new();
    save(&folder.join("good.safetensors"), model(1));
    save(&folder.join("alone.vae.safetensors"), vae(&model(2)));
    let ran = run!["audit", folder.path(), "--json=document"].json_of_no();
    assert!(ran["findings"].as_array().unwrap().iter().all(|finding| finding.get("remedy").is_none()), "{ran}");
}

#[test]
fn a_copy_in_the_wrong_folder_is_the_duplicate() {
    let ui = WebUi::new();
    ui.healthy("Stable-diffusion/a-long-name.safetensors", model(1));
    ui.healthy("VAE/b.safetensors", model(1));
    let report = audit(&ui, &["--json=document", "--select", "duplicate"]).json_of_no();
    let files: Vec<&Value> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["file"]).collect();
    assert_eq!(files, [ui.path("VAE/b.safetensors").to_str().unwrap()]);
}

#[test]
fn knows_the_embeddings_of_webui() {
    let found = run!["inspect", fixture("render/networks/word.pt"), "--json"].json()["files"][0].take();
    assert_eq!((&found["kind"], &found["root"]), (&json!("textual-inversion"), &json!("string_to_param")));
}

#[test]
fn finds_each_planted_problem_and_nothing_else() {
    let ui = webui();
    let report = audit(&ui, &["--json=document"]).json_of_no();
    let planted: BTreeSet<(String, &str)> = ui.planted.clone();
    assert_eq!(found(&report), planted);
    let commands = report["findings"].as_array().unwrap().iter().filter(|it| it["command"].is_string()).count();
    assert!(commands >= planted.len() - 4, "only damaged and incomplete files have no remedy");
    let rows = report["files"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["file"] == ui.path(name).to_str().unwrap()).unwrap();
    let good = row("Stable-diffusion/good.safetensors");
    assert_eq!(
        ["kind", "architecture", "vae", "prediction"].map(|it| &good[it]),
        ["checkpoint", "SD v1", "own", "epsilon"]
    );
    assert_eq!(row("Stable-diffusion/sidecarred.safetensors")["vae"], "beside");
    assert_eq!(row("Stable-diffusion/bare.safetensors")["vae"], "missing");
    assert!(good["preview"].as_str().unwrap().ends_with("good.preview.png"));
}

// On Windows, the commands are for PowerShell.
#[cfg(unix)]
#[test]
fn commands_of_findings_remove_them() {
    let ui = webui();
    let select = "no-vae,wrong-extension,wrong-folder,ema,orphaned-sidecar,leftover,position-ids,stale-sidecar";
    let report = audit(&ui, &["--json=document", "--select", select]).json_of_no();
    for finding in report["findings"].as_array().unwrap() {
        let command = finding["command"].as_str().unwrap();
        let command = command.replace("trinart-ckpt ", &format!("{PROGRAM} "));
        let command = command.replace("--vae VAE", &format!("--vae '{}'", ui.path("VAE/kl-f8.safetensors").display()));
        let ran = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        // A copy is the remedy where the file itself is not changed.
        let file = finding["file"].as_str().unwrap();
        if ["no-vae", "ema"].contains(&finding["code"].as_str().unwrap()) {
            fs::remove_file(file).unwrap();
        }
    }
    let left = audit(&ui, &["--json=document", "--select", select]);
    assert_eq!(left.code, Some(0), "{}", left.stdout);
}

/// A path in the folder, with the separators of the system.
fn path_of(folder: &Folder, path: &str) -> PathBuf {
    path.split('/').fold(folder.path().to_owned(), |parent, name| parent.join(name))
}

#[test]
fn moves_files_into_the_folders_that_are_there() {
    let folder = Folder::new();
    for root in ["webui/models/Stable-diffusion", "comfy/models/checkpoints"] {
        fs::create_dir_all(folder.join(root)).unwrap();
    }
    for (from, all, to, text) in [
        ("webui/embeddings", lora(), "webui/models/Lora", "a LoRA (kohya) in a folder of embeddings"),
        ("webui/models/Lora", model(1), "webui/models/Stable-diffusion", "checkpoint in a folder of LoRAs"),
        ("comfy/models/loras", model(2), "comfy/models/checkpoints", "checkpoint in a folder of LoRAs"),
        ("comfy/models/embeddings", lora(), "comfy/models/loras", "a LoRA (kohya) in a folder of embeddings"),
        ("comfy/models/vae", lora(), "comfy/models/loras", "a LoRA (kohya) in a folder of VAEs"),
    ] {
        fs::create_dir_all(folder.join(from)).unwrap();
        let path = folder.join(from).join("file.safetensors");
        save(&path, all);
        let root = folder.join(from.split('/').next().unwrap());
        let report = run!["audit", &root, "--select", "wrong-folder", "--json=document"].json_of_no();
        let [finding] = report["findings"].as_array().unwrap().as_slice() else { panic!("{report}") };
        assert!(finding["text"].as_str().unwrap().ends_with(text), "{finding}");
        assert_eq!(finding["remedy"], json!({"move": path_of(&folder, to).join("file.safetensors")}));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn only_problems_and_codes_narrow_the_report() {
    let ui = webui();
    let all = audit(&ui, &[]).no();
    assert!(all.contains("good.safetensors") && all.lines().last().unwrap().contains("headers only"), "{all}");
    let problems = audit(&ui, &["--only-problems"]).no();
    assert!(!problems.contains("/good.safetensors") && problems.contains("no-vae"), "{problems}");
    let report =
        audit(&ui, &["--json=document", "--ignore", "no-vae,damaged", "--select", "damaged,leftover"]).json_of_no();
    assert_eq!(found(&report).iter().map(|(_, code)| *code).collect::<BTreeSet<_>>(), BTreeSet::from(["leftover"]));
    let misspelled = audit(&ui, &["--select", "no-vea"]);
    assert!(misspelled.code == Some(2) && misspelled.stderr.contains("no-vae"), "{}", misspelled.stderr);
}

#[test]
fn reads_all_values_once_and_remembers_them() {
    let mut ui = webui();
    let nan = f16::NAN.to_le_bytes();
    ui.plant("Stable-diffusion/nan.ckpt", "non-finite", |it| {
        let mut all = model(20);
        change(&mut all, UNET, |bytes| bytes[..2].copy_from_slice(&nan));
        save(it, all);
    });
    ui.plant("Stable-diffusion/zero.safetensors", "all-zero", |it| {
        let mut all = model(21);
        change(&mut all, UNET, |bytes| bytes.fill(0));
        save(it, all);
    });
    ui.plant("Stable-diffusion/sub folder/copy.ckpt", "duplicate", |it| save(it, model(1)));
    ui.healthy("Stable-diffusion/large.safetensors", cast(model(22), Dtype::F32));
    ui.plant("Stable-diffusion/small.ckpt", "duplicate", |it| save(it, cast(model(22), Dtype::F16)));
    // Two VAEs are one in two dtypes; the one beside its checkpoint is there on purpose.
    ui.planted.insert((ui.path("VAE/named.vae.pt").to_str().unwrap().to_owned(), "duplicate"));
    let first = audit(&ui, &["--deep", "--json=document"]).json_of_no();
    assert_eq!(found(&first), ui.planted);

    let rows = first["files"].as_array().unwrap();
    let good = ui.path("Stable-diffusion/good.safetensors").to_str().unwrap().to_owned();
    let copy = ui.path("Stable-diffusion/sub folder/copy.ckpt").to_str().unwrap().to_owned();
    let row = rows.iter().find(|row| row["file"] == good.as_str()).unwrap();
    let hashes = run!["hash", &good, "--json"].json();
    for name in ["sha256", "autov2", "autov3", "legacy", "components", "rounded"] {
        assert_eq!(row["hashes"][name], hashes["files"][0][name], "{name}");
    }
    assert_eq!(first["remembered"], 0);
    let second = audit(&ui, &["--deep", "--json=document"]).json_of_no();
    assert_eq!(second["remembered"], rows.len());
    assert_eq!((&second["files"], &second["findings"]), (&first["files"], &first["findings"]));
    // A file that changes is read again.
    fs::remove_file(&good).unwrap();
    save(Path::new(&good), model(99));
    let third = audit(&ui, &["--deep", "--json=document"]).json_of_no();
    assert_eq!(third["remembered"], rows.len() - 1);
    assert!(!found(&third).contains(&(copy, "duplicate")));
    assert_eq!(audit(&ui, &["--deep", "--json=document", "--no-cache"]).json_of_no()["remembered"], 0);
}

#[test]
fn audits_at_the_same_time_share_their_memory() {
    let ui = webui();
    let files = audit(&ui, &["--json=document"]).json_of_no()["files"].as_array().unwrap().len();
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            (0..4).map(|_| scope.spawn(|| audit(&ui, &["--deep", "--json=document"]).json_of_no())).collect();
        let reports: Vec<Value> = runs.into_iter().map(|run| run.join().unwrap()).collect();
        assert!(reports.iter().all(|report| report["findings"] == reports[0]["findings"]));
    });
    assert_eq!(audit(&ui, &["--deep", "--json=document"]).json_of_no()["remembered"], files);
    // A database that is none is replaced.
    let database = walk(&ui.folder.join("cache")).into_iter().find(|it| it.ends_with("audit.redb")).unwrap();
    fs::write(&database, "damaged").unwrap();
    assert_eq!(audit(&ui, &["--deep", "--json=document"]).json_of_no()["remembered"], 0);
    assert_eq!(audit(&ui, &["--deep", "--json=document"]).json_of_no()["remembered"], files);
}

fn walk(root: &Path) -> Vec<PathBuf> {
    trinart_ckpt::formats::walk::list_files(root).files
}

#[test]
fn names_the_vae_in_any_dtype() {
    let folder = Folder::new();
    fs::create_dir(folder.join("vaes")).unwrap();
    let exact = cast(vae(&model(1)), Dtype::F32);
    let bf16 = cast(exact.clone(), Dtype::BF16);
    save(&folder.join("vaes/known.safetensors"), exact);
    for (name, all) in [
        ("f16.safetensors", cast(model(2), Dtype::F16)),
        ("f32.ckpt", cast(model(3), Dtype::F32)),
        ("bf16.safetensors", cast(model(4), Dtype::BF16)),
        ("vae-bf16.ckpt", bf16),
    ] {
        save(&folder.join(name), all);
        for command in ["inspect", "hash"] {
            let ran = run![command, folder.join(name), "--vae-dir", folder.join("vaes"), "--json"].json();
            let which = ran["files"][0]["which_vae"].as_str().unwrap_or_default();
            assert!(which.starts_with("equal to ") && which.ends_with("known.safetensors"), "{command} {name}: {ran}");
        }
    }
    let mut other = model(5);
    change(&mut other, "first_stage_model.decoder.conv_in.weight", |bytes| bytes[2] ^= 1);
    save(&folder.join("other.safetensors"), other);
    let ran = run!["hash", folder.join("other.safetensors"), "--vae-dir", folder.join("vaes"), "--json"].json();
    assert!(!ran["files"][0]["which_vae"].as_str().unwrap_or_default().starts_with("equal"), "{ran}");
    run!["hash", folder.join("other.safetensors"), "--vae-dir", folder.join("none")].refused(&["not a folder of VAEs"]);
}

/// A VAE that exists only in BF16 is that of checkpoints with more precise values that round to it.
#[test]
fn names_a_vae_in_bf16_in_more_precise_checkpoints() {
    let ui = WebUi::new();
    let exact = cast(vae(&model(1)), Dtype::F32);
    save(&ui.path("VAE/known.safetensors"), cast(exact, Dtype::BF16));
    save(&ui.path("Stable-diffusion/f32.safetensors"), cast(model(2), Dtype::F32));
    let mut other = cast(model(3), Dtype::F32);
    change(&mut other, "first_stage_model.decoder.conv_in.weight", |bytes| bytes[2] ^= 0x80);
    save(&ui.path("Stable-diffusion/other.safetensors"), other);
    // Equal in BF16 to the first, and neither is in BF16.
    let mut near = cast(vae(&model(1)), Dtype::F32);
    change(&mut near, "decoder.conv_in.weight", |bytes| bytes[1] ^= 0x40);
    save(&ui.folder.join("near.safetensors"), near);
    let which = |ran: &Value| ran["files"][0]["which_vae"].as_str().unwrap_or_default().to_owned();
    // The folder of VAEs of the WebUI is known without an option.
    for command in ["inspect", "hash"] {
        let found = which(&run![command, ui.path("Stable-diffusion/f32.safetensors"), "--json"].json());
        assert!(found.starts_with("equal to ") && found.ends_with("known.safetensors"), "{command}: {found}");
        let found = which(&run![command, ui.path("Stable-diffusion/other.safetensors"), "--json"].json());
        assert!(!found.starts_with("equal"), "{command}: {found}");
        let f32_vae = ui.path("Stable-diffusion/f32.safetensors");
        let found = which(&run![command, &f32_vae, "--vae-dir", near_folder(&ui), "--json"].json());
        assert!(!found.starts_with("equal"), "{command}: {found}");
    }
    let report = audit(&ui, &["--deep", "--no-cache", "--json=document"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let row = |name: &str| {
        let rows = report["files"].as_array().unwrap();
        rows.iter().find(|row| row["file"].as_str().unwrap().ends_with(name)).unwrap().clone()
    };
    assert!(row("f32.safetensors")["which_vae"].as_str().unwrap().ends_with("known.safetensors"));
    assert!(!row("other.safetensors")["which_vae"].as_str().unwrap_or_default().starts_with("equal"));
}

/// A folder with the VAE `near.safetensors` alone.
fn near_folder(ui: &WebUi) -> PathBuf {
    let folder = ui.folder.join("near");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(ui.folder.join("near.safetensors"), folder.join("near.safetensors")).unwrap();
    folder
}

/// Without --deep, copies of files are found by their bytes; one value makes a difference.
#[test]
fn finds_copies_without_reading_values() {
    let ui = WebUi::new();
    save(&ui.path("Stable-diffusion/a.safetensors"), model(1));
    fs::copy(ui.path("Stable-diffusion/a.safetensors"), ui.path("Stable-diffusion/sub folder/b.safetensors")).unwrap();
    save(&ui.path("Stable-diffusion/c.safetensors"), model(2));
    fs::copy(ui.path("Stable-diffusion/c.safetensors"), ui.path("Stable-diffusion/d.safetensors")).unwrap();
    save(&ui.path("Stable-diffusion/e.safetensors"), model(3));
    let report = audit(&ui, &["--json=document"]).json_of_no();
    let names = found(&report);
    let expected: BTreeSet<(String, &str)> = ["sub folder/b.safetensors", "d.safetensors"]
        .map(|name| (ui.path(&format!("Stable-diffusion/{name}")).to_str().unwrap().to_owned(), "duplicate"))
        .into();
    assert_eq!(names, expected);
    let texts: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["text"].as_str().unwrap()).collect();
    assert!(texts.iter().all(|text| text.starts_with("is the same file as ")), "{texts:?}");
    assert_eq!(audit(&ui, &["--ignore", "duplicate"]).code, Some(0));
}

/// The program of Chromium, under the names that systems give it.
fn chromium() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file())
}

/// A picture of one color, as a PNG.
fn picture() -> Vec<u8> {
    let chunk = |kind: &[u8], content: &[u8]| {
        let body = [kind, content].concat();
        let sum = crc32fast::hash(&body);
        [&(content.len() as u32).to_be_bytes()[..], &body, &sum.to_be_bytes()].concat()
    };
    let header = [&16_u32.to_be_bytes()[..], &16_u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut rows = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut rows, &[[0; 1].as_slice(), &[90; 48]].concat().repeat(16)).unwrap();
    let data = rows.finish().unwrap();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &data), chunk(b"IEND", b"")].concat()
}

#[test]
fn the_page_sorts_and_filters_in_a_browser_and_loads_nothing() {
    let ui = webui();
    ui.folder.write("models/Stable-diffusion/good.preview.png", picture());
    let page = ui.folder.join("page.html");
    audit(&ui, &["--html", page.to_str().unwrap()]).no();
    let again = audit(&ui, &["--html", page.to_str().unwrap()]);
    assert!(again.code == Some(2) && again.stderr.contains("already exists"), "{}", again.stderr);
    audit(&ui, &["--html", page.to_str().unwrap(), "--force"]).no();
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("data:image/jpeg;base64,") && !text.contains("http://") && !text.contains("https://"));

    let Some(chromium) = chromium() else { return println!("skipped in a browser: there is no Chromium") };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/browse.py");
    let ran = Command::new("python3").arg(script).args([&chromium, &page]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let seen: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let names = |step: &str| -> Vec<String> { serde_json::from_value(seen[step].clone()).unwrap() };
    assert_eq!((&seen["errors"], &seen["requests"]), (&json!([]), &json!([])));
    assert_eq!((&seen["light"], &seen["dark"]), (&json!("rgb(255, 255, 255)"), &json!("rgb(20, 23, 28)")));
    let all = names("at first");
    let report = audit(&ui, &["--json=document"]).json_of_no();
    let mut rows: Vec<(u64, &str)> = report["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["bytes"].as_u64().unwrap(), row["file"].as_str().unwrap()))
        .collect();
    assert_eq!(all.len(), rows.len());
    // The first click on a number sorts the largest first, the second the smallest.
    rows.sort();
    assert!(rows.last().unwrap().1.ends_with(&names("by size")[0]) && seen["sort"] == "descending");
    assert!(rows[0].1.ends_with(&names("by size again")[0]));
    let files = found(&report).into_iter().map(|(file, _)| file).collect::<BTreeSet<_>>();
    let with = rows.iter().filter(|(_, file)| files.contains(*file)).count();
    assert_eq!(names("with findings").len(), with);
    let lora = names("lora");
    assert!(!lora.is_empty() && lora.len() < all.len() && lora.iter().any(|name| name.contains("style")), "{lora:?}");
    assert_eq!(seen["status"], format!("{} of {} files", lora.len(), all.len()));
    assert!(seen["details"].as_str().unwrap().contains("container"));
    assert!(seen["pictures"].as_u64().unwrap() <= 1);
}
