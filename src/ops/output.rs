//! What the operations that write a checkpoint share: their options, and the write itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder_options::FolderOptions;
use super::jobs::check_jobs;
use super::metadata_edits::MetadataEdits;
use super::side_file::SideFile;
use super::staging::Staging;
use super::{contradictions, pipeline_parts, structure};
use crate::report::{LeftOut, WriteReport};
use trinart_ckpt_formats::containers::diffusers::{self, Companions, Files};
use trinart_ckpt_formats::containers::{self, Container, Structure, Target, WriteOptions, Written};
use trinart_ckpt_formats::error::Kind;
use trinart_ckpt_formats::io::remote::{self, Storing};
use trinart_ckpt_formats::io::{AtomicFile, AtomicFolder, NoProgress, Overwrite, Progress, parallel};
use trinart_ckpt_formats::tensor::{Dtype, Overflow, non_finite};
use trinart_ckpt_formats::{Error, Result};
use trinart_ckpt_models::family::Prediction;
use trinart_ckpt_models::ledger::{Ledger, LedgerLine, Origin};
use trinart_ckpt_models::parameterization::Parameterization;
use trinart_ckpt_models::plan::folders::{self, FolderPlan};
use trinart_ckpt_models::plan::patterns::{self, Renaming};
use trinart_ckpt_models::plan::{Cast, Resolved, carry, express, unrecorded};
use trinart_ckpt_models::{Checkpoint, Notice, NoticeCode};

/// Bytes of tensors in one file of a folder by default, as in diffusers.
const SHARD_BYTES: u64 = 10_000_000_000;

/// How to write a checkpoint. Operations have a method of the same name for each field.
#[derive(Clone)]
pub(super) struct OutputOptions<'a> {
    /// The dtype of the floating-point tensors; `None` keeps each dtype.
    pub(super) dtype: Option<Dtype>,
    pub(super) overflow: Overflow,
    /// `None` follows the extension of the output.
    pub(super) format: Option<Target>,
    pub(super) overwrite: Overwrite,
    /// What an output at an address keeps for later runs.
    pub(super) record: Option<String>,
    /// Whether missing folders above the output are created.
    pub(super) create_folders: bool,
    pub(super) verify: bool,
    pub(super) strict: bool,
    pub(super) allow_loss: bool,
    pub(super) jobs: usize,
    pub(super) progress: &'a dyn Progress,
    /// What the UNet predicts; `None` follows the checkpoint.
    pub(super) prediction: Option<Prediction>,
    pub(super) folder: FolderOptions,
    pub(super) metadata: MetadataEdits,
    /// New names for tensors of a file, after all else.
    pub(super) renamings: Vec<Renaming>,
    /// What the output is to record instead of what the checkpoint does.
    pub(super) found: Option<Parameterization>,
    /// Whether the UNet is another than that of the checkpoint.
    pub(super) replaces_unet: bool,
    /// The configuration of a PEFT adapter, to write beside the output.
    pub(super) adapter_config: Option<String>,
    /// The other inputs, by their origin in the ledger.
    pub(super) others: Vec<(Origin, PathBuf)>,
}

impl Default for OutputOptions<'_> {
    fn default() -> Self {
        OutputOptions {
            dtype: None,
            overflow: Overflow::Refuse,
            format: None,
            overwrite: Overwrite::Refuse,
            record: None,
            create_folders: false,
            verify: true,
            strict: false,
            allow_loss: false,
            jobs: parallel::default_jobs(),
            progress: &NoProgress,
            prediction: None,
            folder: FolderOptions::default(),
            metadata: MetadataEdits::default(),
            renamings: Vec::new(),
            found: None,
            replaces_unet: false,
            adapter_config: None,
            others: Vec::new(),
        }
    }
}

/// Whether an operation writes its output or only reports what it would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Plan,
    Write,
}

/// Creates the folder of an output, and those above it.
fn create_parent(output: &Path) -> Result<()> {
    let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    fs::create_dir_all(folder).map_err(|error| Error::io("cannot create the folder", error).in_file(folder))
}

