//! What lies beside checkpoints: previews, sidecars, and what killed runs left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::place::{Role, destination};
use crate::report::{AuditFinding, AuditedFile, FindingCode, Remedy, size};
use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_formats::io::file_bytes;
use trinart_ckpt_models::{FileKind, sidecar};

/// The ends of names of incomplete files: of this program, of browsers, of download managers, and of Hugging Face's library.
const LEFTOVERS: &[&str] = &[
    ".trinart-partial",
    ".trinart-replaced",
    ".crdownload",
    ".opdownload",
    ".download",
    ".partial",
    ".part",
    ".filepart",
    ".aria2",
    ".!ut",
    ".incomplete",
];

/// The size of the largest description that is read.
const DESCRIPTION: u64 = 4 << 20;

/// The ends of sidecars that nothing else has.
const CERTAIN: &[&str] = &[".civitai.info", ".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp"];

/// The ends of pictures, the best first.
const PICTURES: &[&str] =
    &[".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp", ".png", ".jpg", ".jpeg", ".webp"];

/// Whether a file is a leftover by its name.
pub(super) fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem = name.strip_suffix(".tmp").map(Path::new);
    LEFTOVERS.iter().any(|end| name.ends_with(end)) || stem.is_some_and(|stem| Target::from_extension(stem).is_some())
}

/// Finds leftovers and orphaned sidecars among all files.
pub(super) fn strays(files: &[PathBuf], models: &BTreeSet<PathBuf>) -> Vec<AuditFinding> {
    let mut findings = Vec::new();
    let mut by_folder: BTreeMap<&Path, Vec<&PathBuf>> = BTreeMap::new();
    for file in files {
        if is_leftover(file) {
            let bytes = file_bytes(file);
            let text = format!("{} that a download or a run has not finished", size(bytes));
            let finding = AuditFinding::new(file.to_string_lossy(), FindingCode::Leftover, text);
            findings.push(finding.with(Remedy::Delete).saving(bytes));
        } else if let Some(folder) = file.parent() {
            by_folder.entry(folder).or_default().push(file);
        }
    }
    for (folder, files) in by_folder {
        findings.extend(orphans(folder, &files, models));
    }
    findings
}

/// Finds the sidecars in a folder whose checkpoint is not there.
fn orphans(folder: &Path, files: &[&PathBuf], models: &BTreeSet<PathBuf>) -> Vec<AuditFinding> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut has_models = false;
    for model in models.range(folder.to_owned()..).take_while(|model| model.starts_with(folder)) {
        if model.parent() == Some(folder) && !is_vae_sidecar(model) {
            has_models = true;
            let whole = model.file_name().map(|name| name.to_string_lossy().into_owned());
            let stem = model.file_stem().map(|name| name.to_string_lossy().into_owned());
            names.extend(whole.into_iter().chain(stem));
        }
    }
    // What belongs to no model of the folder by its name, and how many with the same ending do.
    let mut alone: BTreeMap<&str, Vec<(&PathBuf, &str)>> = BTreeMap::new();
    let mut matched: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
        let Some((stem, ending)) = sidecar::split(name) else { continue };
        if names.contains(stem) {
            *matched.entry(ending).or_default() += 1;
        } else {
            alone.entry(ending).or_default().push((file, stem));
        }
    }
    let role = Role::of(&folder.join("file"));
    let mut findings = Vec::new();
    for (ending, files) in alone {
        let is_vae = ending.starts_with(".vae.");
        let usual = matched.get(ending).copied().unwrap_or_default();
        for (file, stem) in &files {
            let is_orphan = match ending {
                _ if is_vae => has_models && role != Some(Role::Vaes),
                _ if CERTAIN.contains(&ending) => true,
                ".yaml" => has_models && is_configuration(file),
                ".json" => is_description(file),
                // Other pictures and texts are sidecars where most of them are. WebUI keeps empty texts in its folders.
                _ => usual >= files.len() && file_bytes(file) > 0,
            };
            if is_orphan {
                let text = format!("belongs to {stem}, which is not there");
                let finding = AuditFinding::new(file.to_string_lossy(), FindingCode::OrphanedSidecar, text);
                // A VAE may be the only one of its kind.
                let place = destination(file, FileKind::Vae).filter(|_| is_vae);
                findings.push(match place {
                    Some(to) => finding.with(Remedy::Move(to)),
                    None if is_vae => finding,
                    None => finding.with(Remedy::Delete).saving(file_bytes(file)),
                });
            }
        }
    }
    findings
}

