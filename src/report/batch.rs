use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::report::failure::Failure;
use crate::report::write_report::WriteReport;
use trinart_ckpt_formats::error::{Error, printable};

/// What became of one input of a [`Batch`](crate::ops::Batch).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
#[non_exhaustive]
pub enum BatchOutcome {
    /// The output was written, or planned.
    Written(Box<WriteReport>),
    /// Nothing was to be done.
    #[non_exhaustive]
    Skipped {
        /// The input.
        input: String,
        /// Why it was skipped.
        skipped: SkipReason,
    },
    /// There is no output.
    #[non_exhaustive]
    Failed {
        /// The input.
        input: String,
        /// The error.
        error: Failure,
    },
}

/// Why an input of a batch was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SkipReason {
    /// The output exists.
    Exists,
    /// The output is what an earlier run has made of the same input.
    UpToDate,
    /// The file is the VAE of a checkpoint beside it.
    Sidecar,
    /// The file is no checkpoint that a VAE can be merged into.
    NotForMerging,
    /// No VAE lies beside the checkpoint.
    NoVaeBeside,
}

impl SkipReason {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            SkipReason::Exists => "the output exists",
            SkipReason::UpToDate => "up to date",
            SkipReason::Sidecar => "the VAE of a checkpoint beside it",
            SkipReason::NotForMerging => "no checkpoint with a Stable Diffusion UNet",
            SkipReason::NoVaeBeside => "no VAE beside it",
        }
    }
}

impl BatchOutcome {
    /// An output that was written or planned.
    pub fn written(report: WriteReport) -> Self {
        BatchOutcome::Written(Box::new(report))
    }

    /// An input that was skipped.
    pub fn skipped(input: &Path, reason: SkipReason) -> Self {
        BatchOutcome::Skipped { input: input.to_string_lossy().into_owned(), skipped: reason }
    }

    /// An input that failed.
    pub fn failed(input: &Path, error: &Error) -> Self {
        BatchOutcome::Failed { input: input.to_string_lossy().into_owned(), error: Failure::from(error) }
    }

    /// Formats the outcome on a line, with the notices of an output below. Empty for a failure, which is an error.
    pub fn to_text(&self, words: crate::report::TipWords<'_>) -> String {
        match self {
            BatchOutcome::Written(report) => report.summary_with(words),
            BatchOutcome::Skipped { input, skipped } => format!("{}: skipped, {}\n", printable(input), skipped.text()),
            BatchOutcome::Failed { .. } => String::new(),
        }
    }
}

/// The numbers of a batch, and its failures.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BatchSummary {
    /// Outputs that were written; in a dry run, those that would be.
    pub written: usize,
    /// Inputs that were skipped.
    pub skipped: usize,
    /// Inputs that failed.
    pub failed: usize,
    /// The size of all outputs in bytes.
    pub bytes: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
    #[serde(skip)]
    failures: Vec<(PathBuf, String)>,
}

impl BatchSummary {
    /// Counts an outcome.
    pub(crate) fn add(&mut self, outcome: &BatchOutcome) {
        match outcome {
            BatchOutcome::Written(report) => {
                self.written += 1;
                self.bytes = self.bytes.saturating_add(report.bytes);
                self.dry_run |= report.dry_run;
            }
            BatchOutcome::Skipped { .. } => self.skipped += 1,
            BatchOutcome::Failed { input, error } => {
                self.failed += 1;
                self.failures.push((PathBuf::from(input), error.message.clone()));
            }
        }
    }

    /// Formats the failures, and the numbers on a last line: `38 written, 5 skipped, 2 failed`.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // A single one was printed a line above.
        if self.written + self.skipped + self.failed > 1 && self.failed > 0 {
            out.push_str("failed:\n");
            for (_, message) in &self.failures {
                let _ = writeln!(out, "  {message}");
            }
        }
        let verb = if self.dry_run { "would be written" } else { "written" };
        let size = crate::report::size(self.bytes);
        let size = if self.written > 0 { format!("; {size}") } else { String::new() };
        let _ = writeln!(out, "{} {verb}, {} skipped, {} failed{size}", self.written, self.skipped, self.failed);
        out
    }
}
