use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::formats::danger::Level;
use crate::formats::error::{Error, printable};
use crate::report::{Failure, count};
use crate::formats::scan::{LocatedFinding, Scan};

/// Findings of each level to print. JSON has all of them.
const SHOWN: usize = 20;

/// The verdict on a file that could not be scanned completely.
const NOT_READABLE: &str = "not readable";

/// The report of scanning one file.
#[derive(Debug, Serialize)]
pub struct ScanReport {
    file: String,
    container: &'static str,
    verdict: &'static str,
    pickles: usize,
    /// The worst first.
    findings: Vec<FindingLine>,
    /// Why the file, or a part of it, could not be scanned.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(skip)]
    level: Level,
}

/// One finding.
#[derive(Debug, Serialize)]
struct FindingLine {
    /// The path to the pickle within the file. Empty if the file itself is the pickle.
    place: String,
    /// The offset within the pickle.
    offset: u64,
    level: &'static str,
    usage: &'static str,
    name: String,
    arguments: Option<String>,
    reason: &'static str,
    count: usize,
    #[serde(skip)]
    text: String,
}

impl FindingLine {
    fn new(found: &LocatedFinding) -> Self {
        let finding = &found.finding;
        FindingLine {
            place: found.place.clone(),
            offset: finding.offset,
            level: finding.level.name(),
            usage: finding.usage.name(),
            name: finding.name.clone(),
            arguments: finding.arguments.clone(),
            reason: finding.reason,
            count: finding.count,
            text: finding.to_text(),
        }
    }
}

impl ScanReport {
    /// Creates the report of a scan.
    pub fn new(scan: &Scan) -> Self {
        let level = scan.level();
        let verdict = match level {
            // The part that was not scanned may contain anything.
            Level::Harmless | Level::Suspicious if scan.problem.is_some() => NOT_READABLE,
            level => level.name(),
        };
        ScanReport {
            file: scan.path.to_string_lossy().into_owned(),
            container: scan.container,
            verdict,
            pickles: scan.pickles,
            findings: scan.findings.iter().map(FindingLine::new).collect(),
            error: scan.problem.as_ref().map(Failure::from),
            level,
        }
    }

    /// The worst level of all findings.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Returns a line for the file, a line for each finding that is not harmless, and the number of harmless names.
    pub fn to_text(&self) -> String {
        let pickles = match self.pickles {
            0 => "no pickles".to_owned(),
            number => format!("{} scanned", count(number, "pickle")),
        };
        let mut out = format!("{}: {} ({}, {pickles})\n", printable(&self.file), self.verdict, self.container);
        for level in [Level::Dangerous, Level::Suspicious] {
            let lines = || self.findings.iter().filter(|line| line.level == level.name());
            for line in lines().take(SHOWN) {
                let place = if line.place.is_empty() { String::new() } else { format!("{} ", printable(&line.place)) };
                let _ = writeln!(out, "  {:<11}{place}byte {}: {}", level.name(), line.offset, printable(&line.text));
            }
            let more = lines().skip(SHOWN).count();
            if more > 0 {
                let _ = writeln!(out, "  {:<11}and {more} more; --json lists all", level.name());
            }
        }
        let harmless = self.findings.iter().filter(|line| line.level == Level::Harmless.name());
        let names: BTreeSet<&str> = harmless.map(|line| line.name.as_str()).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "  {:<11}{}", Level::Harmless.name(), count(names.len(), "name"));
        }
        out
    }
}

/// The report of scanning all paths.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ScanSummary {
    /// The checkpoints, the other files with pickles, and the files that could not be scanned.
    pub files: Vec<ScannedFile>,
    /// Number of dangerous files.
    pub dangerous: usize,
    /// Number of suspicious files.
    pub suspicious: usize,
    /// Number of harmless files.
    pub harmless: usize,
    /// Number of files that could not be scanned completely and are not known to be dangerous.
    pub unreadable: usize,
    /// Number of other files in folders.
    pub skipped: usize,
    /// Number of symbolic links in folders, which are not followed.
    pub links: usize,
}

/// One file of a [`ScanSummary`].
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ScannedFile {
    /// A scanned file.
    Report(ScanReport),
    /// A file that could not be scanned.
    Failed {
        /// The file.
        file: String,
        /// The same word as in the report of a file that was scanned in part.
        verdict: &'static str,
        /// Why it could not be scanned.
        error: Failure,
    },
}

impl ScannedFile {
    /// Creates the entry of a file that could not be scanned.
    pub fn failed(file: &Path, error: &Error) -> Self {
        ScannedFile::Failed {
            file: file.to_string_lossy().into_owned(),
            verdict: NOT_READABLE,
            error: Failure::from(error),
        }
    }
}

impl ScanSummary {
    /// Returns the last line of a scan of several files.
    pub fn to_text(&self) -> String {
        let mut out = format!("{} scanned", count(self.files.len(), "file"));
        let parts = [
            (self.dangerous, "dangerous"),
            (self.suspicious, "suspicious"),
            (self.harmless, "harmless"),
            (self.unreadable, NOT_READABLE),
            (self.skipped, "skipped (not checkpoints)"),
            (self.links, "symbolic links not followed"),
        ];
        for (number, what) in parts.iter().filter(|(number, _)| *number > 0) {
            let _ = write!(out, ", {number} {what}");
        }
        out + "\n"
    }
}
