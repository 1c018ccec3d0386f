use std::fs;
use std::path::{Path, PathBuf};

use trinart_ckpt_formats::io::{AtomicFile, Overwrite};
use trinart_ckpt_formats::{Error, Result};
use trinart_ckpt_render::checks::Verdict;
use trinart_ckpt_render::picture::{Picture, contact_sheet};

use crate::report::RenderCheckReport;

/// A contact sheet of the pictures that several checkpoints have rendered.
///
/// Each [`Self::add`] writes the sheet with the pictures so far.
#[derive(Debug)]
pub struct RenderSheet {
    path: PathBuf,
    /// Whether a sheet of another run may be replaced.
    overwrite: bool,
    cells: Vec<(Picture, String)>,
}

impl RenderSheet {
    /// A sheet without pictures, which will be written to `path`. Without `overwrite`, an existing file is an error of
    /// [`Self::check`] and of the first [`Self::add`].
    pub fn new(path: impl Into<PathBuf>, overwrite: bool) -> Self {
        RenderSheet { path: path.into(), overwrite, cells: Vec::new() }
    }

    /// Fails if the sheet must not be written.
    pub fn check(&self) -> Result<()> {
        AtomicFile::check_destination(&self.path, self.overwrite())
    }

    /// Adds the picture of a report, which must exist as a file, and writes the sheet.
    pub fn add(&mut self, report: &RenderCheckReport) -> Result<()> {
        let path = Path::new(&report.picture);
        let bytes = fs::read(path).map_err(|error| Error::io("cannot read the picture", error).in_file(path))?;
        let (picture, _) = Picture::from_png(&bytes).map_err(|error| error.in_file(path))?;
        let overwrite = self.overwrite();
        self.cells.push((picture, caption(report)));
        let cells: Vec<_> = self.cells.iter().map(|(picture, caption)| (picture, caption.as_str())).collect();
        AtomicFile::write(&self.path, overwrite, &contact_sheet(&cells).to_png("")?)
    }

    fn overwrite(&self) -> Overwrite {
        // A sheet with pictures was written by this run.
        Overwrite::allowed(self.overwrite || !self.cells.is_empty())
    }
}

/// The name of the checkpoint, and the checks that failed.
fn caption(report: &RenderCheckReport) -> String {
    let path = Path::new(&report.checkpoint);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let failed = report.checks.iter().filter(|check| check.verdict == Verdict::Fail);
    let failed: Vec<_> = failed.map(|check| check.name).collect();
    if failed.is_empty() { name.into_owned() } else { format!("{name}\nfailed: {}", failed.join(", ")) }
}
