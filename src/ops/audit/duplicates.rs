//! Files with the same content.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use super::place::Role;
use crate::report::{AuditFinding, AuditedFile, FindingCode, Remedy};
use trinart_ckpt_models::{FileKind, sidecar};

/// The components whose content makes files the same model.
const PARTS: [&str; 4] = ["unet", "vae", "text-encoder", "other"];

/// Finds files whose components have the same values in any dtype. Needs the hashes of a deep audit. The file with the
/// most bytes of tensors is the one that the others duplicate, or else a safetensors file with a short path.
pub(super) fn find(files: &[AuditedFile]) -> Vec<AuditFinding> {
    let mut groups: BTreeMap<Vec<(&str, &str)>, Vec<&AuditedFile>> = BTreeMap::new();
    for file in files {
        let Some(hashes) = &file.hashes else { continue };
        // A VAE beside its checkpoint is there on purpose.
        if sidecar::owner(Path::new(&file.file)).is_some() {
            continue;
        }
        let parts = PARTS.iter().filter_map(|&part| Some((part, hashes.rounded.get(part)?.as_str())));
        let content: Vec<_> = parts.collect();
        if !content.is_empty() {
            groups.entry(content).or_default().push(file);
        }
    }
    let mut findings = Vec::new();
    for group in groups.into_values() {
        let mut group = group;
        group.sort_by_cached_key(|file| rank(file));
        let Some((first, others)) = group.split_first() else { continue };
        for file in others {
            let other = &first.file;
            let text = match (&file.hashes, &first.hashes) {
                (Some(a), Some(b)) if !a.sha256.is_empty() && a.sha256 == b.sha256 => same_file(other),
                _ if file.dtype != first.dtype => format!("has the same values in another dtype as {other}"),
                _ if file.container != first.container => {
                    format!("has the same tensors in another container as {other}")
                }
                _ => format!("has the same model as {other}"),
            };
            let finding = AuditFinding::new(file.file.as_str(), FindingCode::Duplicate, text);
            findings.push(finding.with(Remedy::Compare(first.file.clone())).saving(file.bytes));
        }
    }
    findings
}

/// The text of a finding about two files with the same bytes.
pub(super) fn same_file(other: &str) -> String {
    format!("is the same file as {other}")
}

/// The lowest is kept: it has the most precise values and the most components, and is in the right folder.
pub(super) fn rank(file: &AuditedFile) -> (Reverse<u64>, bool, bool, usize, &str) {
    let tensors: u64 = file.components.values().copied().fold(0, u64::saturating_add);
    let kind = FileKind::ALL.iter().find(|kind| kind.name() == file.kind);
    let role = std::path::absolute(&file.file).ok().and_then(|path| Role::of(&path));
    let is_misplaced = role.zip(kind).is_some_and(|(role, kind)| !role.takes(*kind));
    (Reverse(tensors), is_misplaced, file.container != "safetensors", file.file.len(), &file.file)
}
