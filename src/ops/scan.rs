use std::path::{Path, PathBuf};

use crate::report::{ScanReport, ScannedFile};
use trinart_ckpt_formats::danger::Allowed;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{NoProgress, Progress, is_dir};
use trinart_ckpt_formats::scan::{self, ScannedFormat};
use trinart_ckpt_formats::walk::{self, Listing};

/// Scans files and folders for pickles that would run code when loaded.
///
/// ```no_run
/// use trinart_ckpt::Scan;
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let report = Scan::new(["models"]).run()?;
/// assert_eq!(report.summary.dangerous + report.summary.unknown, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Scan<'a> {
    paths: Vec<PathBuf>,
    allowed: Allowed,
    progress: &'a dyn Progress,
}

impl<'a> Scan<'a> {
    /// Returns a scan of files, and of all files in folders and their subfolders. Follows symbolic links. Within a folder,
    /// each file is scanned once, whatever number of links lead to it.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        Scan { paths, allowed: Allowed::new(), progress: &NoProgress }
    }

    /// Vouches for these names, in addition to those that the program vouches for.
    #[must_use]
    pub fn allow(mut self, allowed: Allowed) -> Self {
        self.allowed = allowed;
        self
    }

    /// Polls `progress` before each file: it may interrupt the scan.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Lists the files that [`Self::run`] would scan, without opening them.
    pub fn plan(&self) -> Vec<PathBuf> {
        self.paths.iter().flat_map(|path| walk::list_files(path).files).collect()
    }

    /// Scans all files. Fails only if it is interrupted; a file that cannot be scanned is part of the report.
    pub fn run(&self) -> Result<ScanReport> {
        self.run_each(|_| {})
    }

    /// Scans all files as [`Self::run`], and passes each to `each` once it is scanned.
    pub fn run_each(&self, mut each: impl FnMut(&ScannedFile)) -> Result<ScanReport> {
        let mut report = ScanReport::default();
        let mut add = |report: &mut ScanReport, file: ScannedFile| {
            each(&file);
            report.push(file);
        };
        for path in &self.paths {
            let Listing { files, special, errors, .. } = walk::list_files(path);
            for error in errors {
                let place = error.file().unwrap_or(path).to_owned();
                add(&mut report, ScannedFile::failed(&place, error));
            }
            report.skip(ScannedFormat::Special, special);
            for file in files {
                self.progress.check()?;
                match scan_file(&file, is_dir(path), &self.allowed, self.progress) {
                    Scanned::File(file) => add(&mut report, file),
                    Scanned::Skipped(format) => report.skip(format, 1),
                }
            }
        }
        report.sort();
        Ok(report)
    }
}

/// What became of a file.
enum Scanned {
    File(ScannedFile),
    /// It is of a format that is only counted.
    Skipped(ScannedFormat),
}

/// Scans one file.
fn scan_file(file: &Path, is_in_folder: bool, allowed: &Allowed, progress: &dyn Progress) -> Scanned {
    match scan::scan_file_allowing(file, allowed, progress) {
        // Folders may contain files of any kind. A file that the user named, or with the extension of a checkpoint,
        // should be one.
        Ok(scan) if scan.is_skipped() && is_in_folder && !scan::is_named_like_a_checkpoint(file) => {
            Scanned::Skipped(scan.format)
        }
        Ok(scan) if scan.is_skipped() => Scanned::File(ScannedFile::failed(file, scan::not_a_checkpoint(file))),
        Ok(scan) => Scanned::File(ScannedFile::new(scan)),
        Err(error) => Scanned::File(ScannedFile::failed(file, error)),
    }
}
