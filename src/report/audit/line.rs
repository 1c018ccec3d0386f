//! The report as JSON lines: one for each file.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{AuditFinding, AuditReport, AuditedFile};

/// A file of an audit with its findings.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditLine<'a> {
    /// The file.
    #[serde(flatten)]
    pub file: LineFile<'a>,
    /// What was found, the worst first.
    pub findings: Vec<&'a AuditFinding>,
}

/// The file of a line.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
#[non_exhaustive]
pub enum LineFile<'a> {
    /// A checkpoint or another model file.
    Model(&'a AuditedFile),
    /// A file beside them that has a finding, such as a leftover.
    #[non_exhaustive]
    Other {
        /// The path.
        file: &'a str,
    },
}

/// The numbers of an audit.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditSummary {
    /// The number of model files.
    pub files: usize,
    /// The number of findings.
    pub findings: usize,
    /// The size of all files in bytes.
    pub bytes: u64,
    /// Whether all values were read.
    pub deep: bool,
    /// The number of files whose results were remembered from an earlier run.
    pub remembered: usize,
}

impl AuditReport {
    /// The files with their findings: the model files in their order, then other files that have a finding.
    pub fn lines(&self) -> Vec<AuditLine<'_>> {
        let mut findings: BTreeMap<&str, Vec<&AuditFinding>> = BTreeMap::new();
        for finding in &self.findings {
            findings.entry(&finding.file).or_default().push(finding);
        }
        let models = self.files.iter().map(|row| AuditLine {
            findings: findings.remove(row.file.as_str()).unwrap_or_default(),
            file: LineFile::Model(row),
        });
        let mut lines: Vec<AuditLine<'_>> = models.collect();
        let others = findings.into_iter();
        lines.extend(others.map(|(file, findings)| AuditLine { file: LineFile::Other { file }, findings }));
        lines
    }

    /// The numbers.
    pub fn summary(&self) -> AuditSummary {
        let (files, findings) = (self.files.len(), self.findings.len());
        AuditSummary { files, findings, bytes: self.bytes, deep: self.deep, remembered: self.remembered }
    }

    /// Leaves out the files without a finding.
    #[must_use]
    pub fn without_files_without_findings(mut self) -> Self {
        let found: std::collections::BTreeSet<&str> = self.findings.iter().map(|finding| &*finding.file).collect();
        self.files.retain(|row| found.contains(row.file.as_str()));
        self
    }
}
