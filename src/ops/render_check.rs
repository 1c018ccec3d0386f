//! Renders a picture with a checkpoint file, to check that it still works.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::models::checkpoint::Checkpoint;
use crate::formats::error::{Error, OrInternal, Result};
use crate::formats::containers::{self, Target, WriteOptions};
use crate::formats::io::{AtomicFile, Overwrite, Progress};
use crate::formats::metadata::Metadata;
use crate::models::plan::{merge_vae, translate};
use crate::render::against::Against;
use crate::render::device::Device;
use crate::render::input::RenderInput;
use crate::render::job::{RenderJob, RenderPlan, RenderReport};
use crate::render::reference::{ReferencePicture, read_picture};
use crate::render::settings::RenderOptions;
use crate::formats::tensor::Overflow;

/// Renders a picture with a checkpoint of SD v1, and judges it.
///
/// Opening refuses pickles that name dangerous functions. Checkpoints of any container and layout are rendered.
///
/// ```no_run
/// use trinart_ckpt::io::NoProgress;
/// use trinart_ckpt::ops::render_check::RenderCheck;
/// use trinart_ckpt::render::settings::RenderOptions;
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let options = RenderOptions::default().prompt("a cathedral").seed(7);
/// let report = RenderCheck::new("merged.safetensors").against("base.ckpt").options(options).run(&NoProgress)?;
/// std::fs::write("check.png", report.to_png()?).expect("cannot write");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RenderCheck {
    checkpoint: PathBuf,
    vae: Option<PathBuf>,
    against: Option<PathBuf>,
    like: Option<PathBuf>,
    options: RenderOptions,
    device: Device,
    jobs: usize,
    dump: bool,
}

impl RenderCheck {
    /// Returns a check of the checkpoint at `path`, a file or a diffusers folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        RenderCheck {
            checkpoint: path.into(),
            vae: None,
            against: None,
            like: None,
            options: RenderOptions::default(),
            device: Device::default(),
            jobs: 1,
            dump: false,
        }
    }

    /// Renders with this VAE instead of the checkpoint's.
    #[must_use]
    pub fn vae(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { vae: Some(path.into()), ..self }
    }

    /// Compares with a PNG, or with the render of another checkpoint.
    #[must_use]
    pub fn against(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { against: Some(path.into()), ..self }
    }

    /// Takes unset options from the parameters of this PNG, and compares with it.
    #[must_use]
    pub fn like(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { like: Some(path.into()), ..self }
    }

    /// Sets the options.
    #[must_use]
    pub fn options(self, options: RenderOptions) -> Self {
        RenderCheck { options, ..self }
    }

    /// Sets the device.
    #[must_use]
    pub fn device(self, device: Device) -> Self {
        RenderCheck { device, ..self }
    }

    /// Sets the number of threads that compare weights.
    #[must_use]
    pub fn jobs(self, jobs: usize) -> Self {
        RenderCheck { jobs, ..self }
    }

    /// Keeps the tensors between the stages in the report.
    #[must_use]
    pub fn dump(self, dump: bool) -> Self {
        RenderCheck { dump, ..self }
    }

    /// Opens all files and returns what [`RenderCheck::run`] would do.
    ///
    /// Fails if a file cannot be opened, or if the checkpoint or the options are not supported.
    pub fn plan(&self, progress: &dyn Progress) -> Result<RenderPlan> {
        self.open(progress)?.plan()
    }

    /// Renders, compares and judges. Fails as [`RenderCheck::plan`], or if a file cannot be read.
    pub fn run(&self, progress: &dyn Progress) -> Result<RenderReport> {
        self.open(progress)?.run(progress)
    }

    fn open(&self, progress: &dyn Progress) -> Result<RenderJob> {
        let reference = self.like.as_ref().map(ReferencePicture::open).transpose()?;
        let mut input = open(&self.checkpoint)?;
        if let Some(vae) = &self.vae {
            input = with_vae(input, vae, progress)?;
        }
        let mut job =
            RenderJob::new(input).options(self.options.clone()).device(self.device).jobs(self.jobs).dump(self.dump);
        if let Some(reference) = reference {
            job = job.like(reference);
        }
        if let Some(path) = &self.against {
            job = job.against(open_against(path)?);
        }
        Ok(job)
    }
}

