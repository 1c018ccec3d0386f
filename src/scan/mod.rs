//! What a file would do to whoever loads it with Python, found without loading it: every pickle in it, wherever it
//! lies and whatever it is called, examined as far as it goes.
//!
//! Reading a checkpoint and scanning it are two things. The reader takes files that are whole and mean one thing; the
//! scanner looks at all that any reader may see. So it takes nothing for granted: not the name of a record, not its
//! checksum, not which of two headers is right, not that a pickle goes on as it began. What the reader has to say of
//! the file is part of the result.

mod folder;
mod nested;
mod pickles;
mod tar;
mod zip;

use std::path::{Path, PathBuf};

pub use folder::{Found, find, is_named_like_a_checkpoint};

use crate::danger::{Finding, Level};
use crate::error::{Error, Kind, Result};
use crate::format::{self, Container};
use crate::io::Source;
use crate::limits;

/// What was found in one file.
#[derive(Debug)]
pub struct Scan {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub container: &'static str,
    /// Pickles looked through.
    pub pickles: usize,
    /// What they name and call: the worst first.
    pub findings: Vec<Placed>,
    /// Why the file, or a part of it, cannot be read: something else may be in it.
    pub problem: Option<Error>,
}

/// A finding with the pickle it is in.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The way to the pickle: the record of a zip, the pickle around it; empty for the file itself.
    pub place: String,
    /// What is there.
    pub finding: Finding,
}

impl Scan {
    /// The worst level of all findings.
    pub fn level(&self) -> Level {
        self.findings.iter().map(|placed| placed.finding.level).max().unwrap_or(Level::Harmless)
    }
}

/// Looks through a file. `None` for one that is no checkpoint and holds no pickle; an error only where nothing of it
/// could be looked at.
pub fn scan(path: impl AsRef<Path>) -> Result<Option<Scan>> {
    let path = path.as_ref();
    let source = Source::open(path)?;
    // SAFETY: this process writes no file during a scan. A file that another process changes meanwhile can make the scan's
    // result wrong, and one that it truncates ends this process with SIGBUS; neither can harm an output.
    let bytes = unsafe { source.map() }?;
    let mut scanner = Scanner::default();
    let what = scanner.file(bytes, folder::is_named_like_a_pickle(path));
    let read = format::sniff(&source);
    let container = match (&read, what) {
        (Ok(container), _) => container.name(),
        (Err(_), Some(what)) => what,
        (Err(_), None) if scanner.problem.is_none() => return Ok(None),
        (Err(_), None) => "unknown",
    };
    // The reader's opinion: what it refuses as broken or forged is no good file, whatever its pickles say. What it
    // just does not take (a bare pickle, a program, a file without tensors) was looked through all the same.
    // The map of the file goes first: both readings of it would count as memory.
    drop(source);
    let refused = if read.is_ok() { format::open(path).err() } else { None };
    let refused = refused.filter(|error| error.kind() != Kind::Unsupported || scanner.pickles == 0);
    let problem = scanner.problem.map(|error| error.in_file(path));
    scanner.findings.sort_by_key(|placed| std::cmp::Reverse(placed.finding.level));
    Ok(Some(Scan {
        path: path.to_owned(),
        container,
        pickles: scanner.pickles,
        findings: scanner.findings,
        problem: refused.map(|error| error.in_file(path)).or(problem),
    }))
}

/// The error for a file that is no checkpoint, where one was expected: what it is instead.
pub fn not_a_checkpoint(path: &Path) -> Error {
    let sniffed = Source::open(path).and_then(|source| format::sniff(&source).map(Container::name));
    sniffed.err().unwrap_or_else(|| Error::unsupported("no pickle in it").in_file(path))
}

/// What is gathered on the way through a file.
#[derive(Default)]
struct Scanner {
    findings: Vec<Placed>,
    pickles: usize,
    problem: Option<Error>,
    /// Bytes of pickles looked through, and bytes inflated: a file may ask for the same ones again and again.
    looked_through: u64,
    values: usize,
    inflated: u64,
    /// Records of zips, and a hundred for each zip.
    records: usize,
}

impl Scanner {
    /// Looks through a whole file. What it is, if it is something with pickles.
    fn file(&mut self, bytes: &[u8], is_pickle: bool) -> Option<&'static str> {
        let what = self.part(bytes, "", is_pickle, 0);
        // A zip may stand behind anything: Python opens it there.
        if what != Some(ZIP) && zip::is_behind(bytes) {
            self.zip(bytes, "", 0);
            return what.or(Some(ZIP));
        }
        what
    }

    /// Looks through bytes that may be a zip, an array or a pickle; `is_pickle` says that somebody would load them as
    /// a pickle, whatever they look like.
    fn part(&mut self, bytes: &[u8], place: &str, is_pickle: bool, depth: usize) -> Option<&'static str> {
        // What was too much once stays too much; the first of it was reported.
        if self.is_exhausted() {
            return None;
        }
        if depth > limits::SCAN_DEPTH {
            self.fail(Error::limit(format!("pickles nested deeper than {}", limits::SCAN_DEPTH)), place);
            return None;
        }
        if bytes.starts_with(zip::LOCAL) {
            self.zip(bytes, place, depth);
            return Some(ZIP);
        }
        if format::is_tar(bytes) {
            self.tar(bytes, place, depth);
            return Some("tar");
        }
        if let Some(array) = numpy_objects(bytes) {
            self.pickles(array, place, true, depth);
            return Some("NumPy array");
        }
        self.pickles(bytes, place, is_pickle, depth).then_some("pickle")
    }

    /// Whether the file has asked for more than it may.
    fn is_exhausted(&self) -> bool {
        self.looked_through.max(self.inflated) > limits::SCAN_BYTES
            || self.values > limits::SCAN_VALUES
            || self.records > limits::SCAN_RECORDS
    }

    /// Notes what could not be looked at; the first such thing is reported.
    fn fail(&mut self, error: Error, place: &str) {
        let error = if place.is_empty() { error } else { error.in_record(place) };
        self.problem.get_or_insert(error);
    }
}

const ZIP: &str = "zip";

/// The way to a part of what lies at `place`. Told again for every finding there, so long names are cut.
fn way(place: &str, name: &str) -> String {
    const LONGEST: usize = 200;
    let cut = name.char_indices().nth(LONGEST).and_then(|(end, _)| name.get(..end));
    let name = cut.map_or_else(|| name.to_owned(), |cut| format!("{cut}…"));
    if place.is_empty() { name } else { format!("{place} > {name}") }
}

/// The pickle in a NumPy file: arrays of objects are stored as one, behind the header.
fn numpy_objects(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (version, rest) = rest.split_first()?;
    let (length, rest) = match version {
        1 => rest.get(1..)?.split_first_chunk().map(|(length, rest)| (u32::from(u16::from_le_bytes(*length)), rest))?,
        _ => rest.get(1..)?.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length), rest))?,
    };
    rest.get(length as usize..)
}
