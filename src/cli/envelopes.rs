//! What JSON on stdout consists of, around the reports.

use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{BatchOutcome, BatchSummary, Failure};

/// The document of a command that reads files.
#[derive(Serialize, JsonSchema)]
pub(super) struct FileList<R> {
    /// The results, in the order of the files.
    pub(super) files: Vec<FileEntry<R>>,
}

/// The result of one file.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum FileEntry<R> {
    /// The file was read.
    Done(R),
    /// It could not be read.
    Failed {
        /// The path.
        file: String,
        /// Why.
        error: Failure,
    },
}

/// The document of a command that writes several outputs.
#[derive(Serialize, JsonSchema)]
pub(super) struct BatchReport<'a> {
    /// What became of each input.
    pub(super) results: Vec<BatchOutcome>,
    #[serde(flatten)]
    pub(super) summary: &'a BatchSummary,
}

/// The last line, behind those of all files.
#[derive(Serialize, JsonSchema)]
pub(super) struct SummaryLine<'a, S> {
    /// The numbers of all files.
    pub(super) summary: &'a S,
}

/// The document of a command that failed as a whole.
#[derive(Serialize, JsonSchema)]
pub(super) struct ErrorReport {
    /// The error.
    pub(super) error: Failure,
}
