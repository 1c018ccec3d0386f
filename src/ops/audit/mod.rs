//! The overview of folders of checkpoints.

mod copies;
mod duplicates;
mod file;
mod folders;
mod memory;
mod neighbors;
mod place;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use memory::Memory;

use super::jobs::check_jobs;
use super::known_structures::KnownStructures;
use super::run_methods::run_methods;
use super::webui;
use crate::report::{AuditFinding, AuditReport, AuditedFile, FindingCode, VaeState};
use file::{Examined, examine};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel, remote};
use trinart_ckpt_formats::walk;
use trinart_ckpt_models::FileKind;

/// Looks at all model files in folders, and at what lies beside them. Reads headers; a row and the findings of each file are
/// the result.
///
/// ```no_run
/// use trinart_ckpt::ops::Audit;
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let report = Audit::new(["stable-diffusion-webui"]).run()?;
/// for finding in &report.findings {
///     println!("{}: {}", finding.file, finding.text);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Audit<'a> {
    paths: Vec<PathBuf>,
    select: Vec<FindingCode>,
    ignore: Vec<FindingCode>,
    deep: bool,
    memory: Option<&'a Memory>,
    vae_folders: Vec<PathBuf>,
    jobs: usize,
    progress: &'a dyn Progress,
}

/// The folders of a WebUI root that hold models.
const WEBUI: [&str; 2] = ["models", "embeddings"];

run_methods!(Audit, jobs, progress);

