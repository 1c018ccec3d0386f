//! Scans files for pickles that would run code when loaded with Python, without loading them. Finds every pickle in a
//! file, whatever its place and name, and examines it as far as it can be parsed.
//!
//! Reading and scanning are separate. The reader accepts only intact, unambiguous files. The scanner examines everything
//! that any reader may see, so it trusts neither record names nor checksums, does not choose between contradicting
//! headers, and continues behind errors. The reader's error is part of the result.

mod content;
mod embedded;
mod evidence;
mod inflate;
mod names;
mod nested;
mod numpy;
mod pickles;
mod remote;
mod role;
mod scanned_format;
mod scanner;
mod streams;
mod tar;
mod zip;

use std::path::{Path, PathBuf};

pub use names::is_named_like_a_checkpoint;
pub use scanned_format::ScannedFormat;
pub use scanner::LocatedFinding;

use crate::containers::{self, Container};
use crate::danger::{Allowed, Level};
use crate::error::{Error, Kind, Result};
use crate::io::{NoProgress, Progress, Source};
use content::{Archive, recognize_archive};
use role::Role;
use scanner::Scanner;

/// The result of scanning a file.
#[derive(Debug)]
#[non_exhaustive]
pub struct FileScan {
    /// The file.
    pub path: PathBuf,
    /// The format of the file.
    pub format: ScannedFormat,
    /// Number of pickles scanned.
    pub pickles: usize,
    /// All findings, the worst first.
    pub findings: Vec<LocatedFinding>,
    /// Why the file, or a part of it, could not be scanned or read. The findings may be incomplete.
    pub problem: Option<Error>,
    /// Bytes of tensors that were not scanned: those of a file behind an address are not fetched. A loader of models takes
    /// them for numbers.
    pub unread_bytes: u64,
}

impl FileScan {
    /// Whether the file holds nothing that a loader of models would run, such as text or an image.
    pub fn is_skipped(&self) -> bool {
        self.format.is_skipped() && self.pickles == 0 && self.findings.is_empty() && self.problem.is_none()
    }

    /// The worst level of all findings. Safe if there are none.
    pub fn level(&self) -> Level {
        self.findings.iter().map(|located| located.finding.level).max().unwrap_or(Level::Safe)
    }
}

/// Scans a file of any kind.
///
/// Fails only if nothing of the file could be scanned; [`FileScan::problem`] holds all other errors.
pub fn scan_file(path: impl AsRef<Path>) -> Result<FileScan> {
    scan_file_allowing(path, &Allowed::new(), &NoProgress)
}

/// Scans a file as [`scan_file`]. Allowed names are safe. `progress` observes what is fetched of a file behind an address.
pub fn scan_file_allowing(path: impl AsRef<Path>, allowed: &Allowed, progress: &dyn Progress) -> Result<FileScan> {
    let path = path.as_ref();
    let source = Source::open(path)?;
    let mut unread_bytes = 0;
    if source.is_remote() {
        let (image, unread) = remote::image(&source, progress)?;
        source.set_image(image);
        unread_bytes = unread;
    }
    // SAFETY: this process writes no file during a scan. A file that another process changes meanwhile can make the scan's
    // result wrong, and one that it truncates ends this process with SIGBUS; neither can harm an output.
    let bytes = unsafe { source.map() }?;
    let mut scanner = Scanner::new(&source, allowed);
    let format = scan_bytes(&mut scanner, bytes, names::is_named_like_a_pickle(path));
    let Scanner { mut findings, pickles, problem, .. } = scanner;
    let format = match (format, containers::sniff(&source)) {
        (ScannedFormat::Pickle, Ok(container @ Container::TorchLegacy)) => ScannedFormat::Container(container),
        (format, _) => format,
    };
    // Unmaps the file before the reader opens it. Otherwise both would count as memory.
    drop(source);
    // A file that the reader rejects as damaged or forged is a problem, whatever its pickles contain. A file that is
    // only unsupported, such as one without tensors, is not, if its pickles were scanned.
    let is_checkpoint = matches!(format, ScannedFormat::Container(_));
    let read = || containers::read(path).and_then(|contents| contents.refuse_trailing_bytes());
    let rejected = if is_checkpoint { read().err() } else { None };
    let rejected = rejected.filter(|error| error.kind() != Kind::Unsupported || pickles == 0);
    findings.sort_by_key(|located| std::cmp::Reverse(located.finding.level));
    Ok(FileScan {
        path: path.to_owned(),
        format,
        pickles,
        findings,
        problem: rejected.or(problem).map(|error| error.in_file(path)),
        unread_bytes,
    })
}

/// Returns the error for a file that is expected to be a checkpoint and is not one.
pub fn not_a_checkpoint(path: &Path) -> Error {
    match Source::open(path).and_then(|source| containers::sniff(&source)) {
        Ok(_) => Error::unsupported("contains no pickle").in_file(path),
        Err(error) => error,
    }
}

fn scan_bytes(scanner: &mut Scanner<'_>, bytes: &[u8], is_named: bool) -> ScannedFormat {
    let content = scanner.file(bytes, "", Role::File { is_named }, 0);
    // Python finds a zip at the end of a file, whatever precedes it.
    let is_zip = recognize_archive(bytes).is_some_and(|archive| matches!(archive, Archive::Zip));
    if !is_zip && zip::ends_with_zip(bytes) {
        let format = scanner.zip(bytes, "", 0);
        return content.filter(|content| !content.is_skipped()).unwrap_or(match format {
            // Its reader expects the zip at the start of the file.
            ScannedFormat::Container(_) => ScannedFormat::Zip,
            format => format,
        });
    }
    content.unwrap_or(ScannedFormat::Unknown)
}
