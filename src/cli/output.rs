//! What the commands that write have in common.

use std::path::Path;

use super::Exit;
use super::args::Writing;
use super::terminal::Terminal;
use crate::models::checkpoint::Checkpoint;
use crate::formats::error::Result;
use crate::formats::containers::diffusers::{self, Companions, Files};
use crate::formats::containers::{self, Container, Target, WriteOptions, Written};
use crate::formats::io::{AtomicFile, AtomicFolder, Overwrite};
use crate::models::published::{self, Published};
use crate::models::plan::folders::{self, FolderPlan};
use crate::models::plan::{Notice, NoticeCode, Resolved};
use crate::report::{LeftOut, WriteReport};
use crate::formats::tensor::Overflow;

impl Writing {
    pub(super) fn target(&self, output: &Path) -> Result<Target> {
        self.to.map_or_else(|| Target::from_path(output), |to| Ok(to.into()))
    }

    pub(super) fn overflow(&self) -> Overflow {
        if self.saturate { Overflow::Saturate } else { Overflow::Refuse }
    }

    fn overwrite(&self) -> Overwrite {
        if self.force { Overwrite::Replace } else { Overwrite::Refuse }
    }

    /// An error, before any work is done, if the output may not be written.
    pub(super) fn check_destination(&self, output: &Path) -> Result<()> {
        match self.target(output)? {
            // What would be lost in it is known when it is known what goes in.
            Target::Diffusers => AtomicFolder::check_destination(output, self.overwrite(), &|_| true),
            Target::Safetensors | Target::Torch | Target::TorchBare => {
                AtomicFile::check_destination(output, self.overwrite())
            }
        }
    }

    /// Opens an input. One whose pickle names something dangerous is refused, or, sanitized, reduced to its tensors.
    pub(super) fn open(&self, input: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open(input)?;
        if self.sanitize {
            return Ok(checkpoint.sanitized());
        }
        checkpoint.refuse_dangers()?;
        Ok(checkpoint)
    }

    /// Writes what was resolved, or only says what would be written.
    pub(super) fn write(
        &self,
        input: &Checkpoint,
        output: &Path,
        resolved: Resolved,
        terminal: &Terminal,
    ) -> Result<WriteReport> {
        let target = self.target(output)?;
        let options = WriteOptions {
            overwrite: self.overwrite(),
            verify: !self.no_verify,
            jobs: terminal.jobs(),
            progress: terminal,
        };
        let (resolved, written) = match target {
            Target::Diffusers => self.write_folder(input, output, resolved, &options)?,
            Target::Safetensors | Target::Torch | Target::TorchBare => {
                let Resolved { state_dict, metadata, .. } = &resolved;
                let written = if self.dry_run {
                    let checked = containers::check_target(state_dict, metadata, target);
                    would_be_written(checked.map_err(|error| error.in_file(output))?)
                } else {
                    containers::write(output, target, state_dict, metadata, &options)?
                };
                (resolved, written)
            }
        };
        Ok(WriteReport {
            input: input.path().to_string_lossy().into_owned(),
            output: output.to_string_lossy().into_owned(),
            format: target.name(),
            tensors: resolved.state_dict.len(),
            bytes: written.bytes,
            dry_run: self.dry_run,
            verified: written.verified,
            vae: None,
            left_out: LeftOut::opaque(input.contents()),
            notices: resolved.notices,
            ledger: resolved.ledger,
        })
    }

    /// Writes a diffusers folder, or only plans it.
    fn write_folder(
        &self,
        input: &Checkpoint,
        output: &Path,
        resolved: Resolved,
        options: &WriteOptions<'_>,
    ) -> Result<(Resolved, Written)> {
        let companions = match input.contents().container {
            Container::Diffusers => diffusers::companions(input.path())?,
            _ => Companions::default(),
        };
        let prediction = self.folder.prediction.map(Into::into);
        let planned = folders::to_folder(resolved, companions.files, prediction);
        let FolderPlan { mut resolved, files } = planned.map_err(|error| error.in_file(input.path()))?;
        resolved.notices.extend(companions.unknown.iter().map(|name| {
            let text = format!("left out {name}: an optional part of the pipeline that this program does not know");
            Notice::new(NoticeCode::PipelinePartDropped, text)
        }));
        let files = Files {
            texts: &files,
            bin: self.folder.bin,
            variant: self.folder.variant.as_deref(),
            shard_bytes: self.folder.max_shard_size.unwrap_or(SHARD_BYTES),
        };
        let entries = diffusers::entries(&resolved.state_dict, &resolved.metadata, &files)?;
        let written = if self.dry_run {
            containers::check_folder_destination(output, &entries, options.overwrite)?;
            would_be_written(containers::check_folder(&entries)?)
        } else {
            containers::write_folder(output, &entries, options)?
        };
        Ok((resolved, written))
    }
}

/// Bytes of tensors in one file of a folder, unless the user says otherwise: what diffusers takes too.
const SHARD_BYTES: u64 = 10_000_000_000;

fn would_be_written(bytes: u64) -> Written {
    Written { bytes, verified: false }
}

/// Prints what came of writing one file, and says how to end.
pub(super) fn conclude(result: Result<WriteReport>, terminal: &Terminal) -> Exit {
    match result {
        Ok(outcome) => {
            terminal.result(|| outcome.to_text(), &outcome);
            Exit::Yes
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}

/// The published file that this one is. Hashes it, where its size allows that it is one.
pub(super) fn published(checkpoint: &Checkpoint, terminal: &Terminal) -> Result<Option<&'static Published>> {
    if !published::may_be(checkpoint.file_bytes()) {
        return Ok(None);
    }
    let sha256 = checkpoint.sha256(terminal)?;
    Ok(published::identify(checkpoint.file_bytes(), &sha256))
}
