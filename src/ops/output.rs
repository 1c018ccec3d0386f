//! Writing, as the operations that write a checkpoint share it.

use std::path::Path;

use crate::formats::Result;
use crate::formats::containers::diffusers::{self, Companions, Files};
use crate::formats::containers::{self, Container, Target, WriteOptions, Written};
use crate::formats::io::{AtomicFile, AtomicFolder, NoProgress, Overwrite, Progress, parallel};
use crate::formats::tensor::{Dtype, Overflow};
use crate::models::family::Prediction;
use crate::models::ledger::Origin;
use crate::models::plan::folders::{self, FolderPlan};
use crate::models::plan::{Cast, Resolved};
use crate::models::{Checkpoint, Notice, NoticeCode};
use crate::report::{LeftOut, WriteReport};

/// How to write a diffusers folder.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FolderOptions {
    /// What the UNet predicts, for the scheduler; `None` follows the checkpoint.
    pub prediction: Option<Prediction>,
    /// Write weights as `.bin` instead of `.safetensors`.
    pub bin: bool,
    /// A variant in the names of the weights: `fp16` makes `diffusion_pytorch_model.fp16.safetensors`.
    pub variant: Option<String>,
    /// The most bytes of tensors in one file; `None` means 10 GB, as in diffusers.
    pub max_shard_bytes: Option<u64>,
}

/// Bytes of tensors in one file of a folder by default, as in diffusers.
const SHARD_BYTES: u64 = 10_000_000_000;

/// How the operations that write a checkpoint write it. Their methods of the same names set single fields.
#[derive(Clone)]
#[non_exhaustive]
pub struct OutputOptions<'a> {
    /// Cast the floating-point tensors of the whole output; `None` keeps each dtype.
    pub dtype: Option<Dtype>,
    /// How to treat values that overflow their new dtype.
    pub overflow: Overflow,
    /// The output format; `None` follows the extension of the output.
    pub format: Option<Target>,
    /// How to treat an existing output.
    pub overwrite: Overwrite,
    /// Whether to read the output back and compare it with the plan.
    pub verify: bool,
    /// Number of threads.
    pub jobs: usize,
    /// Reports progress, and may interrupt the work.
    pub progress: &'a dyn Progress,
    /// How to write a diffusers folder.
    pub folder: FolderOptions,
}

impl Default for OutputOptions<'_> {
    fn default() -> Self {
        OutputOptions {
            dtype: None,
            overflow: Overflow::Refuse,
            format: None,
            overwrite: Overwrite::Refuse,
            verify: true,
            jobs: parallel::default_jobs(),
            progress: &NoProgress,
            folder: FolderOptions::default(),
        }
    }
}

/// Whether an operation writes its output or only reports what it would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Plan,
    Write,
}

/// Adds to an operation with a field `output` the methods that all writing operations have.
macro_rules! output_methods {
    ($operation:ident) => {
        impl<'a> $operation<'a> {
            /// Sets all options for writing at once.
            #[must_use]
            pub fn output_options(mut self, options: $crate::ops::OutputOptions<'a>) -> Self {
                self.output = options;
                self
            }

            /// Casts the floating-point tensors of the whole output to `dtype`. By default every tensor keeps its own.
            #[must_use]
            pub fn dtype(mut self, dtype: $crate::formats::tensor::Dtype) -> Self {
                self.output.dtype = Some(dtype);
                self
            }

            /// Clamps values that overflow a new dtype to its largest value. By default such a value is an error.
            #[must_use]
            pub fn saturate(mut self, saturate: bool) -> Self {
                use $crate::formats::tensor::Overflow;
                self.output.overflow = if saturate { Overflow::Saturate } else { Overflow::Refuse };
                self
            }

            /// Sets the output format. By default the extension of the output decides.
            #[must_use]
            pub fn format(mut self, format: $crate::formats::containers::Target) -> Self {
                self.output.format = Some(format);
                self
            }

            /// Replaces an existing output. By default an existing output is an error.
            #[must_use]
            pub fn overwrite(mut self, overwrite: bool) -> Self {
                use $crate::formats::io::Overwrite;
                self.output.overwrite = if overwrite { Overwrite::Replace } else { Overwrite::Refuse };
                self
            }

            /// Reads the output back and compares it with the plan. On by default.
            #[must_use]
            pub fn verify(mut self, verify: bool) -> Self {
                self.output.verify = verify;
                self
            }

            /// Sets how a diffusers folder is written.
            #[must_use]
            pub fn folder(mut self, options: $crate::ops::FolderOptions) -> Self {
                self.output.folder = options;
                self
            }

            /// Sets the number of threads. By default it follows the machine.
            #[must_use]
            pub fn jobs(mut self, jobs: usize) -> Self {
                self.output.jobs = jobs;
                self
            }

            /// Reports progress to `progress`, which may also interrupt the work.
            #[must_use]
            pub fn progress(mut self, progress: &'a dyn $crate::formats::io::Progress) -> Self {
                self.output.progress = progress;
                self
            }

            /// Reports what [`Self::write`] would do, tensor by tensor, and writes nothing.
            ///
            /// Fails where `write` would fail, except for errors that only the tensors' values or the disk can show.
            pub fn plan(&self, output: impl AsRef<std::path::Path>) -> $crate::Result<$crate::report::WriteReport> {
                self.run(output.as_ref(), $crate::ops::output::Mode::Plan)
            }

            /// Writes the output. Afterwards `output` is the whole new file or folder, or what was there before.
            pub fn write(&self, output: impl AsRef<std::path::Path>) -> $crate::Result<$crate::report::WriteReport> {
                self.run(output.as_ref(), $crate::ops::output::Mode::Write)
            }
        }
    };
}
pub(super) use output_methods;