/// Whether a file is named as the VAE of a checkpoint.
pub(super) fn is_vae_sidecar(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    sidecar::split(&name).is_some_and(|(_, ending)| ending.starts_with(".vae."))
}

fn read(path: &Path) -> Option<String> {
    if file_bytes(path) > DESCRIPTION {
        return None;
    }
    fs::read_to_string(path).ok()
}

/// Whether a `.yaml` is the configuration of a checkpoint.
fn is_configuration(path: &Path) -> bool {
    read(path).is_some_and(|text| text.contains("model:") && text.contains("params:"))
}

/// Whether a `.json` is a description that WebUI or one of its extensions writes beside a model.
fn is_description(path: &Path) -> bool {
    const FIELDS: [&str; 6] =
        ["sd version", "activation text", "preferred weight", "modelId", "base_model", "negative text"];
    let found = read(path).and_then(|text| serde_json::from_str::<Value>(&text).ok());
    found.is_some_and(|value| FIELDS.iter().any(|field| value.get(field).is_some()))
}

/// Returns the picture beside a model, and the renders of render-check.
pub(super) fn pictures(model: &Path) -> (Option<String>, Vec<String>) {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let preview = PICTURES.iter().map(|ending| sidecar::beside(model, ending)).find(|path| path.is_file());
    let renders = [".check.png", ".render.png", ".against.png"].map(|ending| sidecar::beside(model, ending));
    (preview.map(text), renders.into_iter().filter(|path| path.is_file()).map(text).collect())
}

/// Finds descriptions beside a model that are of another version of it: by size, and by sha256 if that is known.
pub(super) fn stale(row: &AuditedFile) -> Vec<AuditFinding> {
    let model = Path::new(&row.file);
    let sha256 = row.hashes.as_ref().map(|hashes| hashes.sha256.as_str()).filter(|sha256| !sha256.is_empty());
    let mut findings = Vec::new();
    for ending in [".civitai.info", ".json"] {
        let path = sidecar::beside(model, ending);
        let Some(value) = read(&path).and_then(|text| serde_json::from_str::<Value>(&text).ok()) else { continue };
        let of_files = value.get("files").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let hashes: Vec<String> = of_files
            .iter()
            .filter_map(|file| file.pointer("/hashes/SHA256")?.as_str())
            .chain(["sha256", "SHA256"].iter().filter_map(|field| value.get(field)?.as_str()))
            .map(str::to_lowercase)
            .collect();
        let sizes: Vec<f64> = of_files.iter().filter_map(|file| file.get("sizeKB")?.as_f64()).collect();
        let is_size =
            |kilobytes: &f64| (kilobytes * 1024.0 - row.bytes as f64).abs() <= row.bytes as f64 / 100.0 + 2048.0;
        let text = match sha256 {
            Some(sha256) if !hashes.is_empty() && !hashes.iter().any(|hash| hash == sha256) => {
                "describes files with other hashes than the model beside it"
            }
            None if !sizes.is_empty() && !sizes.iter().any(is_size) => {
                "describes files of other sizes than the model beside it"
            }
            _ => continue,
        };
        let finding = AuditFinding::new(path.to_string_lossy(), FindingCode::StaleSidecar, text);
        findings.push(finding.with(Remedy::Delete));
    }
    findings
}
