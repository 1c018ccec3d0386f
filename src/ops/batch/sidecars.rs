//! Copies what belongs to a checkpoint beside its output.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ops::staging::Staging;
use crate::report::WriteReport;
use trinart_ckpt_formats::Result;
use trinart_ckpt_formats::io::remote::{self, Storing};
use trinart_ckpt_formats::io::{AtomicFile, NoProgress, Overwrite, Source};
use trinart_ckpt_models::sidecar;
use trinart_ckpt_models::{Notice, NoticeCode};

/// Bytes of a copy in one piece.
const PIECE: u64 = 1 << 20;

/// Copies the files beside `input` beside `output`, by the names that WebUI gives them. `without_vae` leaves out VAEs. A file
/// that is there already stays, with a note if its content is another and must not be replaced.
pub(super) fn carry(
    input: &Path,
    output: &Path,
    without_vae: bool,
    overwrite: Overwrite,
    dry_run: bool,
    report: &mut WriteReport,
) -> Result<()> {
    let Some(companions) = sidecar::companions(input)? else {
        let text = format!("did not look for files beside {}: its server lists none", input.display());
        report.notices.push(Notice::new(NoticeCode::SidecarNotCarried, text));
        return Ok(());
    };
    let there = Places::of(output)?;
    for found in companions.iter().filter(|found| !(without_vae && found.is_vae())) {
        let (from, to) = (&found.path, sidecar::beside(output, found.ending));
        let shown = to.to_string_lossy().into_owned();
        // The conversion has written this one.
        if *from == to || report.also_wrote.contains(&shown) {
            continue;
        }
        if there.has(&to) {
            if is_equal(from, &to)? {
                continue;
            }
            if overwrite == Overwrite::Refuse {
                let text = format!("did not carry over {}: {} is another file", from.display(), to.display());
                report.notices.push(Notice::new(NoticeCode::SidecarNotCarried, text));
                continue;
            }
        }
        if !dry_run {
            copy(from, &to, overwrite)?;
        }
        report.also_wrote.push(shown);
    }
    Ok(())
}

/// Which files are beside an output.
enum Places {
    Here,
    /// Those at an address; one that the store does not list is replaced only on request, too.
    Listed(Vec<PathBuf>),
}

impl Places {
    fn of(output: &Path) -> Result<Self> {
        match remote::address(output) {
            Some(_) => Ok(Places::Listed(remote::beside(&sidecar::beside(output, ""))?.unwrap_or_default())),
            None => Ok(Places::Here),
        }
    }

    fn has(&self, path: &Path) -> bool {
        match self {
            Places::Here => path.exists(),
            Places::Listed(files) => files.iter().any(|file| file == path),
        }
    }
}

/// Whether two files have the same content.
fn is_equal(a: &Path, b: &Path) -> Result<bool> {
    let (a, b) = (Source::open(a)?, Source::open(b)?);
    if a.len() != b.len() {
        return Ok(false);
    }
    let mut offset = 0;
    while offset < a.len() {
        let len = PIECE.min(a.len() - offset);
        if a.read(offset, len)? != b.read(offset, len)? {
            return Ok(false);
        }
        offset += len;
    }
    Ok(true)
}

/// Copies a file; the copy appears whole or not at all.
fn copy(from: &Path, to: &Path, overwrite: Overwrite) -> Result<()> {
    if remote::address(to).is_none() {
        return copy_here(from, to, overwrite);
    }
    let staging = Staging::new()?;
    let staged = staging.path_of(to)?;
    copy_here(from, &staged, Overwrite::Refuse)?;
    remote::store(to, &staged, &Storing { overwrite, record: None, progress: &NoProgress })
}

/// Copies a file to this machine. The copy of a local file keeps the time of the last change.
fn copy_here(from: &Path, to: &Path, overwrite: Overwrite) -> Result<()> {
    let source = Source::open(from)?;
    let file = AtomicFile::create(to, overwrite)?;
    file.reserve(source.len())?;
    let mut offset = 0;
    while offset < source.len() {
        let bytes = source.read(offset, PIECE.min(source.len() - offset))?;
        file.write_at(offset, &bytes)?;
        offset += bytes.len() as u64;
    }
    source.check_unchanged()?;
    file.sync()?;
    file.persist()?;
    // The time is a convenience: a file system that does not keep it loses nothing else.
    let modified = fs::metadata(from).and_then(|found| found.modified());
    if let (Ok(modified), Ok(file)) = (modified, fs::File::options().write(true).open(to)) {
        let _ = file.set_modified(modified);
    }
    Ok(())
}
