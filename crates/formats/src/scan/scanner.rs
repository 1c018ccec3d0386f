use super::scanned_format::ScannedFormat;
use crate::containers;
use crate::containers::zip::LocalHeader;
use crate::danger::{Allowed, Finding};
use crate::error::Error;
use crate::limits;

/// A finding with the pickle it is in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocatedFinding {
    /// The path to the pickle: names of zip records and tar members, and `bytes at N` for bytes within a pickle,
    /// separated by ` > `. Empty if the file itself is the pickle.
    pub place: String,
    /// The finding.
    pub finding: Finding,
}

/// What a scan has found in a file so far, and what it has cost.
///
/// The costs bound the scan: a file may refer to the same bytes many times.
#[derive(Default)]
pub(super) struct Scanner {
    /// Names that the user vouches for.
    pub(super) allowed: Allowed,
    pub(super) findings: Vec<LocatedFinding>,
    /// Pickles scanned.
    pub(super) pickles: usize,
    /// Why a part of the file could not be scanned.
    pub(super) problem: Option<Error>,
    /// Bytes of pickles scanned, and bytes searched for unlisted zip records.
    pub(super) scanned_bytes: u64,
    /// Values built by all pickles.
    pub(super) values: usize,
    /// Bytes inflated.
    pub(super) inflated: u64,
    /// Records of zips and members of tar files. Each zip counts for a hundred more.
    pub(super) records: usize,
}

impl Scanner {
    /// Scans bytes that may be an archive, an array or a pickle. `is_pickle` means that a loader would treat them as a
    /// pickle whatever they look like. Returns `None` if there is nothing to scan in them.
    pub(super) fn part(&mut self, bytes: &[u8], place: &str, is_pickle: bool, depth: usize) -> Option<ScannedFormat> {
        // The error was recorded when a limit was first exceeded.
        if self.is_exhausted() {
            return None;
        }
        if depth > limits::SCAN_DEPTH {
            self.fail(Error::limit(format!("nested deeper than the limit of {}", limits::SCAN_DEPTH)), place);
            return None;
        }
        if bytes.starts_with(LocalHeader::SIGNATURE) {
            self.zip(bytes, place, depth);
            return Some(ScannedFormat::Zip);
        }
        if containers::is_tar(bytes) {
            self.tar(bytes, place, depth);
            return Some(ScannedFormat::Tar);
        }
        if let Some(array) = numpy_objects(bytes) {
            self.pickles(array, place, true, depth);
            return Some(ScannedFormat::NumpyArray);
        }
        self.pickles(bytes, place, is_pickle, depth).then_some(ScannedFormat::Pickle)
    }

    /// Whether the file has exceeded a limit.
    pub(super) fn is_exhausted(&self) -> bool {
        self.scanned_bytes.max(self.inflated) > limits::SCAN_BYTES
            || self.values > limits::SCAN_VALUES
            || self.records > limits::SCAN_RECORDS
    }

    /// Records why something could not be scanned. Only the first error is kept.
    pub(super) fn fail(&mut self, error: Error, place: &str) {
        let error = if place.is_empty() { error } else { error.in_record(place) };
        self.problem.get_or_insert(error);
    }
}

/// Returns the place of a part of what is at `place`. Cuts long names: the place is repeated for every finding.
pub(super) fn nested_place(place: &str, name: &str) -> String {
    const LONGEST: usize = 200;
    let cut = name.char_indices().nth(LONGEST).and_then(|(end, _)| name.get(..end));
    let name = cut.map_or_else(|| name.to_owned(), |cut| format!("{cut}…"));
    if place.is_empty() { name } else { format!("{place} > {name}") }
}

/// Returns the pickle behind the header of a NumPy file. Arrays of objects are stored as one.
fn numpy_objects(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let ([major, _minor], rest) = rest.split_first_chunk()?;
    let (header_len, rest) = match major {
        1 => rest.split_first_chunk().map(|(len, rest)| (u32::from(u16::from_le_bytes(*len)), rest))?,
        _ => rest.split_first_chunk().map(|(len, rest)| (u32::from_le_bytes(*len), rest))?,
    };
    rest.get(header_len as usize..)
}
