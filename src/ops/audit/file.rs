//! What the headers of a file tell.

use std::collections::BTreeMap;
use std::path::Path;

use crate::ops::Inspect;
use crate::ops::known_structures::KnownStructures;
use crate::report::{
    AuditFinding, AuditedFile, ComponentSummary, FindingCode, Inspection, PositionIds, Remedy, VaeState,
};
use crate::report::{count, size};
use trinart_ckpt_formats::Level;
use trinart_ckpt_formats::containers::{Container, Target};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{Progress, file_bytes, is_file};
use trinart_ckpt_formats::scan::{self, FileScan};
use trinart_ckpt_models::family::Prediction;
use trinart_ckpt_models::plan::repair::RepairKind;
use trinart_ckpt_models::sidecar::{self, Companion};
use trinart_ckpt_models::{Component, FileKind};

/// The share of a file, in percent, that EMA weights or training residue must have to be a finding.
const WORTH: u64 = 1;

/// A file, and what was found in it alone.
pub(super) struct Examined {
    pub(super) row: AuditedFile,
    pub(super) findings: Vec<AuditFinding>,
    /// `None` if it could not be read.
    pub(super) kind: Option<FileKind>,
}

/// Reads the headers of a file or diffusers folder.
pub(super) fn examine(path: &Path, known: &KnownStructures, progress: &dyn Progress) -> Result<Examined> {
    let file = path.to_string_lossy().into_owned();
    let mut findings = Vec::new();
    let inspected = Inspect::new(path).for_audit(known).progress(progress).run();
    // Interrupts end the audit.
    progress.check()?;
    let is_torch = |container: Container| matches!(container, Container::TorchZip | Container::TorchLegacy);
    let is_scanned = inspected.as_ref().map_or(true, |found| is_torch(found.container)) && is_file(path);
    if is_scanned && let Ok(scan) = scan::scan_file(path) {
        findings.extend(pickles(&file, path, &scan, inspected.is_ok()));
    }
    let inspection = match inspected {
        Ok(inspection) => inspection,
        Err(error) => {
            let text = error.in_file(path).message().to_owned();
            // A dangerous pickle says more than that the file is no checkpoint.
            if findings.is_empty() {
                findings.push(AuditFinding::new(file.as_str(), FindingCode::Damaged, text));
            }
            let row = AuditedFile { file, bytes: file_bytes(path), ..AuditedFile::default() };
            return Ok(Examined { row, findings, kind: None });
        }
    };
    if !is_scanned && let Some(danger) = inspection.dangers.first() {
        let finding = AuditFinding::new(file.as_str(), FindingCode::DangerousPickle, danger.to_text());
        findings.push(finding.with(Remedy::Sanitize(renamed(path, "-clean", Some("safetensors")))));
    }
    findings.extend(contents(&file, path, &inspection));
    let row = row(file, &inspection);
    Ok(Examined { row, findings, kind: Some(inspection.kind) })
}

/// What a scan found.
fn pickles(file: &str, path: &Path, scan: &FileScan, is_readable: bool) -> Option<AuditFinding> {
    let worst = scan.findings.first();
    let text = || worst.map_or_else(String::new, |found| format!("a pickle {}", found.finding.to_text()));
    match (scan.level(), &scan.problem) {
        (Level::Dangerous, _) => {
            let finding = AuditFinding::new(file, FindingCode::DangerousPickle, text());
            let remedy = Remedy::Sanitize(renamed(path, "-clean", Some("safetensors")));
            Some(if is_readable { finding.with(remedy) } else { finding.with(Remedy::Delete) })
        }
        (Level::Unknown, _) => Some(AuditFinding::new(file, FindingCode::UnknownPickle, text()).with(Remedy::Scan)),
        // The reader reports what it cannot read.
        (Level::Safe, Some(problem)) if is_readable => {
            let text = format!("could not be scanned completely: {}", problem.message());
            Some(AuditFinding::new(file, FindingCode::UnknownPickle, text).with(Remedy::Scan))
        }
        _ => None,
    }
}