/// Opens a checkpoint in LDM names.
fn open(path: &Path) -> Result<RenderInput> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.refuse_dangers()?;
    let file = checkpoint.file().ok().map(Arc::clone);
    let (checkpoint, _) = translate::to_ldm(checkpoint)?;
    checkpoint.refuse_unreadable()?;
    let input = RenderInput::new(path, Arc::new(checkpoint.contents().state_dict.clone()));
    Ok(match file {
        Some(file) => input.with_file(file),
        // A folder has no hash.
        None => input,
    })
}

/// Opens a PNG or a checkpoint to compare with.
fn open_against(path: &Path) -> Result<Against> {
    let mut magic = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read(&mut magic));
    if read.is_ok_and(|_| magic == *b"\x89PNG\r\n\x1a\n") {
        return Ok(Against::Picture(path.to_owned(), read_picture(path)?.0));
    }
    Ok(Against::Checkpoint(open(path)?))
}

/// Replaces the VAE.
fn with_vae(input: RenderInput, path: &Path, progress: &dyn Progress) -> Result<RenderInput> {
    let vae = Checkpoint::open(path)?;
    vae.refuse_dangers()?;
    let (vae, _) = translate::vae_to_ldm(vae)?;
    let (base, _) = translate::to_ldm(Checkpoint::open(input.path())?)?;
    let options = merge_vae::Options { dtype: None, vae_dtype: None, overflow: Overflow::Refuse, partial: false };
    let resolved = merge_vae::plan(&base, &vae, &options)?;
    let sha256 = if path.is_dir() { None } else { Some(vae.sha256(progress)?) };
    let name = path.file_name().or_internal("a VAE that was opened has no file name")?.to_string_lossy();
    Ok(input.with_vae(Arc::new(resolved.state_dict), &name, sha256.as_deref()))
}

/// The files that a render check writes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RenderOutputs {
    /// The picture, a PNG.
    pub picture: PathBuf,
    /// The contact sheet of the comparison, a PNG.
    pub sheet: Option<PathBuf>,
    /// The tensors between the stages, a safetensors file.
    pub dump: Option<PathBuf>,
    /// How to treat existing files.
    pub overwrite: Overwrite,
}

impl RenderOutputs {
    /// Returns outputs that write the picture alone, and never replace a file.
    pub fn new(picture: impl Into<PathBuf>) -> Self {
        RenderOutputs { picture: picture.into(), sheet: None, dump: None, overwrite: Overwrite::Refuse }
    }

    /// Fails if one of the files may not be written, or if two of them are the same. Call it before the render.
    pub fn check(&self) -> Result<()> {
        let mut seen: Vec<&Path> = Vec::new();
        for path in [Some(&self.picture), self.sheet.as_ref(), self.dump.as_ref()].into_iter().flatten() {
            AtomicFile::check_destination(path, self.overwrite)?;
            if seen.contains(&path.as_path()) {
                return Err(Error::usage("two outputs cannot be the same file").in_file(path));
            }
            seen.push(path);
        }
        Ok(())
    }

    /// Writes the files. Each appears completely or not at all.
    pub fn write(&self, report: &RenderReport, jobs: usize, progress: &dyn Progress) -> Result<()> {
        if let (Some(path), Some(dump)) = (&self.dump, &report.dump) {
            let options = WriteOptions { overwrite: self.overwrite, verify: false, jobs, progress };
            containers::write(path, Target::Safetensors, dump, &Metadata::default(), &options)?;
        }
        if let (Some(path), Some(sheet)) = (&self.sheet, &report.sheet) {
            self.write_file(path, &sheet.to_png("")?)?;
        }
        self.write_file(&self.picture, &report.to_png()?)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let scratch = AtomicFile::create(path, self.overwrite)?;
        scratch.reserve(bytes.len() as u64)?;
        scratch.write_at(0, bytes)?;
        scratch.sync()?;
        scratch.persist()
    }
}