impl OutputOptions<'_> {
    /// Names the input tensor in an error about reading a tensor of the output, such as an overflow, and its file if it is
    /// known. `input` is the checkpoint.
    pub(super) fn at_input(&self, error: Error, ledger: &Ledger, input: &Checkpoint) -> Error {
        let line = error.tensor().filter(|_| error.kind() != Kind::Unverified).and_then(|key| ledger.input_of(key));
        let Some(LedgerLine { from, input: key, .. }) = line else { return error };
        let other = self.others.iter().find(|(origin, _)| origin == from).map(|(_, path)| path.as_path());
        let file = if *from == Origin::Checkpoint { Some(input.path()) } else { other };
        let error = error.rename_tensor(key.as_str());
        match file {
            Some(file) => error.in_file(file),
            None => error,
        }
    }

    pub(super) fn cast(&self) -> Option<Cast> {
        self.dtype.map(|to| Cast { to, overflow: self.overflow })
    }

    /// Returns the format of the output. Fails, before any work is done, if an option is invalid or if the output may not be
    /// written.
    pub(super) fn check_destination(&self, output: &Path, mode: Mode) -> Result<Target> {
        check_jobs(self.jobs)?;
        if self.folder.max_shard_bytes == Some(0) {
            return Err(Error::usage("the size of the files in a folder must be at least 1 byte"));
        }
        let target = self.format.map_or_else(|| Target::from_path(output), Ok)?;
        if target == Target::Diffusers && !self.renamings.is_empty() {
            return Err(Error::usage("the tensors of a diffusers folder have the names that diffusers looks for"));
        }
        if remote::address(output).is_some() {
            if target == Target::Diffusers {
                let found = "a folder cannot be written to an address; expected a path, or the address of a file";
                return Err(Error::unsupported(found).in_file(output));
            }
            return remote::check_destination(output, self.overwrite).map(|()| target);
        }
        if self.create_folders && mode == Mode::Write {
            create_parent(output)?;
        }
        match target {
            _ if self.is_in_new_folder(output) => {}
            // Once the new files are known, `write_folder` checks which files of an existing folder would be lost.
            Target::Diffusers => AtomicFolder::check_destination(output, self.overwrite, &|_| true)?,
            _ => AtomicFile::check_destination(output, self.overwrite)?,
        }
        Ok(target)
    }

    /// Whether the output goes into a folder that does not exist and would be created: then nothing can be in its way. The
    /// store of an address refuses what is in the way itself.
    fn is_in_new_folder(&self, output: &Path) -> bool {
        let parent = output.parent().filter(|folder| !folder.as_os_str().is_empty());
        remote::address(output).is_some() || self.create_folders && parent.is_some_and(|folder| !folder.exists())
    }

    /// Writes the plan for `input` to `output`, or reports what it would write. `target` is the result of
    /// [`Self::check_destination`].
    pub(super) fn write(
        &self,
        input: &Checkpoint,
        output: &Path,
        target: Target,
        mut resolved: Resolved,
        mode: Mode,
    ) -> Result<WriteReport> {
        if target != Target::Diffusers {
            resolved.notices.extend(input.translation().single_file_notices(&resolved.state_dict));
            resolved.notices.extend(pipeline_parts::left_out(input.stored().parts())?);
        }
        resolved.notices.extend(contradictions::of_extension(target, output));
        let wanted = self.parameterization(input, &mut resolved)?;
        let mut also_wrote = Vec::new();
        let (mut resolved, written) = match target {
            Target::Diffusers => self.write_folder(input, output, resolved, &wanted, mode)?,
            _ => {
                input.require_ldm_names()?;
                let is_file = input.container() != Container::Diffusers;
                let is_as_stored = is_file && self.prediction.is_none() && !self.replaces_unet;
                let expressed = express::in_file(resolved, &wanted, is_as_stored);
                let expressed = expressed.map_err(|error| error.in_file(input.path()))?;
                let resolved = patterns::rename(expressed.resolved, &self.renamings);
                let mut resolved = resolved.map_err(|error| error.in_file(input.path()))?;
                let yaml = expressed.yaml;
                if !is_file {
                    let notices = unrecorded::check(input, &resolved, self.allow_loss);
                    resolved.notices.extend(notices.map_err(|error| error.in_file(input.path()))?);
                    carry::record(&mut resolved.metadata, input.stored().configs(), &resolved.state_dict);
                }
                resolved.notices.extend(self.metadata.apply(&mut resolved.metadata));
                let is_new = self.is_in_new_folder(output);
                let side_file = SideFile::plan(input, output, &mut resolved, &wanted, yaml, self.overwrite, is_new)?;
                let adapter = match &self.adapter_config {
                    Some(text) => SideFile::adapter(output, text, self.overwrite, is_new)?,
                    None => None,
                };
                let side_files: Vec<SideFile> = side_file.into_iter().chain(adapter).collect();
                // They are complete on the disk before the checkpoint is, and take their names right after it.
                let to_stage = side_files.iter().filter(|_| mode == Mode::Write);
                let staged = to_stage.map(SideFile::stage).collect::<Result<Vec<_>>>()?;
                let structure = structure::of_output(input, target, &mut resolved);
                let written = self.write_file(output, target, &resolved, &structure, mode);
                let written = written.map_err(|error| self.at_input(error, &resolved.ledger, input))?;
                staged.into_iter().flatten().try_for_each(AtomicFile::persist)?;
                also_wrote.extend(side_files.iter().map(|side_file| side_file.path().to_string_lossy().into_owned()));
                (resolved, written)
            }
        };
        let non_finite = non_finite::to_text(&written.non_finite);
        resolved.notices.extend(non_finite.map(|text| Notice::new(NoticeCode::NonFinite, text)));
        Ok(WriteReport {
            input: input.path().to_string_lossy().into_owned(),
            output: output.to_string_lossy().into_owned(),
            format: target,
            tensors: resolved.state_dict.len(),
            bytes: written.bytes,
            dry_run: mode == Mode::Plan,
            verified: written.verified,
            sha256: written.sha256,
            also_wrote,
            vae: None,
            replaced: Vec::new(),
            repairs: None,
            left_out: LeftOut::opaque(input.stored()),
            non_finite: written.non_finite,
            notices: resolved.notices,
            ledger: resolved.ledger,
        })
    }

    /// Returns what the output is to record: what the input does, except for what was requested.
    fn parameterization(&self, input: &Checkpoint, resolved: &mut Resolved) -> Result<Parameterization> {
        let found = self.found.clone().map_or_else(|| input.parameterization(), Ok)?;
        let Some(prediction) = self.prediction else {
            resolved.notices.extend(contradictions::of_marks(&found));
            resolved.notices.extend(express::unmarked(&found));
            return Ok(found);
        };
        if !express::has_unet(&resolved.state_dict) {
            let found = format!("the output has no UNet that could predict {}", prediction.text());
            return Err(Error::usage(found).in_file(input.path()));
        }
        Ok(found.with_prediction(prediction))
    }

    fn write_options(&self) -> WriteOptions<'_> {
        WriteOptions::default()
            .overwrite(self.overwrite)
            .verify(self.verify)
            .strict(self.strict)
            .jobs(self.jobs)
            .progress(self.progress)
    }

    fn write_file(
        &self,
        output: &Path,
        target: Target,
        resolved: &Resolved,
        structure: &Structure,
        mode: Mode,
    ) -> Result<Written> {
        let Resolved { state_dict, metadata, .. } = resolved;
        match mode {
            Mode::Plan => {
                let bytes = containers::check_target(state_dict, metadata, target, structure);
                Ok(Written::planned(bytes.map_err(|error| error.in_file(output))?))
            }
            Mode::Write => {
                let options = self.write_options().structure(structure);
                if remote::address(output).is_none() {
                    return containers::write(output, target, state_dict, metadata, &options);
                }
                // Written and verified here first: the parts of an upload are sent in order, and can be read only once it is
                // complete.
                let staging = Staging::new()?;
                let staged = staging.path_of(output)?;
                let written = containers::write(&staged, target, state_dict, metadata, &options);
                let written = written.map_err(|error| staging.naming(output, error))?;
                let (overwrite, record) = (self.overwrite, self.record.as_deref());
                remote::store(output, &staged, &Storing { overwrite, record, progress: self.progress })?;
                Ok(written)
            }
        }
    }

    fn write_folder(
        &self,
        input: &Checkpoint,
        output: &Path,
        resolved: Resolved,
        wanted: &Parameterization,
        mode: Mode,
    ) -> Result<(Resolved, Written)> {
        let companions = match input.container() {
            Container::Diffusers => diffusers::companions(input.stored())?,
            _ => Companions::default(),
        };
        let planned = folders::to_folder(resolved, companions.files, wanted, self.allow_loss);
        let FolderPlan { mut resolved, files, .. } = planned.map_err(|error| error.in_file(input.path()))?;
        resolved.notices.extend(self.metadata.apply(&mut resolved.metadata));
        if self.folder.bin {
            resolved.notices.extend(express::without_metadata(&mut resolved.metadata, ".bin files hold none"));
        }
        let is_pipeline = files.iter().any(|(path, _)| path == diffusers::MODEL_INDEX);
        let parts = if is_pipeline { input.stored().parts() } else { &[] };
        resolved.notices.extend(pipeline_parts::notices(&companions.missing, parts, self.dtype.is_some()));
        let files = Files {
            texts: &files,
            parts,
            bin: self.folder.bin,
            variant: self.folder.variant.as_deref(),
            shard_bytes: self.folder.max_shard_bytes.unwrap_or(SHARD_BYTES),
        };
        let entries = diffusers::entries(&resolved.state_dict, &resolved.metadata, &files)?;
        let written = match mode {
            Mode::Plan => {
                if !self.is_in_new_folder(output) {
                    containers::check_folder_destination(output, &entries, self.overwrite)?;
                }
                Written::planned(containers::check_folder(&entries)?)
            }
            Mode::Write => containers::write_folder(output, &entries, &self.write_options())
                .map_err(|error| self.at_input(error, &resolved.ledger, input))?,
        };
        Ok((resolved, written))
    }
}
