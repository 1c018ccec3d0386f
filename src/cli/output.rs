//! Sets the options of the commands that write a checkpoint.

use super::args::{Content, FolderWriting, Reading, Writing};
use super::set_if_some::SetIfSome;
use crate::ops::FolderOptions;
use trinart_ckpt_formats::OpenOptions;

/// Sets the options of `Writing` and `Content` of a command on an operation that writes a checkpoint: `MergeVae` or
/// `Convert`. The operations have these methods in common, but no trait.
macro_rules! set_writing_options {
    ($operation:expr, $command:expr, $terminal:expr) => {{
        let (writing, content) = (&$command.writing, &$command.content);
        let operation =
            content.drop_metadata.iter().fold($operation, |operation, field| operation.drop_metadata(field));
        content
            .set_metadata
            .iter()
            .fold(operation, |operation, (field, value)| operation.set_metadata(field, value))
            .set_if_some(writing.to.map(Into::into), |operation, format| operation.format(format))
            .set_if_some(content.dtype, |operation, dtype| operation.dtype(dtype))
            .set_if_some(content.prediction.map(Into::into), |operation, prediction| operation.prediction(prediction))
            .set_if_some($terminal.jobs(), |operation, jobs| operation.jobs(jobs))
            .verify(!writing.no_verify)
            .folder($command.folder.options())
            .saturate(content.saturate)
            .strict(content.strict)
            .allow_loss(content.allow_loss)
            .progress($terminal)
    }};
}
pub(super) use set_writing_options;

impl Reading {
    /// How to open inputs.
    pub(super) fn open_options(&self) -> OpenOptions {
        if self.sanitize { OpenOptions::new().sanitize() } else { OpenOptions::new() }
    }
}

impl FolderWriting {
    /// How to write a diffusers folder.
    pub(super) fn options(&self) -> FolderOptions {
        FolderOptions::default()
            .set_if_some(self.variant.as_ref(), FolderOptions::variant)
            .set_if_some(self.max_shard_size, FolderOptions::max_shard_bytes)
            .bin(self.bin)
    }
}

/// Describes the options that decide what an output contains, for the record of a batch.
pub(super) fn recipe(writing: &Writing, content: &Content, folder: &FolderWriting, others: &[String]) -> String {
    format!("{:?} {content:?} {folder:?} {}", writing.to, others.join(" "))
}
