use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anstyle::Style;
use serde::{Serialize, Serializer};

use crate::report::colors::{BAD, Colors, DOUBTFUL, GOOD, UNREADABLE};
use crate::report::failure::Failure;
use crate::report::tip::{NO_TIPS, Tip, TipWords, ending};
use crate::report::units::{count, size};
use trinart_ckpt_formats::danger::{Level, Usage};
use trinart_ckpt_formats::error::{Error, printable};
use trinart_ckpt_formats::scan::{FileScan, LocatedFinding, ScannedFormat};

/// Findings of each level to print. JSON has all of them.
const SHOWN: usize = 20;

/// The result of scanning a file. Ordered by urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScanVerdict {
    /// A pickle would run code of the file's author when loaded.
    Dangerous,
    /// A pickle uses a name that is not vouched for.
    Unknown,
    /// The file could not be scanned completely, and what was scanned is not dangerous.
    Unreadable,
    /// Every name in its pickles is vouched for.
    Safe,
}

impl ScanVerdict {
    /// The verdict in words.
    pub fn text(self) -> &'static str {
        match self {
            ScanVerdict::Safe => "safe",
            ScanVerdict::Unknown => "unknown",
            ScanVerdict::Dangerous => "dangerous",
            ScanVerdict::Unreadable => "not readable",
        }
    }

    fn style(self) -> Style {
        match self {
            ScanVerdict::Dangerous => BAD,
            ScanVerdict::Unknown => DOUBTFUL,
            ScanVerdict::Unreadable => UNREADABLE,
            ScanVerdict::Safe => GOOD,
        }
    }

    fn new(scan: &FileScan) -> Self {
        match scan.level() {
            Level::Dangerous => ScanVerdict::Dangerous,
            // The part that was not scanned may contain anything.
            _ if scan.problem.is_some() => ScanVerdict::Unreadable,
            Level::Unknown => ScanVerdict::Unknown,
            Level::Safe => ScanVerdict::Safe,
        }
    }
}

/// The report of scanning one file.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ScannedFile {
    /// The path of the file.
    pub file: String,
    /// The format of the file. `None` if the file could not be opened.
    #[serde(rename = "container", skip_serializing_if = "Option::is_none")]
    pub format: Option<ScannedFormat>,
    /// The verdict on the file.
    pub verdict: ScanVerdict,
    /// The number of pickles that were scanned.
    pub pickles: usize,
    /// What the pickles name and call, the worst first.
    pub findings: Vec<FindingReport>,
    /// Bytes of tensors that were not fetched, and so not scanned, of a file behind an address.
    #[serde(skip_serializing_if = "is_zero")]
    pub unread_bytes: u64,
    /// Why the file, or a part of it, could not be scanned.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_failure")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Failure>"))]
    pub error: Option<Error>,
}

/// One finding.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FindingReport {
    /// The path to the pickle within the file. Empty if the file itself is the pickle.
    pub place: String,
    /// The offset within the pickle, in bytes.
    pub offset: u64,
    /// How dangerous it is.
    pub level: Level,
    /// How the pickle uses the name.
    pub usage: Usage,
    /// The name.
    pub name: String,
    /// The arguments of a call, if the pickle contains them.
    pub arguments: Option<String>,
    /// The reason for the level.
    pub reason: &'static str,
    /// The number of times that the pickle uses the name like this.
    pub count: usize,
    /// The pattern of [`Scan::allow`](crate::Scan::allow) that vouches for the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_by: Option<String>,
    #[serde(skip)]
    text: String,
}

impl FindingReport {
    fn new(found: LocatedFinding) -> Self {
        let finding = found.finding;
        FindingReport {
            text: finding.to_text(),
            place: found.place,
            offset: finding.offset,
            level: finding.level,
            usage: finding.usage,
            name: finding.name,
            arguments: finding.arguments,
            reason: finding.reason,
            count: finding.count,
            allowed_by: finding.allowed_by.map(|pattern| pattern.to_string()),
        }
    }
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

fn as_failure<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Failure::from).serialize(serializer)
}

