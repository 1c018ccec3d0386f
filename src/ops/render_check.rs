use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::jobs::check_jobs;
use crate::report::{RenderCheckReport, RenderPaths};
use trinart_ckpt_formats::containers::{self, Container, Target, WriteOptions};
use trinart_ckpt_formats::io::{AtomicFile, NoProgress, Overwrite, Progress, parallel};
use trinart_ckpt_formats::{Error, Metadata, Result, StateDict};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::plan::merge_vae::{self, MergeVaeOptions};
use trinart_ckpt_models::quantization;
use trinart_ckpt_render::job::{Against, Device, RenderInput, RenderJob, RenderPlan, RenderReport};
use trinart_ckpt_render::picture::is_picture;
use trinart_ckpt_render::settings::{ReferencePicture, RenderOptions, read_picture};

/// Renders a picture with a checkpoint, and checks it.
///
/// ```no_run
/// use trinart_ckpt::{Checkpoint, RenderCheck, RenderOptions};
///
/// # fn main() -> trinart_ckpt::Result<()> {
/// let checkpoint = Checkpoint::open("merged.safetensors")?;
/// let options = RenderOptions::default().prompt("a cathedral").seed(7);
/// let report = RenderCheck::new(&checkpoint).options(options).against("base.ckpt").write("check.png")?;
/// assert!(report.passed());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RenderCheck<'a> {
    checkpoint: &'a Checkpoint,
    vae: Option<&'a Checkpoint>,
    refiner: Option<&'a Checkpoint>,
    against: Option<PathBuf>,
    like: Option<PathBuf>,
    loras: Option<PathBuf>,
    embeddings: Option<PathBuf>,
    options: RenderOptions,
    device: Device,
    sheet: Option<PathBuf>,
    dump: Option<PathBuf>,
    overwrite: Overwrite,
    jobs: Option<usize>,
    progress: &'a dyn Progress,
}

