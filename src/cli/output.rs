//! What the commands that write have in common.

use std::path::Path;

use super::Exit;
use super::args::Writing;
use super::terminal::Terminal;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::format::{self, Target, WriteOptions};
use crate::io::{Overwrite, Scratch};
use crate::model::published::{self, Published};
use crate::plan::Resolved;
use crate::report::{LeftOut, Outcome};
use crate::tensor::Overflow;

impl Writing {
    pub(super) fn target(&self, output: &Path) -> Result<Target> {
        self.to.map_or_else(|| Target::of_path(output), |to| Ok(to.into()))
    }

    pub(super) fn overflow(&self) -> Overflow {
        if self.saturate { Overflow::Saturate } else { Overflow::Refuse }
    }

    fn overwrite(&self) -> Overwrite {
        if self.force { Overwrite::Replace } else { Overwrite::Refuse }
    }

    /// An error, before any work is done, if the output may not be written.
    pub(super) fn check_destination(&self, output: &Path) -> Result<()> {
        Scratch::check_destination(output, self.overwrite())
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
        resolved: &Resolved,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let target = self.target(output)?;
        let (bytes, verified) = if self.dry_run {
            let bytes = format::check_target(&resolved.state_dict, &resolved.metadata, target)
                .map_err(|error| error.in_file(output))?;
            (bytes, false)
        } else {
            let options = WriteOptions {
                target,
                overwrite: self.overwrite(),
                verify: !self.no_verify,
                jobs: terminal.jobs(),
                progress: terminal,
            };
            let written = format::write(output, &resolved.state_dict, &resolved.metadata, &options)?;
            (written.bytes, written.verified)
        };
        Ok(Outcome {
            input: input.path().to_string_lossy().into_owned(),
            output: output.to_string_lossy().into_owned(),
            format: target.name(),
            tensors: resolved.state_dict.len(),
            bytes,
            dry_run: self.dry_run,
            verified,
            autoencoder: None,
            left_out: LeftOut::opaque(input.contents()),
            notices: resolved.notices.clone(),
            ledger: resolved.ledger.clone(),
        })
    }
}

/// Prints what came of writing one file, and says how to end.
pub(super) fn conclude(result: Result<Outcome>, terminal: &Terminal) -> Exit {
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

/// How a published file is named to people.
pub(super) fn published_text(published: &Published) -> String {
    match published.withdrawn {
        Some(reason) => format!("{} (WITHDRAWN: {reason})", published.name),
        None => published.name.to_owned(),
    }
}
