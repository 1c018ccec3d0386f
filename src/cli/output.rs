//! The options of the commands that write a checkpoint.

use super::args::{FolderWriting, Writing};
use super::set_if_some::SetIfSome;
use crate::ops::FolderOptions;
use trinart_ckpt_formats::OpenOptions;

/// Sets the options of [`Writing`] on an operation that writes a checkpoint: `MergeVae` or `Convert`. The operations have
/// these methods in common, but no trait.
macro_rules! set_writing_options {
    ($operation:expr, $writing:expr, $terminal:expr) => {
        $operation
            .set_if_some($writing.dtype.map(Into::into), |operation, dtype| operation.dtype(dtype))
            .set_if_some($writing.to.map(Into::into), |operation, format| operation.format(format))
            .set_if_some($writing.prediction.map(Into::into), |operation, prediction| operation.prediction(prediction))
            .set_if_some($terminal.jobs(), |operation, jobs| operation.jobs(jobs))
            .saturate($writing.saturate)
            .overwrite($writing.force)
            .verify(!$writing.no_verify)
            .folder($writing.folder.options())
            .progress($terminal)
    };
}
pub(super) use set_writing_options;

impl Writing {
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
