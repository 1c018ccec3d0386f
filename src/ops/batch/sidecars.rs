//! Copies what belongs to a checkpoint beside its output.

use std::fs;
use std::path::{Path, PathBuf};

use crate::report::WriteReport;
use trinart_ckpt_formats::Result;
use trinart_ckpt_formats::io::{AtomicFile, Overwrite, Source};
use trinart_ckpt_models::sidecar;
use trinart_ckpt_models::{Notice, NoticeCode};

/// Bytes of a copy in one piece.
const PIECE: u64 = 1 << 20;

/// The files beside a checkpoint, and their places beside its output.
pub(super) struct Sidecars(Vec<(PathBuf, PathBuf)>);

impl Sidecars {
    /// Finds the files beside `input`, by the names that WebUI gives them. `without_vae` leaves out VAEs.
    pub(super) fn of(input: &Path, output: &Path, without_vae: bool) -> Self {
        let found = sidecar::companions(input).into_iter().filter(|found| !(without_vae && found.is_vae()));
        let pairs = found.map(|found| (found.path.clone(), sidecar::beside(output, found.ending)));
        Sidecars(pairs.filter(|(from, to)| from != to).collect())
    }

    /// Copies the files. One that is there already stays, with a note if its content is another and must not be replaced.
    pub(super) fn copy(&self, overwrite: Overwrite, dry_run: bool, report: &mut WriteReport) -> Result<()> {
        for (from, to) in &self.0 {
            let shown = to.to_string_lossy().into_owned();
            // The conversion has written this one.
            if report.also_wrote.contains(&shown) {
                continue;
            }
            if to.exists() {
                if is_equal(from, to)? {
                    continue;
                }
                if overwrite == Overwrite::Refuse {
                    let text = format!("did not carry over {}: {} is another file", from.display(), to.display());
                    report.notices.push(Notice::new(NoticeCode::SidecarNotCarried, text));
                    continue;
                }
            }
            if !dry_run {
                copy(from, to, overwrite)?;
            }
            report.also_wrote.push(shown);
        }
        Ok(())
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

/// Copies a file; the copy appears whole or not at all. It keeps the time of the last change.
fn copy(from: &Path, to: &Path, overwrite: Overwrite) -> Result<()> {
    let source = Source::open(from)?;
    let file = AtomicFile::create(to, overwrite)?;
    file.reserve(source.len())?;
    let mut offset = 0;
    while offset < source.len() {
        let bytes = source.read(offset, PIECE.min(source.len() - offset))?;
        file.write_at(offset, &bytes)?;
        offset += bytes.len() as u64;
    }
    file.sync()?;
    file.persist()?;
    // The time is a convenience: a file system that does not keep it loses nothing else.
    let modified = fs::metadata(from).and_then(|found| found.modified());
    if let (Ok(modified), Ok(file)) = (modified, fs::File::options().write(true).open(to)) {
        let _ = file.set_modified(modified);
    }
    Ok(())
}
