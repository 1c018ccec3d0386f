use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::report::failure::Failure;
use crate::report::units::count;
use trinart_ckpt_formats::error::{Error, printable};

/// The differences between two folders, as [`CompareFolders`](crate::ops::CompareFolders) returns them.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FolderDifference {
    /// The path of the first folder.
    pub a: String,
    /// The path of the second folder.
    pub b: String,
    /// Whether each file has an equal one under the same name.
    pub equal: bool,
    /// The files of both folders.
    pub files: Vec<FileDifference>,
}

/// The result of comparing two folders, without their files.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FolderDifferenceSummary<'a> {
    /// The path of the first folder.
    pub a: &'a str,
    /// The path of the second folder.
    pub b: &'a str,
    /// Whether each file has an equal one under the same name.
    pub equal: bool,
}

/// A file of one folder or of both.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FileDifference {
    /// The path below the first folder.
    pub a: Option<String>,
    /// The path below the second folder.
    pub b: Option<String>,
    /// What was found.
    #[serde(flatten)]
    pub result: FileResult,
}

/// The result of comparing two files of folders.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "result", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileResult {
    /// Both have the same tensors.
    Equal,
    /// They differ.
    #[non_exhaustive]
    Different {
        /// How, in words.
        verdict: String,
    },
    /// The same content under another name, perhaps in another dtype.
    Moved,
    /// Only the first folder has the file.
    OnlyInA,
    /// Only the second folder has the file.
    OnlyInB,
    /// One of them could not be read.
    #[non_exhaustive]
    Failed {
        /// Why.
        error: Failure,
    },
}

impl FileResult {
    pub(crate) fn failed(error: &Error) -> Self {
        FileResult::Failed { error: Failure::from(error) }
    }
}

impl FileDifference {
    pub(crate) fn new(a: Option<&Path>, b: Option<&Path>, result: FileResult) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        FileDifference { a: a.map(text), b: b.map(text), result }
    }

    /// `sub/a.ckpt`, or both names.
    fn name(&self) -> String {
        match (&self.a, &self.b) {
            (Some(a), Some(b)) if a != b => format!("{} and {}", printable(a), printable(b)),
            (Some(name), _) | (None, Some(name)) => printable(name),
            (None, None) => String::new(),
        }
    }
}

impl FolderDifference {
    pub(crate) fn new(a: &Path, b: &Path, files: Vec<FileDifference>) -> Self {
        let equal = files.iter().all(|file| matches!(file.result, FileResult::Equal));
        FolderDifference { a: a.to_string_lossy().into_owned(), b: b.to_string_lossy().into_owned(), equal, files }
    }

    /// The result without the files.
    pub fn summary(&self) -> FolderDifferenceSummary<'_> {
        FolderDifferenceSummary { a: &self.a, b: &self.b, equal: self.equal }
    }

    /// Whether a file could not be read.
    pub fn has_failed(&self) -> bool {
        self.files.iter().any(|file| matches!(file.result, FileResult::Failed { .. }))
    }

    /// Formats the verdict, and a line for each file that has no equal one.
    pub fn to_text(&self) -> String {
        let number = |is: fn(&FileResult) -> bool| self.files.iter().filter(|file| is(&file.result)).count();
        let numbers = [
            (number(|it| matches!(it, FileResult::Equal)), "equal"),
            (number(|it| matches!(it, FileResult::Different { .. })), "different"),
            (number(|it| matches!(it, FileResult::Moved)), "under another name"),
            (number(|it| matches!(it, FileResult::OnlyInA)), "only in A"),
            (number(|it| matches!(it, FileResult::OnlyInB)), "only in B"),
            (number(|it| matches!(it, FileResult::Failed { .. })), "not readable"),
        ];
        let numbers = numbers.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let verdict = if self.equal { "equal" } else { "different" };
        let files = count(self.files.len(), "file");
        let mut out = format!("{verdict}: {files}, {}\n", numbers.collect::<Vec<_>>().join(", "));
        let _ = write!(out, "A {}\nB {}\n", printable(&self.a), printable(&self.b));
        for file in &self.files {
            let text = match &file.result {
                FileResult::Equal => continue,
                FileResult::Different { verdict } => verdict.clone(),
                FileResult::Moved => "same content under another name".to_owned(),
                FileResult::OnlyInA => "only in A".to_owned(),
                FileResult::OnlyInB => "only in B".to_owned(),
                FileResult::Failed { error } => printable(&error.message),
            };
            let _ = writeln!(out, "  {}: {text}", file.name());
        }
        out
    }
}