impl ScannedFile {
    /// Creates the report of a scan.
    pub(crate) fn new(scan: FileScan) -> Self {
        ScannedFile {
            file: scan.path.to_string_lossy().into_owned(),
            format: Some(scan.format),
            verdict: ScanVerdict::new(&scan),
            pickles: scan.pickles,
            findings: scan.findings.into_iter().map(FindingReport::new).collect(),
            unread_bytes: scan.unread_bytes,
            error: scan.problem,
        }
    }

    /// Creates the report of a file that could not be scanned at all.
    pub(crate) fn failed(file: &Path, error: Error) -> Self {
        ScannedFile {
            file: file.to_string_lossy().into_owned(),
            format: None,
            verdict: ScanVerdict::Unreadable,
            pickles: 0,
            findings: Vec::new(),
            unread_bytes: 0,
            error: Some(error),
        }
    }

    /// Returns the patterns that vouch for names in the file, each with these names.
    fn allowed_names(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for line in &self.findings {
            if let Some(pattern) = &line.allowed_by {
                names.entry(pattern).or_default().insert(&line.name);
            }
        }
        names
    }

    /// Returns a line for the file, a line for each finding that is not safe, the names that the user allowed, and the
    /// number of safe names.
    /// Empty for a file that could not be scanned at all.
    pub fn to_text(&self) -> String {
        self.to_text_with(NO_TIPS, Colors::Off)
    }

    /// Formats the findings as [`Self::to_text`], with these words for tips, and in colors.
    pub fn to_text_with(&self, words: TipWords<'_>, colors: Colors) -> String {
        let Some(format) = self.format else { return String::new() };
        let pickles = match self.pickles {
            0 => "no pickles".to_owned(),
            number => format!("{} scanned", count(number, "pickle")),
        };
        let verdict = colors.paint(self.verdict.text(), self.verdict.style());
        let mut out = format!("{}: {verdict} ({}, {pickles})\n", printable(&self.file), format.text());
        for (level, verdict) in [(Level::Dangerous, ScanVerdict::Dangerous), (Level::Unknown, ScanVerdict::Unknown)] {
            let name = colors.paint(&format!("{:<11}", level.name()), verdict.style());
            let lines = || self.findings.iter().filter(|line| line.level == level);
            for line in lines().take(SHOWN) {
                let place = if line.place.is_empty() { String::new() } else { format!("{} ", printable(&line.place)) };
                let _ = writeln!(out, "  {name}{place}byte {}: {}", line.offset, printable(&line.text));
            }
            let more = lines().skip(SHOWN).count();
            if more > 0 {
                let ending = ending(Tip::MoreEntries, words);
                let _ = writeln!(out, "  {name}and {more} more{ending}");
            }
        }
        for (pattern, names) in self.allowed_names() {
            let names: Vec<&str> = names.into_iter().collect();
            let shown = printable(&names.get(..SHOWN).unwrap_or(&names).join(", "));
            let more = names.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = writeln!(out, "  {:<11}{}: {shown}{more}", "allowed", printable(pattern));
        }
        let safe = self.findings.iter().filter(|line| line.level == Level::Safe && line.allowed_by.is_none());
        let names: BTreeSet<&str> = safe.map(|line| line.name.as_str()).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "  {:<11}{}", Level::Safe.name(), count(names.len(), "name"));
        }
        if self.unread_bytes > 0 {
            let _ = writeln!(out, "  {:<11}{} of tensors, which were not fetched", "not read", size(self.unread_bytes));
        }
        out
    }
}

/// The report of scanning all paths.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ScanReport {
    /// The checkpoints, the other files with pickles, and the files that could not be scanned.
    pub files: Vec<ScannedFile>,
    /// The numbers.
    #[serde(flatten)]
    pub summary: ScanSummary,
}

