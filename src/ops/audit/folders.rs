//! Files in folders for other kinds of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::neighbors::is_vae_sidecar;
use super::place::{Role, destination};
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
