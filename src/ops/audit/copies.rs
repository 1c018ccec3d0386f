//! Copies of files, found without reading all values: by size and samples, and then by all bytes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::duplicates::{rank, same_file};
use crate::report::{AuditFinding, AuditedFile, FindingCode, Remedy};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{Progress, Source};
use trinart_ckpt_models::sidecar;

/// Bytes of a sample, and the number of samples of a file beside its beginning and its end.
const SAMPLE: u64 = 4096;
const SAMPLES: u64 = 62;

/// Bytes of two files that are compared at a time.
const PIECE: u64 = 1 << 20;

/// The size of all files together that are compared whole: those of one pair of checkpoints, which takes a second or two. An
/// audit of headers has to be fast.
const COMPARED: u64 = 4_400_000_000;

/// Finds files that are the same, or that perhaps are. Claims equality only of files whose bytes were compared.
pub(super) fn find(files: &[AuditedFile], progress: &dyn Progress) -> Result<Vec<AuditFinding>> {
    let mut by_size: BTreeMap<u64, Vec<&AuditedFile>> = BTreeMap::new();
    for file in files {
        // A VAE beside its checkpoint is there on purpose, and damaged files have a finding.
        let is_known = !file.kind.is_empty() && sidecar::owner(Path::new(&file.file)).is_none();
        if is_known && Path::new(&file.file).is_file() {
            by_size.entry(file.bytes).or_default().push(file);
        }
    }
    let mut findings = Vec::new();
    let mut left = COMPARED;
    for group in by_size.into_values().flat_map(|group| split(group, ends)).flat_map(|group| split(group, samples)) {
        let mut group = group;
        group.sort_by_cached_key(|file| rank(file));
        // Each has all files that are equal to its first one.
        let mut kept: Vec<&AuditedFile> = Vec::new();
        for file in group {
            progress.check()?;
            let is_compared = file.bytes <= left;
            let first = match is_compared {
                true => kept.iter().find(|first| {
                    left = left.saturating_sub(file.bytes);
                    are_equal(Path::new(&file.file), Path::new(&first.file), progress)
                }),
                false => kept.first(),
            };
            let Some(first) = first else {
                kept.push(file);
                continue;
            };
            let text = match is_compared {
                true => same_file(&first.file),
                false => format!(
                    "is perhaps a copy of {}: it has the same size and the same bytes in {} samples; a deep audit compares all \
                     values",
                    first.file,
                    SAMPLES + 2
                ),
            };
            let finding = AuditFinding::new(file.file.as_str(), FindingCode::Duplicate, text);
            findings.push(finding.with(Remedy::Compare(first.file.clone())).saving(file.bytes));
        }
    }
    // An interrupt also ends a comparison.
    progress.check()?;
    Ok(findings)
}

/// Splits files into groups of at least two with the same hash. Leaves out files that cannot be read.
fn split(files: Vec<&AuditedFile>, hash: fn(&Source) -> Result<u64>) -> Vec<Vec<&AuditedFile>> {
    let mut groups: BTreeMap<u64, Vec<&AuditedFile>> = BTreeMap::new();
    if files.len() > 1 {
        for file in files {
            if let Ok(hash) = Source::open(Path::new(&file.file)).and_then(|source| hash(&source)) {
                groups.entry(hash).or_default().push(file);
            }
        }
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

/// A hash of the first and the last bytes.
fn ends(source: &Source) -> Result<u64> {
    hash_at(source, [0, source.len().saturating_sub(SAMPLE)])
}

/// A hash of samples at equal distances.
fn samples(source: &Source) -> Result<u64> {
    let step = source.len() / (SAMPLES + 1);
    hash_at(source, (1..=SAMPLES).map(|index| index * step))
}

fn hash_at(source: &Source, offsets: impl IntoIterator<Item = u64>) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for offset in offsets {
        source.read(offset, SAMPLE.min(source.len().saturating_sub(offset)))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Whether two files have the same bytes. Files that cannot be read have not.
fn are_equal(a: &Path, b: &Path, progress: &dyn Progress) -> bool {
    let compare = || -> Result<bool> {
        let (a, b) = (Source::open(a)?, Source::open(b)?);
        let mut offset = 0;
        while a.len() == b.len() && offset < a.len() {
            progress.check()?;
            let len = PIECE.min(a.len() - offset);
            if a.read(offset, len)? != b.read(offset, len)? {
                return Ok(false);
            }
            offset += len;
        }
        Ok(a.len() == b.len())
    };
    compare().unwrap_or(false)
}
