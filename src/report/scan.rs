use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use crate::danger::Level;
use crate::error::printable;
use crate::report::{Failure, count};
use crate::scan::{Placed, Scan};

/// Findings of one level that text shows; JSON has all of them.
const SHOWN: usize = 20;

/// What a scan of one file found.
#[derive(Debug, Serialize)]
pub struct Scanned {
    file: String,
    container: &'static str,
    verdict: &'static str,
    pickles: usize,
    /// The worst first.
    findings: Vec<Line>,
    /// Why the file, or a part of it, could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(skip)]
    level: Level,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Line {
    /// The record, or the pickle around this one; empty for the file itself.
    place: String,
    /// The offset in the pickle.
    offset: u64,
    level: &'static str,
    act: &'static str,
    name: String,
    arguments: Option<String>,
    reason: &'static str,
    count: usize,
    #[serde(skip)]
    text: String,
}

impl Line {
    fn new(placed: &Placed) -> Self {
        let finding = &placed.finding;
        Line {
            place: placed.place.clone(),
            offset: finding.offset,
            level: finding.level.name(),
            act: finding.act.name(),
            name: finding.name.clone(),
            arguments: finding.arguments.clone(),
            reason: finding.reason,
            count: finding.count,
            text: finding.to_text(),
        }
    }
}

impl Scanned {
    /// Puts into words what was found.
    pub fn new(scan: &Scan) -> Self {
        let level = scan.level();
        let verdict = match level {
            // What was not looked at may hold anything.
            Level::Harmless | Level::Suspicious if scan.problem.is_some() => "not readable",
            level => level.name(),
        };
        Scanned {
            file: scan.path.to_string_lossy().into_owned(),
            container: scan.container,
            verdict,
            pickles: scan.pickles,
            findings: scan.findings.iter().map(Line::new).collect(),
            error: scan.problem.as_ref().map(Failure::from),
            level,
        }
    }

    /// The worst of what was found.
    pub fn level(&self) -> Level {
        self.level
    }

    /// A line for the file, and one for each finding that is not harmless.
    pub fn to_text(&self) -> String {
        let pickles = match self.pickles {
            0 => "no pickle in it".to_owned(),
            number => format!("{} looked through", count(number, "pickle")),
        };
        let mut out = format!("{}: {} ({}, {pickles})\n", printable(&self.file), self.verdict, self.container);
        for level in [Level::Dangerous, Level::Suspicious] {
            let lines = || self.findings.iter().filter(|line| line.level == level.name());
            for line in lines().take(SHOWN) {
                let place = if line.place.is_empty() { String::new() } else { format!("{} ", printable(&line.place)) };
                let _ = writeln!(out, "  {:<11}{place}byte {}: {}", level.name(), line.offset, printable(&line.text));
            }
            let more = lines().count().saturating_sub(SHOWN);
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

/// What a scan of all paths found.
#[derive(Debug, Default, Serialize)]
pub struct Scanning {
    /// Each file that is a checkpoint or holds a pickle, and each that could not be read.
    pub files: Vec<serde_json::Value>,
    /// How many of them are dangerous.
    pub dangerous: usize,
    /// How many are suspicious at worst.
    pub suspicious: usize,
    /// How many are harmless.
    pub harmless: usize,
    /// How many could not be read, in part or at all, and are not known to be dangerous.
    pub unreadable: usize,
    /// Files in folders that are no checkpoints.
    pub skipped: usize,
    /// Symbolic links in folders, which are not followed.
    pub links: usize,
}

impl Scanning {
    /// The last line of a scan of several files.
    pub fn to_text(&self) -> String {
        let mut out = format!("{} scanned", count(self.files.len(), "file"));
        let parts = [
            (self.dangerous, "dangerous"),
            (self.suspicious, "suspicious"),
            (self.harmless, "harmless"),
            (self.unreadable, "not readable"),
            (self.skipped, "skipped, no checkpoints"),
            (self.links, "symbolic links not followed"),
        ];
        for (number, what) in parts.iter().filter(|(number, _)| *number > 0) {
            let _ = write!(out, ", {number} {what}");
        }
        out + "\n"
    }
}
