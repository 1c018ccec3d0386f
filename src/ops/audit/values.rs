//! What all values of a file tell.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::file::{Examined, examine as examine_headers};
use super::memory::{Memory, Remembered};
use crate::ops::contents::{Contents, RoundedVae};
use crate::ops::known_structures::KnownStructures;
use crate::ops::which_vae;
use crate::report::{AuditFinding, AuditedFile, AuditedHashes, FindingCode, Remedy, count};
use trinart_ckpt_formats::OpenOptions;
use trinart_ckpt_formats::error::{Kind, Result};
use trinart_ckpt_formats::io::{Progress, file_bytes, parallel};
use trinart_ckpt_formats::tensor::non_finite;
use trinart_ckpt_models::{Checkpoint, Component, FileKind, published};

/// Files that are read at the same time: more make a disk seek.
const AT_ONCE: usize = 2;

/// Reads files whole, except those that are remembered. Returns the number of those, too.
pub(super) fn examine(
    models: &[PathBuf],
    memory: Option<&Memory>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(Vec<Examined>, usize)> {
    let remembered: Vec<Mutex<Option<Remembered>>> = match memory {
        Some(memory) => memory.load(models).into_iter().map(Mutex::new).collect(),
        None => models.iter().map(|_| Mutex::new(None)).collect(),
    };
    let count = remembered.iter().filter(|it| lock(it).is_some()).count();
    let is_new = |index: &usize| remembered.get(*index).is_some_and(|it| lock(it).is_none());
    let total = (0..models.len()).filter(is_new).filter_map(|index| models.get(index)).map(|path| file_bytes(path));
    progress.begin("reading", total.fold(0, u64::saturating_add));
    let items: Vec<(&PathBuf, &Mutex<Option<Remembered>>)> = models.iter().zip(&remembered).collect();
    let inner = (jobs / AT_ONCE).max(1);
    let known = KnownStructures::default();
    let examined = parallel::map(
        jobs.min(AT_ONCE),
        &items,
        || (),
        |(), (path, slot)| {
            progress.check()?;
            if let Some(found) = lock(slot).take() {
                return Ok(found.examined);
            }
            let found = one(path, &known, inner, progress)?;
            if let Some(memory) = memory {
                memory.add(path, &found);
            }
            Ok(found)
        },
    );
    // What was read before an interrupt stays known.
    if let Some(memory) = memory {
        memory.flush();
    }
    Ok((examined?, count))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on only how many bytes are done, and interrupts.
struct Bytes<'a>(&'a dyn Progress);

impl Progress for Bytes<'_> {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

fn one(path: &Path, known: &KnownStructures, jobs: usize, progress: &dyn Progress) -> Result<Examined> {
    let mut examined = examine_headers(path, known, &super::Quiet(progress))?;
    if examined.kind.is_none() {
        return Ok(examined);
    }
    match read(path, &mut examined, jobs, &Bytes(progress)) {
        Err(error) if error.kind() == Kind::Interrupted => Err(error),
        Err(error) => {
            let place = error.tensor().map_or_else(String::new, |tensor| format!("{tensor}: "));
            let text = format!("{place}{}", error.message());
            examined.findings.push(AuditFinding::new(examined.row.file.as_str(), FindingCode::Damaged, text));
            Ok(examined)
        }
        Ok(()) => Ok(examined),
    }
}

fn read(path: &Path, examined: &mut Examined, jobs: usize, progress: &dyn Progress) -> Result<()> {
    let options = OpenOptions::new().keep_dangers().keep_trailing_bytes();
    let checkpoint = Checkpoint::open_with(path, &options)?;
    let named = checkpoint.in_ldm_names();
    let contents = Contents::read(&checkpoint, named.state_dict(), jobs, progress)?;
    let mut hashes = AuditedHashes { metric: contents.sums().to_text(), ..AuditedHashes::default() };
    for component in contents.components() {
        hashes.components.insert(component.name().to_owned(), contents.exact(component));
        hashes.rounded.extend(contents.rounded(component).map(|hash| (component.name().to_owned(), hash)));
    }
    if let Some(vae) = contents.vae() {
        (hashes.vae_bf16, hashes.vae_is_bf16) = (Some(vae.bf16), vae.is_bf16);
    }
    let file = examined.row.file.as_str();
    let mut found = Vec::new();
    if let Some(of_file) = &contents.file {
        hashes.sha256.clone_from(&of_file.sha256);
        hashes.autov2 = of_file.autov2().to_owned();
        hashes.autov3 = of_file.autov3.clone().unwrap_or_default();
        hashes.legacy.clone_from(&of_file.legacy);
        let withdrawn = published::identify(checkpoint.file_bytes(), &of_file.sha256).and_then(|it| it.withdrawn);
        let is_known = examined.findings.iter().any(|finding| finding.code == FindingCode::Withdrawn);
        if let Some(reason) = withdrawn.filter(|_| !is_known) {
            found.push(AuditFinding::new(file, FindingCode::Withdrawn, reason).with(Remedy::Delete));
        }
    }
    let some = |keys: &[&str]| match keys {
        [only] => (*only).to_owned(),
        [first, ..] => format!("{}, such as {first}", count(keys.len(), "tensor")),
        [] => String::new(),
    };
    if let Some(text) = non_finite::to_text(&contents.non_finite()) {
        found.push(AuditFinding::new(file, FindingCode::NonFinite, text));
    }
    let zeros = contents.zeros();
    let is_model = matches!(examined.kind, Some(FileKind::Checkpoint | FileKind::Unet | FileKind::Vae))
        || examined.kind.is_some_and(FileKind::is_text_encoder);
    if is_model && !zeros.is_empty() {
        found.push(AuditFinding::new(file, FindingCode::AllZero, format!("all zero: {}", some(&zeros))));
    }
    let damaged = contents.damaged();
    if !damaged.is_empty() {
        let text = format!("the checksum of the file is wrong for {}", some(&damaged));
        found.push(AuditFinding::new(file, FindingCode::Damaged, text));
    }
    examined.findings.extend(found);
    examined.row.hashes = Some(hashes);
    Ok(())
}

/// Identifies the VAE of a file: by a file with the same values, or by a hint.
pub(super) fn which_vae(path: &Path, row: &AuditedFile, known: &[AuditedFile]) -> Option<String> {
    let hashes = row.hashes.as_ref()?;
    let own = rounded(hashes)?;
    let is_equal = |vae: &&AuditedFile| {
        Path::new(&vae.file) != path && vae.hashes.as_ref().and_then(rounded).is_some_and(|vae| vae.is_equal(&own))
    };
    let equal = known.iter().find(is_equal).map(|vae| format!("equal to {}", vae.file));
    equal.or_else(|| which_vae::hint(hashes.metric.split('/').nth(1)?))
}

/// The values of the VAE of a file; `None` without one.
fn rounded(hashes: &AuditedHashes) -> Option<RoundedVae> {
    let f16 = hashes.rounded.get(Component::Vae.name())?.clone();
    Some(RoundedVae { f16, bf16: hashes.vae_bf16.clone()?, is_bf16: hashes.vae_is_bf16 })
}