impl OutputOptions<'_> {
    pub(super) fn cast(&self) -> Option<Cast> {
        self.dtype.map(|to| Cast { to, overflow: self.overflow })
    }

    pub(super) fn target(&self, output: &Path) -> Result<Target> {
        self.format.map_or_else(|| Target::from_path(output), Ok)
    }

    /// Fails, before any work is done, if the output may not be written.
    pub(super) fn check_destination(&self, output: &Path) -> Result<()> {
        match self.target(output)? {
            // Which files of an existing folder would be lost is checked again once the new files are known.
            Target::Diffusers => AtomicFolder::check_destination(output, self.overwrite, &|_| true),
            _ => AtomicFile::check_destination(output, self.overwrite),
        }
    }

    /// Writes a resolved plan for `input`, or reports what it would write.
    pub(super) fn write(
        &self,
        input: &Checkpoint,
        output: &Path,
        mut resolved: Resolved,
        mode: Mode,
    ) -> Result<WriteReport> {
        let target = self.target(output)?;
        input.translation().trace_back(Origin::Checkpoint, &mut resolved.ledger);
        resolved.notices.extend(input.translation().notices.iter().cloned());
        if target != Target::Diffusers {
            resolved.notices.extend(input.translation().single_file_notices.iter().cloned());
        }
        let (resolved, written) = match target {
            Target::Diffusers => self.write_folder(input, output, resolved, mode)?,
            _ => {
                let written = self.write_file(output, target, &resolved, mode)?;
                (resolved, written)
            }
        };
        Ok(WriteReport {
            input: input.path().to_string_lossy().into_owned(),
            output: output.to_string_lossy().into_owned(),
            format: target.name(),
            tensors: resolved.state_dict.len(),
            bytes: written.bytes,
            dry_run: mode == Mode::Plan,
            verified: written.verified,
            vae: None,
            left_out: LeftOut::opaque(input.stored()),
            notices: resolved.notices,
            ledger: resolved.ledger,
        })
    }

    fn options(&self) -> WriteOptions<'_> {
        WriteOptions::default().overwrite(self.overwrite).verify(self.verify).jobs(self.jobs).progress(self.progress)
    }

    fn write_file(&self, output: &Path, target: Target, resolved: &Resolved, mode: Mode) -> Result<Written> {
        let Resolved { state_dict, metadata, .. } = resolved;
        match mode {
            Mode::Plan => {
                let bytes = containers::check_target(state_dict, metadata, target);
                Ok(Written::planned(bytes.map_err(|error| error.in_file(output))?))
            }
            Mode::Write => containers::write(output, target, state_dict, metadata, &self.options()),
        }
    }

    fn write_folder(
        &self,
        input: &Checkpoint,
        output: &Path,
        resolved: Resolved,
        mode: Mode,
    ) -> Result<(Resolved, Written)> {
        let companions = match input.container() {
            Container::Diffusers => diffusers::companions(input.path())?,
            _ => Companions::default(),
        };
        let planned = folders::to_folder(resolved, companions.files, self.folder.prediction);
        let FolderPlan { mut resolved, files } = planned.map_err(|error| error.in_file(input.path()))?;
        resolved.notices.extend(companions.unknown.iter().map(|name| {
            let text = format!("left out {name}: an optional part of the pipeline that this program does not know");
            Notice::new(NoticeCode::PipelinePartDropped, text)
        }));
        let files = Files {
            texts: &files,
            bin: self.folder.bin,
            variant: self.folder.variant.as_deref(),
            shard_bytes: self.folder.max_shard_bytes.unwrap_or(SHARD_BYTES),
        };
        let entries = diffusers::entries(&resolved.state_dict, &resolved.metadata, &files)?;
        let written = match mode {
            Mode::Plan => {
                containers::check_folder_destination(output, &entries, self.overwrite)?;
                Written::planned(containers::check_folder(&entries)?)
            }
            Mode::Write => containers::write_folder(output, &entries, &self.options())?,
        };
        Ok((resolved, written))
    }
}
