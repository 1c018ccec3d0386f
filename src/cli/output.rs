//! What the commands that write a checkpoint share.

use super::Exit;
use super::args::Writing;
use super::terminal::Terminal;
use crate::formats::io::Overwrite;
use crate::formats::tensor::Overflow;
use crate::formats::{OpenOptions, Result};
use crate::ops::{FolderOptions, OutputOptions};
use crate::report::WriteReport;

impl Writing {
    /// How to open inputs.
    pub(super) fn open_options(&self) -> OpenOptions {
        if self.sanitize { OpenOptions::new().sanitize() } else { OpenOptions::new() }
    }

    /// How to write the output.
    pub(super) fn output_options<'a>(&self, terminal: &'a Terminal) -> OutputOptions<'a> {
        let mut folder = FolderOptions::default();
        folder.prediction = self.folder.prediction.map(Into::into);
        folder.bin = self.folder.bin;
        folder.variant.clone_from(&self.folder.variant);
        folder.max_shard_bytes = self.folder.max_shard_size;
        let mut options = OutputOptions::default();
        options.dtype = self.dtype.map(Into::into);
        options.overflow = if self.saturate { Overflow::Saturate } else { Overflow::Refuse };
        options.format = self.to.map(Into::into);
        options.overwrite = if self.force { Overwrite::Replace } else { Overwrite::Refuse };
        options.verify = !self.no_verify;
        options.jobs = terminal.jobs();
        options.progress = terminal;
        options.folder = folder;
        options
    }
}

/// Prints the result of writing one output, and returns the exit code.
pub(super) fn conclude(result: Result<WriteReport>, terminal: &Terminal) -> Exit {
    match result {
        Ok(report) => {
            terminal.result(|| report.to_text(), &report);
            Exit::Yes
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}
