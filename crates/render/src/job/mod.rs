//! A render check of an open checkpoint: plan, render, compare, report.

mod against;
mod device;
mod dump;
mod input;
mod networks;
mod pool;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checks::{self, Check, Verdict};
use crate::networks::check_supported;
use crate::observer::Trace;
use crate::picture::Picture;
use crate::pipeline::{self, Model, ParsedPrompts, Timings, render};
use crate::prompt::Tokenizer;
use crate::settings::{Infotext, ReferenceParameters, ReferencePicture, RenderOptions, Settings, UsedFiles};
use against::Other;
use device::OpenDevice;
use dump::Dump;
use networks::{Folders, Networks};
use pool::{has_global_pool, pool};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::{Progress, parallel};
use trinart_ckpt_formats::state_dict::StateDict;

pub use against::{Against, AgainstReport, LatentDistance};
pub use device::Device;
use input::PendingHash;
pub use input::RenderInput;

/// A render check of an open checkpoint.
///
/// [`RenderJob::plan`] checks everything that needs no weights; [`RenderJob::run`] renders.
#[derive(Clone)]
pub struct RenderJob {
    input: RenderInput,
    refiner: Option<RenderInput>,
    options: RenderOptions,
    device: Device,
    reference: Option<ReferencePicture>,
    against: Option<Against>,
    folders: Folders,
    jobs: Option<usize>,
    dump: bool,
}

/// A preview of [`RenderJob::run`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RenderPlan {
    /// The settings, completed from the reference picture and the defaults.
    pub settings: Settings,
    /// The device.
    pub device: String,
    /// The dtypes of weights, values and sums.
    pub arithmetic: String,
    /// The checks that need no render.
    pub checks: Vec<Check>,
}

/// The result of [`RenderJob::run`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RenderReport {
    /// The picture.
    pub picture: Picture,
    /// The contact sheet of the comparison: both pictures and their difference.
    pub sheet: Option<Picture>,
    /// The settings, completed from the reference picture and the defaults.
    pub settings: Settings,
    /// The `parameters` of the picture.
    pub infotext: Infotext,
    /// The checks.
    pub checks: Vec<Check>,
    /// [`Verdict::Fail`] if a check failed, else [`Verdict::Pass`].
    pub verdict: Verdict,
    /// The comparison with another picture or checkpoint.
    pub against: Option<AgainstReport>,
    /// The device.
    pub device: String,
    /// The dtypes of weights, values and sums.
    pub arithmetic: String,
    /// The time of each stage.
    pub timings: Timings,
    /// The peak memory use of the process in bytes, on Linux.
    pub peak_memory: Option<u64>,
    /// The peak memory use on the GPU in bytes.
    pub peak_device_memory: Option<u64>,
    /// The tensors between the stages, if a dump was requested.
    pub dump: Option<StateDict>,
}

impl RenderReport {
    /// Encodes the picture as PNG, with its `parameters`.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        self.picture.to_png(&self.infotext.to_text())
    }
}

impl RenderJob {
    /// Returns a job with default options.
    pub fn new(input: RenderInput) -> Self {
        RenderJob {
            input,
            refiner: None,
            options: RenderOptions::default(),
            device: Device::default(),
            reference: None,
            against: None,
            folders: Folders::default(),
            jobs: None,
            dump: false,
        }
    }

    /// Sets the options.
    #[must_use]
    pub fn options(self, options: RenderOptions) -> Self {
        RenderJob { options, ..self }
    }

    /// Lets a refiner take over the last part of each render; see [`RenderOptions::switch_at`].
    #[must_use]
    pub fn refiner(self, refiner: RenderInput) -> Self {
        RenderJob { refiner: Some(refiner), ..self }
    }

    /// Sets the device.
    #[must_use]
    pub fn device(self, device: Device) -> Self {
        RenderJob { device, ..self }
    }

    /// Takes unset options from a reference picture, and compares with it unless [`RenderJob::against`] is set.
    #[must_use]
    pub fn like(self, reference: ReferencePicture) -> Self {
        RenderJob { reference: Some(reference), ..self }
    }

    /// Compares with another picture or checkpoint.
    #[must_use]
    pub fn against(self, against: Against) -> Self {
        RenderJob { against: Some(against), ..self }
    }

    /// Sets the folder with the LoRAs that prompts load: `<lora:name:0.8>`.
    #[must_use]
    pub fn loras(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.loras = Some(folder.into());
        self
    }