impl<'a> Audit<'a> {
    /// Returns an audit of files, and of folders with their subfolders. Of a WebUI or ComfyUI root, only the folders of models
    /// are looked at.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        let (select, ignore, vae_folders) = (Vec::new(), Vec::new(), Vec::new());
        let (jobs, progress) = (parallel::default_jobs(), &NoProgress);
        Audit { paths, select, ignore, deep: false, memory: None, vae_folders, jobs, progress }
    }

    /// Reads all values: hashes files and components, finds NaN, zeros, damaged records and duplicates, and identifies VAEs.
    #[must_use]
    pub fn deep(mut self, deep: bool) -> Self {
        self.deep = deep;
        self
    }

    /// Remembers what was read of each file, and reads only files that have changed since. Only for [`Self::deep`].
    #[must_use]
    pub fn memory(mut self, memory: &'a Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Adds a folder of VAEs to identify those of checkpoints with, beside the folders of VAEs of WebUI.
    #[must_use]
    pub fn vae_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.vae_folders.push(folder.into());
        self
    }

    /// Reports only findings with these codes. Empty means all.
    #[must_use]
    pub fn select(mut self, codes: impl IntoIterator<Item = FindingCode>) -> Self {
        self.select.extend(codes);
        self
    }

    /// Leaves out findings with these codes.
    #[must_use]
    pub fn ignore(mut self, codes: impl IntoIterator<Item = FindingCode>) -> Self {
        self.ignore.extend(codes);
        self
    }

    /// Looks at all files. Fails only if it is interrupted; a file that cannot be read is a finding.
    pub fn run(&self) -> Result<AuditReport> {
        check_jobs(self.jobs)?;
        let mut findings = Vec::new();
        let (all, models) = self.list(&mut findings);
        let (examined, remembered) = self.examine(&models)?;
        let mut kinds: Vec<(PathBuf, FileKind)> = Vec::new();
        let mut report = AuditReport { deep: self.deep, remembered, ..AuditReport::default() };
        let known = self.known_vaes(&models, &examined)?;
        for (path, Examined { mut row, findings: found, kind }) in models.iter().zip(examined) {
            row.which_vae = values::which_vae(path, &row, &known);
            findings.extend(found);
            kinds.extend(kind.map(|kind| (path.clone(), kind)));
            (row.preview, row.renders) = neighbors::pictures(path);
            findings.extend(neighbors::stale(&row));
            findings.extend(missing_vae(path, &row));
            report.bytes = report.bytes.saturating_add(row.bytes);
            report.files.push(row);
        }
        findings.extend(folders::misplaced(&kinds));
        let models: BTreeSet<PathBuf> = models.into_iter().collect();
        findings.extend(neighbors::strays(&all, &models));
        let is_wanted =
            |code: FindingCode| (self.select.is_empty() || self.select.contains(&code)) && !self.ignore.contains(&code);
        findings.extend(match self.deep {
            true => duplicates::find(&report.files),
            false if is_wanted(FindingCode::Duplicate) => copies::find(&report.files, self.progress)?,
            false => Vec::new(),
        });
        findings.retain(|finding| is_wanted(finding.code));
        findings.sort_by(|a, b| (a.code, &a.file, &a.text).cmp(&(b.code, &b.file, &b.text)));
        report.findings = findings;
        Ok(report)
    }

    /// Reads the headers of all models, and all values for a deep audit. Returns the number of files that were remembered, too.
    fn examine(&self, models: &[PathBuf]) -> Result<(Vec<Examined>, usize)> {
        if self.deep {
            return values::examine(models, self.memory, self.jobs, self.progress);
        }
        self.progress.begin_steps("auditing", models.len() as u64);
        let known = KnownStructures::default();
        let examined = parallel::map(
            self.jobs,
            models,
            || (),
            |(), path| {
                self.progress.check()?;
                let found = examine(path, &known, &Quiet(self.progress));
                self.progress.advance(1);
                found
            },
        )?;
        Ok((examined, 0))
    }

    /// The VAE files whose values are known: those of the audit, and of the folders of VAEs.
    fn known_vaes(&self, models: &[PathBuf], examined: &[Examined]) -> Result<Vec<AuditedFile>> {
        let is_vae = |row: &&AuditedFile| row.kind == FileKind::Vae.name() && row.hashes.is_some();
        let mut known: Vec<AuditedFile> = examined.iter().map(|it| &it.row).filter(is_vae).cloned().collect();
        if self.deep {
            let others = self.vae_folders.iter().flat_map(|folder| walk::list_checkpoints(folder).files);
            let others: Vec<PathBuf> = others.filter(|file| !models.contains(file)).collect();
            let (examined, _) = values::examine(&others, self.memory, self.jobs, self.progress)?;
            known.extend(examined.into_iter().map(|it| it.row));
        }
        Ok(known)
    }

    /// Lists all files, and those that are models. Errors become findings.
    fn list(&self, findings: &mut Vec<AuditFinding>) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut all, mut models) = (BTreeSet::new(), BTreeSet::new());
        for root in self.paths.iter().flat_map(|path| roots(path)) {
            let listing = walk::list_models(&root);
            if remote::address(&root).is_none() && !root.exists() {
                let error = Error::missing("no such file or folder");
                findings.push(AuditFinding::new(root.to_string_lossy(), FindingCode::Damaged, error.message()));
                continue;
            }
            for error in listing.errors {
                let file = error.file().unwrap_or(&root).to_string_lossy().into_owned();
                findings.push(AuditFinding::new(file, FindingCode::Damaged, error.message()));
            }
            let checkpoints = walk::only_checkpoints(&root, &listing.files);
            models.extend(checkpoints.into_iter().filter(|file| !neighbors::is_leftover(file)));
            all.extend(listing.files);
        }
        (all.into_iter().collect(), models.into_iter().collect())
    }
}

/// A progress that reports nothing but interrupts.
pub(super) struct Quiet<'a>(&'a dyn Progress);

impl Progress for Quiet<'_> {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) {}

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

/// The folders of models in the root of a WebUI, or else the path itself.
fn roots(path: &Path) -> Vec<PathBuf> {
    if webui::is_root(path) {
        WEBUI.iter().map(|name| path.join(name)).filter(|folder| folder.is_dir()).collect()
    } else {
        vec![path.to_owned()]
    }
}

fn missing_vae(path: &Path, row: &AuditedFile) -> Option<AuditFinding> {
    let text = "no VAE in it and none beside it; WebUI renders it with any VAE that is selected, or not at all";
    let finding = AuditFinding::new(row.file.as_str(), FindingCode::NoVae, text);
    (row.vae == VaeState::Missing).then(|| finding.with(file::merged(path)))
}
