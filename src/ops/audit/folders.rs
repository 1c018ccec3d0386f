//! Files in folders for other kinds of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::neighbors::is_vae_sidecar;
use super::place::Role;
use crate::report::{AuditFinding, FindingCode, Remedy};
use trinart_ckpt_models::FileKind;

/// A folder without a known name is one of checkpoints if it has this many, and this many times as many as of others.
const CHECKPOINTS: usize = 3;

/// Finds files that are in the folder of another kind.
pub(super) fn misplaced(files: &[(PathBuf, FileKind)]) -> Vec<AuditFinding> {
    let mut findings = Vec::new();
    let mut others: BTreeMap<&Path, Vec<&(PathBuf, FileKind)>> = BTreeMap::new();
    for entry in files {
        let (path, kind) = entry;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        match Role::of(&absolute) {
            // A VAE beside its checkpoint.
            Some(Role::Checkpoints) if is_vae_sidecar(path) => {}
            Some(role) if !role.takes(*kind) => {
                let text = format!("{} in a folder of {}", with_article(*kind), role.text());
                let finding = AuditFinding::new(path.to_string_lossy(), FindingCode::WrongFolder, text);
                findings.push(match destination(path, *kind) {
                    Some(to) => finding.with(Remedy::Move(to)),
                    None => finding,
                });
            }
            Some(_) => {}
            None => others.entry(path.parent().unwrap_or(Path::new(""))).or_default().push(entry),
        }
    }
    for entries in others.values() {
        let checkpoints = entries.iter().filter(|(_, kind)| *kind == FileKind::Checkpoint).count();
        let strays: Vec<_> = entries.iter().filter(|(_, kind)| is_stray(*kind)).collect();
        if checkpoints < CHECKPOINTS || checkpoints < CHECKPOINTS * strays.len() {
            continue;
        }
        for (path, kind) in strays {
            let text = format!("{} among {checkpoints} checkpoints", with_article(*kind));
            let finding = AuditFinding::new(path.to_string_lossy(), FindingCode::WrongFolder, text);
            let folder = Role::folder_for(*kind).zip(path.parent()).zip(path.file_name());
            let to = folder.map(|((name, parent), file)| parent.join(name).join(file).to_string_lossy().into_owned());
            findings.push(match to {
                Some(to) => finding.with(Remedy::Move(to)),
                None => finding,
            });
        }
    }
    findings
}

/// `a VAE`, `an upscaler`.
fn with_article(kind: FileKind) -> String {
    // "UNet" is spoken with a consonant.
    let article = if kind.text().starts_with(['A', 'E', 'I', 'O', 'a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {}", kind.text())
}

/// Whether a kind has no place among checkpoints.
fn is_stray(kind: FileKind) -> bool {
    use FileKind::{ControlNet, Hypernetwork, TextualInversion, Upscaler};
    kind.is_adapter() || matches!(kind, TextualInversion | Hypernetwork | Upscaler | ControlNet)
}

/// Where a file belongs: into the folder of its kind beside the one in which it is.
fn destination(path: &Path, kind: FileKind) -> Option<String> {
    let name = Role::folder_for(kind)?;
    let of_role = path.ancestors().skip(1).find(|folder| {
        let parent = folder.parent().map(|parent| parent.join("file"));
        Role::of(&folder.join("file")).is_some() && parent.is_none_or(|parent| Role::of(&parent).is_none())
    })?;
    let above = of_role.parent()?;
    // WebUI has its embeddings beside the folder of models.
    let (root, models) = match above.join("models") {
        models if models.is_dir() => (Some(above), models),
        _ => (above.parent(), above.to_owned()),
    };
    let embeddings = root.map(|root| root.join(name)).filter(|folder| name == "embeddings" && folder.is_dir());
    let folder = embeddings.unwrap_or_else(|| folder_in(&models, name));
    Some(folder.join(path.file_name()?).to_string_lossy().into_owned())
}

/// Returns the folder with this name, or the one that ComfyUI has for the same kind of files. If neither exists, returns the
/// path at which to create it.
fn folder_in(models: &Path, name: &str) -> PathBuf {
    let folder = models.join(name);
    if folder.is_dir() {
        return folder;
    }
    let role = Role::named(name.as_ref());
    let others = fs::read_dir(models).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_same = |other: &PathBuf| other.is_dir() && other.file_name().is_some_and(|name| Role::named(name) == role);
    others.filter(is_same).min().unwrap_or(folder)
}