    /// Sets the folder with the textual inversions that prompts name.
    #[must_use]
    pub fn embeddings(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.embeddings = Some(folder.into());
        self
    }

    /// Sets the number of threads that run the layers on the CPU and compare weights. By default, layers use rayon's current
    /// pool, and comparing uses two threads per CPU, at most eight.
    ///
    /// An additional thread hashes the checkpoint, unless the number is 1.
    #[must_use]
    pub fn jobs(self, jobs: usize) -> Self {
        RenderJob { jobs: Some(jobs), ..self }
    }

    /// Keeps the tensors between the stages.
    #[must_use]
    pub fn dump(self, dump: bool) -> Self {
        RenderJob { dump, ..self }
    }

    /// Resolves the settings, parses the prompts, opens the device and checks the architecture, without reading weights.
    ///
    /// Fails if any of these is not supported.
    pub fn plan(&self) -> Result<RenderPlan> {
        let (device, settings, networks) = self.prepare()?;
        ParsedPrompts::parse(&settings, &Tokenizer::new()?).map_err(|error| error.in_file(self.input.path()))?;
        for input in [Some(&self.input), self.other_checkpoint()].into_iter().flatten() {
            let check = || check_supported(input.state_dict()).and_then(|()| self.model(input));
            check()
                .and_then(|model| pipeline::check(&model, &settings))
                .map_err(|error| error.in_file(input.path()))?;
        }
        let legacy = self.input.legacy_hash()?;
        let files = UsedFiles {
            model: [self.input.known_hash(), legacy.as_deref()],
            vae: self.input.vae(),
            refiner: self.refiner.as_ref().map(|refiner| (refiner.name(), refiner.known_hash())),
            networks: &networks.used,
        };
        let (size_check, applied) = (self.check_size(&settings)?, networks.apply(&self.input)?.1);
        let checks = self.early_checks(&settings, &files, size_check, applied, &networks)?;
        let arithmetic = device.arithmetic(settings.dtype);
        Ok(RenderPlan { settings, device: device.name, arithmetic, checks })
    }

    /// Renders, compares and judges.
    ///
    /// NaN values, infinite values and flawed weights do not stop the render; the report lists them as failed checks.
    /// Fails if the checkpoint or the settings are not supported, or if a file cannot be read.
    pub fn run(&self, progress: &dyn Progress) -> Result<RenderReport> {
        match self.jobs {
            Some(jobs) => pool(jobs)?.install(|| self.run_in_current_pool(progress)),
            None if rayon::current_thread_index().is_some() || has_global_pool() => self.run_in_current_pool(progress),
            None => pool(1)?.install(|| self.run_in_current_pool(progress)),
        }
    }

    fn run_in_current_pool(&self, progress: &dyn Progress) -> Result<RenderReport> {
        let hash = self.input.start_hash(self.jobs != Some(1))?;
        let refiner_hash = self.refiner.as_ref().map(|it| it.start_hash(self.jobs != Some(1))).transpose()?;
        let (device, settings, networks) = self.prepare()?;
        let size_check = self.check_size(&settings)?;
        let other_picture = self.other_picture().filter(|_| size_check.is_none());
        let (input, applied) = networks.apply(&self.input)?;
        let machine = device.machine.as_ref();
        let dump = self.dump.then(|| Arc::new(Dump::default()));
        let stages = dump.as_ref().map_or_else(Trace::default, |dump| Trace::to(Arc::clone(dump) as _));
        let rendered = self.model(&input).and_then(|model| render(&model, &settings, machine, &stages, progress));
        let mut rendered = rendered.map_err(|error| error.in_file(self.input.path()))?;
        let hash = hash.wait()?;
        let refiner_hash = refiner_hash.map(PendingHash::wait).transpose()?.flatten();
        let legacy = self.input.legacy_hash()?;
        let files = UsedFiles {
            model: [hash.as_deref(), legacy.as_deref()],
            vae: self.input.vae(),
            refiner: self.refiner.as_ref().map(|refiner| (refiner.name(), refiner_hash.as_deref())),
            networks: &networks.used,
        };
        let infotext = settings.infotext(&self.input.name(), &files);
        let mut checks = self.early_checks(&settings, &files, size_check, applied, &networks)?;
        checks.append(&mut rendered.checks);
        let other = match self.other_checkpoint() {
            Some(other) => {
                let jobs = self.jobs.unwrap_or_else(parallel::default_jobs);
                let (changed, _) = networks.apply(other)?;
                let model = self.model(&changed).map_err(|error| error.in_file(other.path()))?;
                Some(Other::render((other, &model), &self.input, &settings, machine, jobs, &mut checks, progress)?)
            }
            None => other_picture.map(|(path, picture)| Other::from_picture(path, picture)),
        };
        let against = other.as_ref().map(|other| other.compare(&rendered, &mut checks)).transpose()?;
        let sheet = other
            .zip(against.as_ref())
            .map(|(other, report)| other.sheet(self.input.path(), &rendered.picture, report));
        let has_failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(RenderReport {
            picture: rendered.picture,
            sheet,
            infotext,
            checks,
            verdict: if has_failed { Verdict::Fail } else { Verdict::Pass },
            against,
            arithmetic: device.arithmetic(settings.dtype),
            settings,
            timings: rendered.timings,
            peak_memory: peak_memory(),
            peak_device_memory: device.peak_memory(),
            device: device.name,
            dump: dump.map(|dump| dump.to_state_dict()).transpose()?,
        })
    }