/// The numbers of a scan.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ScanSummary {
    /// The number of dangerous files.
    pub dangerous: usize,
    /// The number of unknown files.
    pub unknown: usize,
    /// The number of safe files.
    pub safe: usize,
    /// The number of files that could not be scanned completely and are not known to be dangerous.
    pub unreadable: usize,
    /// The numbers of files in folders that no loader of models would run, by format.
    #[serde(serialize_with = "by_name")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, usize>"))]
    pub skipped: Vec<(ScannedFormat, usize)>,
    /// The patterns of [`Scan::allow`](crate::Scan::allow) that vouch for names in these files.
    pub allowed: BTreeSet<String>,
}

impl ScanReport {
    /// Adds a file and counts its verdict.
    pub(crate) fn push(&mut self, file: ScannedFile) {
        let summary = &mut self.summary;
        match file.verdict {
            ScanVerdict::Safe => summary.safe += 1,
            ScanVerdict::Unknown => summary.unknown += 1,
            ScanVerdict::Dangerous => summary.dangerous += 1,
            ScanVerdict::Unreadable => summary.unreadable += 1,
        }
        summary.allowed.extend(file.allowed_names().into_keys().map(str::to_owned));
        self.files.push(file);
    }

    /// Counts files that are not scanned because of their format.
    pub(crate) fn skip(&mut self, format: ScannedFormat, number: usize) {
        let skipped = &mut self.summary.skipped;
        match skipped.iter_mut().find(|(known, _)| *known == format) {
            Some((_, count)) => *count += number,
            None if number > 0 => skipped.push((format, number)),
            None => {}
        }
    }

    /// Sorts the files: the dangerous ones first, then those that are unknown, not readable and safe.
    pub(crate) fn sort(&mut self) {
        self.files.sort_by_key(|file| file.verdict);
        self.summary.skipped.sort_by_key(|(format, _)| format.name());
    }

    /// Returns the lines of all files, and a summary unless there is only one file.
    pub fn to_text(&self) -> String {
        self.to_text_with(NO_TIPS, Colors::Off)
    }

    /// Formats the report as [`Self::to_text`], with these words for tips, and in colors.
    pub fn to_text_with(&self, words: TipWords<'_>, colors: Colors) -> String {
        let mut out: String = self.files.iter().map(|file| file.to_text_with(words, colors)).collect();
        if self.files.len() == 1 && self.summary.skipped.is_empty() {
            return out;
        }
        let _ = write!(out, "{} scanned", count(self.files.len(), "file"));
        let summary = &self.summary;
        let parts = [
            (summary.dangerous, ScanVerdict::Dangerous),
            (summary.unknown, ScanVerdict::Unknown),
            (summary.unreadable, ScanVerdict::Unreadable),
            (summary.safe, ScanVerdict::Safe),
        ];
        for (number, verdict) in parts.iter().filter(|(number, _)| *number > 0) {
            let part = colors.paint(&format!("{number} {}", verdict.text()), verdict.style());
            let _ = write!(out, ", {part}");
        }
        let skipped: Vec<_> = summary.skipped.iter().map(|(format, number)| count(*number, format.noun())).collect();
        if !skipped.is_empty() {
            let _ = write!(out, "; skipped: {}", skipped.join(", "));
        }
        out + "\n"
    }

    /// Formats only the files that are dangerous or unknown.
    pub fn findings_to_text_with(&self, words: TipWords<'_>, colors: Colors) -> String {
        let is_found = |file: &&ScannedFile| matches!(file.verdict, ScanVerdict::Dangerous | ScanVerdict::Unknown);
        self.files.iter().filter(is_found).map(|file| file.to_text_with(words, colors)).collect()
    }
}

fn by_name<S: Serializer>(skipped: &[(ScannedFormat, usize)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(skipped.iter().map(|(format, number)| (format.name(), number)))
}