/// What is wrong with the contents.
fn contents(file: &str, path: &Path, inspection: &Inspection) -> Vec<AuditFinding> {
    let mut findings = Vec::new();
    let mut add = |code, text: String, remedy: Option<Remedy>| {
        let finding = AuditFinding::new(file, code, text);
        findings.push(match remedy {
            Some(remedy) => finding.with(remedy),
            None => finding,
        });
    };
    if let Some(extension) = right_extension(path, inspection.container) {
        let text = format!("the content is {}, which the extension does not say", inspection.container.text());
        add(FindingCode::WrongExtension, text, Some(Remedy::Move(renamed(path, "", Some(extension)))));
    }
    if let Some(reason) = inspection.published.and_then(|published| published.withdrawn) {
        add(FindingCode::Withdrawn, reason.to_owned(), Some(Remedy::Delete));
    }
    for kind in &inspection.also {
        let text = format!("also has the keys of: {}", kind.text());
        add(FindingCode::Contradiction, text, Some(Remedy::Inspect));
    }
    let missing = |component: &ComponentSummary| {
        let missing = &component.completeness.as_ref()?.missing;
        let first = missing.first()?;
        Some(format!("the {} lacks {}, such as {first}", component.component.text(), count(missing.len(), "tensor")))
    };
    let mut is_incomplete = false;
    for component in &inspection.components {
        let Some(text) = missing(component) else { continue };
        is_incomplete = true;
        match component.component {
            Component::Vae => {
                let remedy = (inspection.kind == FileKind::Checkpoint).then(|| merged(path));
                add(FindingCode::BrokenVae, text, remedy);
            }
            _ => add(FindingCode::Incomplete, text, None),
        }
    }
    if inspection.missing_components.contains(&Component::TextEncoder) {
        let text = "no text encoder in it; WebUI renders it with that of the model loaded before, or not at all";
        add(FindingCode::Incomplete, text.to_owned(), None);
    }
    let is_model = matches!(inspection.kind, FileKind::Checkpoint | FileKind::Vae | FileKind::Unet)
        || inspection.kind.is_text_encoder();
    for repair in &inspection.repairs {
        // position_ids have a code of their own; others load everywhere.
        let is_harmless = matches!(repair.kind, RepairKind::PositionIds | RepairKind::StrayPositionIds);
        if is_model && !is_harmless {
            add(FindingCode::Defect, repair.to_text(), Some(Remedy::Repair(renamed(path, "-repaired", None))));
        }
    }
    if let Some(text) = inspection.unrepairable.as_ref().filter(|_| is_model && !is_incomplete) {
        add(FindingCode::Defect, text.clone(), Some(Remedy::Inspect));
    }
    if let Some((first, other)) = inspection.parameterization.iter().flat_map(|found| found.contradictions()).next() {
        let (a, b) = (first.claim.value(), other.claim.value());
        let text = format!("{} says {} {b}, {} says {a}", other.place, other.claim.field(), first.place);
        add(FindingCode::MarksContradict, text, Some(Remedy::Inspect));
    }
    if let Some(found @ (PositionIds::WrongDtype(_) | PositionIds::WrongValues(..))) = &inspection.position_ids {
        add(FindingCode::PositionIds, format!("position_ids: {}", found.to_text()), Some(Remedy::FixPositionIds));
    }
    let bytes_of = |wanted| inspection.components.iter().filter(move |it| it.component == wanted).map(|it| it.bytes);
    let kinds = [
        (Component::Ema, FindingCode::Ema, "EMA weights that inference does not need"),
        (Component::TrainingResidue, FindingCode::Residue, "tensors that only training needs"),
    ];
    for (component, code, what) in kinds {
        let bytes: u64 = bytes_of(component).fold(0, u64::saturating_add);
        if bytes > inspection.tensor_bytes / 100 * WORTH && bytes > 0 && inspection.kind != FileKind::Optimizer {
            let finding = AuditFinding::new(file, code, format!("{} of {what}", size(bytes)));
            findings.push(finding.with(Remedy::Prune(renamed(path, "-pruned", None))).saving(bytes));
        }
    }
    findings
}

