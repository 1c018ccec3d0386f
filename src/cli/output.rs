//! The options of the commands that write a checkpoint.

use super::args::Writing;
use super::terminal::Terminal;
use crate::ops::{FolderOptions, OutputOptions};
use trinart_ckpt_formats::OpenOptions;
use trinart_ckpt_formats::io::Overwrite;
use trinart_ckpt_formats::tensor::Overflow;

impl Writing {
    /// How to open inputs.
    pub(super) fn open_options(&self) -> OpenOptions {
        if self.sanitize { OpenOptions::new().sanitize() } else { OpenOptions::new() }
    }

    /// How to write the output.
    pub(super) fn output_options<'a>(&self, terminal: &'a Terminal) -> OutputOptions<'a> {
        OutputOptions {
            dtype: self.dtype.map(Into::into),
            overflow: if self.saturate { Overflow::Saturate } else { Overflow::Refuse },
            format: self.to.map(Into::into),
            overwrite: if self.force { Overwrite::Replace } else { Overwrite::Refuse },
            verify: !self.no_verify,
            jobs: terminal.jobs(),
            progress: terminal,
            folder: FolderOptions {
                prediction: self.folder.prediction.map(Into::into),
                bin: self.folder.bin,
                variant: self.folder.variant.clone(),
                max_shard_bytes: self.folder.max_shard_size,
            },
        }
    }
}