    /// Returns the checks that need no render, in the order of the report. `applied` are those of the LoRAs.
    fn early_checks(
        &self,
        settings: &Settings,
        files: &UsedFiles<'_>,
        size_check: Option<Check>,
        applied: Vec<Check>,
        networks: &Networks,
    ) -> Result<Vec<Check>> {
        let mut checks = self.parameters().checks(files)?;
        checks.extend(size_check);
        checks.append(&mut self.input.position_ids_checks()?);
        checks.extend(checks::distilled(&self.input.name(), settings.steps, settings.cfg));
        checks.extend(applied);
        checks.extend(networks.checks());
        Ok(checks)
    }

    /// Returns the model of an input, with the refiner.
    fn model(&self, input: &RenderInput) -> Result<Model> {
        let model = input.model()?;
        let Some(refiner) = &self.refiner else { return Ok(model) };
        let supported = check_supported(refiner.state_dict()).and_then(|()| model.with_refiner(refiner.model()?));
        supported.map_err(|error| error.in_file(refiner.path()))
    }

    fn prepare(&self) -> Result<(OpenDevice, Settings, Networks)> {
        let device = self.device.open()?;
        let mut settings = self.options.resolve(&self.parameters(), device.default_dtype)?;
        let networks = Networks::open(&self.folders, &mut settings)?;
        Ok((device, settings, networks))
    }

    /// The picture to compare with.
    fn other_picture(&self) -> Option<(&Path, &Picture)> {
        match (&self.against, &self.reference) {
            (Some(Against::Picture(path, picture)), _) => Some((path.as_path(), picture)),
            (None, Some(reference)) => Some((reference.path(), &reference.picture)),
            (Some(Against::Checkpoint(_)), _) | (None, None) => None,
        }
    }

    /// Says that the reference picture has another size than the render, so that they are not compared.
    ///
    /// Fails if any other picture to compare with has another size.
    fn check_size(&self, settings: &Settings) -> Result<Option<Check>> {
        let Some((path, picture)) = self.other_picture() else { return Ok(None) };
        if (picture.width, picture.height) == (settings.width, settings.height) {
            return Ok(None);
        }
        let (theirs, ours) =
            (format!("{}x{}", picture.width, picture.height), format!("{}x{}", settings.width, settings.height));
        if self.against.is_some() {
            let message = format!("the picture to compare with has {theirs} pixels, but the render has {ours}");
            return Err(Error::usage(message).in_file(path));
        }
        let found = format!("not compared: the reference picture has {theirs} pixels, the render {ours}");
        let expected = "the same size: hires fix and upscalers enlarge a picture after the render";
        Ok(Some(Check::warn("size", false, found, expected)))
    }

    fn parameters(&self) -> ReferenceParameters {
        self.reference.as_ref().map_or_else(ReferenceParameters::default, |it| it.parameters.clone())
    }

    fn other_checkpoint(&self) -> Option<&RenderInput> {
        match &self.against {
            Some(Against::Checkpoint(other)) => Some(other),
            Some(Against::Picture(..)) | None => None,
        }
    }
}

/// Returns the peak resident memory of the process in bytes, or `None` if `/proc` is not available.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