/// The remedy for a checkpoint without a VAE that works.
pub(super) fn merged(path: &Path) -> Remedy {
    Remedy::MergeVae(renamed(path, "-vae", None))
}

/// The extension that a file should have; `None` if its own is right.
fn right_extension(path: &Path, container: Container) -> Option<&'static str> {
    let extension = path.extension().map(|it| it.to_string_lossy().to_lowercase()).unwrap_or_default();
    match (container, Target::from_extension(path)) {
        (Container::Diffusers, _) | (Container::Safetensors, Some(Target::Safetensors)) => None,
        (Container::Safetensors, _) => Some("safetensors"),
        (_, Some(Target::Safetensors)) => Some("ckpt"),
        (_, Some(_)) => None,
        // What else PyTorch files are called.
        _ if matches!(extension.as_str(), "pkl" | "th" | "model" | "pt2") => None,
        _ => Some("ckpt"),
    }
}

/// Returns the path of a file with an addition to its name, and with another extension.
fn renamed(path: &Path, addition: &str, extension: Option<&str>) -> String {
    let is_named = Target::from_extension(path).is_some() && !path.is_dir();
    let stem = if is_named { path.file_stem() } else { path.file_name() };
    let mut name = stem.map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(addition);
    let own = path.extension().filter(|_| is_named).map(|it| it.to_string_lossy().into_owned());
    let extension = extension.map(str::to_owned).or(own).or_else(|| path.is_file().then(|| "safetensors".to_owned()));
    if let Some(extension) = extension {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name).to_string_lossy().into_owned()
}

fn row(file: String, inspection: &Inspection) -> AuditedFile {
    let path = Path::new(&file);
    let vae = inspection.components.iter().find(|it| it.component == Component::Vae);
    let is_broken = |vae: &ComponentSummary| vae.completeness.as_ref().is_some_and(|it| !it.missing.is_empty());
    let vae = match vae {
        Some(vae) if is_broken(vae) => VaeState::Broken,
        Some(_) => VaeState::Own,
        None if inspection.kind != FileKind::Checkpoint => VaeState::NotApplicable,
        None if sidecar::companions(path).is_ok_and(|found| found.iter().flatten().any(Companion::is_vae)) => {
            VaeState::Beside
        }
        None => VaeState::Missing,
    };
    let bytes_of = |it: &ComponentSummary| (it.component.name().to_owned(), it.bytes);
    let components: BTreeMap<String, u64> = inspection.components.iter().map(bytes_of).collect();
    let architecture = inspection.architecture.map(|it| it.text()).or(inspection.model.map(|it| it.text()));
    AuditedFile {
        bytes: inspection.bytes,
        container: inspection.container.name().to_owned(),
        kind: inspection.kind.name().to_owned(),
        name: inspection.name.clone(),
        architecture: architecture.unwrap_or_default().to_owned(),
        dtype: dtype(&inspection.components),
        vae,
        ema_bytes: components.get(Component::Ema.name()).copied().unwrap_or_default(),
        prediction: inspection.prediction.map_or("", Prediction::name).to_owned(),
        components,
        file,
        ..AuditedFile::default()
    }
}

/// The dtypes of at least a twentieth of the tensors, the most frequent first, at most two.
fn dtype(components: &[ComponentSummary]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for component in components.iter().filter(|it| it.component != Component::Schedule) {
        component.dtypes.iter().for_each(|(dtype, count)| *counts.entry(dtype).or_default() += count);
    }
    let all: usize = counts.values().sum();
    let mut found: Vec<(&str, usize)> = counts.into_iter().filter(|(_, count)| count * 20 >= all).collect();
    found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    found.iter().take(2).map(|(dtype, _)| *dtype).collect::<Vec<_>>().join("+")
}