impl<'a> RenderCheck<'a> {
    /// Returns a check of an opened checkpoint.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        RenderCheck {
            checkpoint,
            vae: None,
            refiner: None,
            against: None,
            like: None,
            loras: None,
            embeddings: None,
            options: RenderOptions::default(),
            device: Device::default(),
            sheet: None,
            dump: None,
            overwrite: Overwrite::Refuse,
            jobs: None,
            progress: &NoProgress,
        }
    }

    /// Renders with this VAE instead of the checkpoint's own.
    #[must_use]
    pub fn vae(self, vae: &'a Checkpoint) -> Self {
        RenderCheck { vae: Some(vae), ..self }
    }

    /// Lets a refiner take over the last part of the render; see [`RenderOptions::switch_at`].
    #[must_use]
    pub fn refiner(self, refiner: &'a Checkpoint) -> Self {
        RenderCheck { refiner: Some(refiner), ..self }
    }

    /// Compares with a picture, or with the render of another checkpoint.
    #[must_use]
    pub fn against(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { against: Some(path.into()), ..self }
    }

    /// Takes unset options from the parameters of this picture, and compares with it unless [`Self::against`] is set.
    #[must_use]
    pub fn like(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { like: Some(path.into()), ..self }
    }

    /// Sets the folder with the LoRAs that the prompt loads: `<lora:name:0.8>`.
    #[must_use]
    pub fn loras(self, folder: impl Into<PathBuf>) -> Self {
        RenderCheck { loras: Some(folder.into()), ..self }
    }

    /// Sets the folder with the textual inversions that the prompts name.
    #[must_use]
    pub fn embeddings(self, folder: impl Into<PathBuf>) -> Self {
        RenderCheck { embeddings: Some(folder.into()), ..self }
    }

    /// Sets what to render: prompt, seed, steps, sampler and so on.
    #[must_use]
    pub fn options(self, options: RenderOptions) -> Self {
        RenderCheck { options, ..self }
    }

    /// Sets the device. By default a GPU if there is one, otherwise the CPU.
    #[must_use]
    pub fn device(self, device: Device) -> Self {
        RenderCheck { device, ..self }
    }

    /// Sets the path of the contact sheet of a comparison. By default it is `NAME.sheet.png` beside the picture.
    #[must_use]
    pub fn sheet(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { sheet: Some(path.into()), ..self }
    }

    /// Writes the tensors between the stages to this safetensors file, for debugging.
    #[must_use]
    pub fn dump(self, path: impl Into<PathBuf>) -> Self {
        RenderCheck { dump: Some(path.into()), ..self }
    }

    /// Replaces existing outputs. By default an existing output is an error.
    #[must_use]
    pub fn overwrite(self, overwrite: bool) -> Self {
        RenderCheck { overwrite: Overwrite::allowed(overwrite), ..self }
    }

    /// Sets the number of threads, at least 1. By default, rendering uses all CPUs, and comparing and writing use two threads per CPU,
    /// at most eight. See [`RenderJob::jobs`].
    #[must_use]
    pub fn jobs(self, jobs: usize) -> Self {
        RenderCheck { jobs: Some(jobs), ..self }
    }

    /// Reports progress to `progress`, which may also interrupt the work.
    #[must_use]
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        RenderCheck { progress, ..self }
    }

    /// Reports what [`Self::run`] would do, without reading weights: settings, device, and the checks that need no
    /// render.
    ///
    /// Fails if the checkpoint or the options are not supported, or if a file to compare with cannot be opened.
    pub fn plan(&self) -> Result<RenderPlan> {
        self.job(false)?.plan()
    }

    /// Renders, compares and checks, and returns the picture. Writes no file.
    pub fn run(&self) -> Result<RenderReport> {
        self.job(self.dump.is_some())?.run(self.progress)
    }

    /// Renders as [`Self::run`], and writes the picture to the PNG file `output`, and the contact sheet of a comparison.
    ///
    /// Fails before the render if a file must not be written.
    pub fn write(&self, output: impl AsRef<Path>) -> Result<RenderCheckReport> {
        let output = output.as_ref();
        let is_compared = self.against.is_some() || self.like.is_some();
        let sheet = || self.sheet.clone().unwrap_or_else(|| output.with_extension("sheet.png"));
        let sheet = is_compared.then(sheet);
        self.check_destinations(&[Some(output), sheet.as_deref(), self.dump.as_deref()])?;
        let report = self.run()?;
        if let (Some(path), Some(dump)) = (&self.dump, &report.dump) {
            let jobs = self.jobs.unwrap_or_else(parallel::default_jobs);
            let options = WriteOptions::default().overwrite(self.overwrite).verify(false).jobs(jobs);
            let options = options.progress(self.progress);
            containers::write(path, Target::Safetensors, dump, &Metadata::default(), &options)?;
        }
        if let (Some(path), Some(sheet)) = (&sheet, &report.sheet) {
            AtomicFile::write(path, self.overwrite, &sheet.to_png("")?)?;
        }
        AtomicFile::write(output, self.overwrite, &report.to_png()?)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let paths = RenderPaths {
            checkpoint: text(self.checkpoint.path()),
            vae: self.vae.map(|vae| text(vae.path())),
            refiner: self.refiner.map(|refiner| text(refiner.path())),
            picture: text(output),
            sheet: sheet.as_deref().map(text),
        };
        Ok(RenderCheckReport::new(&report, paths))
    }

    fn job(&self, keeps_dump: bool) -> Result<RenderJob> {
        let mut job = RenderJob::new(self.input()?).options(self.options.clone()).device(self.device).dump(keeps_dump);
        if let Some(jobs) = self.jobs {
            check_jobs(jobs)?;
            job = job.jobs(jobs);
        }
        if let Some(refiner) = self.refiner {
            job = job.refiner(input_of(refiner)?);
        }
        if let Some(folder) = &self.loras {
            job = job.loras(folder);
        }
        if let Some(folder) = &self.embeddings {
            job = job.embeddings(folder);
        }
        if let Some(path) = &self.like {
            job = job.like(ReferencePicture::open(path)?);
        }
        if let Some(path) = &self.against {
            job = job.against(open_against(path)?);
        }
        Ok(job)
    }

    fn input(&self) -> Result<RenderInput> {
        let base = input_of(self.checkpoint)?;
        let Some(vae) = self.vae else { return Ok(base) };
        // A picture shows what a VAE of another family does.
        let options = MergeVaeOptions::default().allow_family_mismatch(true);
        let resolved = merge_vae::plan(self.checkpoint, vae, &options)?;
        let sha256 = match vae.container() {
            Container::Diffusers => None,
            _ => Some(vae.sha256(self.progress)?),
        };
        let hyperparameters = self.checkpoint.hyperparameters()?.with_vae_of(&vae.hyperparameters()?);
        let base = base.with_hyperparameters(hyperparameters);
        Ok(base.with_vae(values_of(self.checkpoint, &resolved.state_dict)?, &vae.file_name(), sha256.as_deref()))
    }

    /// Fails if one of the outputs must not be written, or if two of them are the same.
    fn check_destinations(&self, outputs: &[Option<&Path>]) -> Result<()> {
        let mut seen = Vec::new();
        for path in outputs.iter().copied().flatten() {
            AtomicFile::check_destination(path, self.overwrite)?;
            if seen.contains(&path) {
                return Err(Error::usage("two outputs cannot be the same file").in_file(path));
            }
            seen.push(path);
        }
        Ok(())
    }
}

fn input_of(checkpoint: &Checkpoint) -> Result<RenderInput> {
    checkpoint.refuse_unreadable()?;
    let state_dict = checkpoint.to_render()?;
    let input = RenderInput::new(checkpoint.path(), values_of(checkpoint, &state_dict)?);
    let input = input.with_parameterization(checkpoint.parameterization()?);
    let input = input.with_hyperparameters(checkpoint.hyperparameters()?);
    Ok(match checkpoint.stored().sources() {
        [file] if checkpoint.container() != Container::Diffusers => input.with_file(Arc::clone(file)),
        // A folder has no hash.
        _ => input,
    })
}

/// Returns the tensors of a checkpoint, with the values of quantized weights.
fn values_of(checkpoint: &Checkpoint, state_dict: &StateDict) -> Result<Arc<StateDict>> {
    let values = quantization::values(state_dict, checkpoint.metadata());
    let values = values.map_err(|error| error.in_file(checkpoint.path()))?;
    Ok(Arc::new(values.unwrap_or_else(|| state_dict.clone())))
}

/// Opens the picture or checkpoint to compare with. The content decides which one it is.
fn open_against(path: &Path) -> Result<Against> {
    let mut magic = [0; 12];
    let read = File::open(path).and_then(|mut file| file.read(&mut magic));
    if read.is_ok_and(|_| is_picture(&magic)) {
        return Ok(Against::Picture(path.to_owned(), read_picture(path)?.picture));
    }
    Ok(Against::Checkpoint(input_of(&Checkpoint::open(path)?)?))
}
