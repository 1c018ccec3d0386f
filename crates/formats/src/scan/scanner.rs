use super::content::{Archive, Content, is_native_code, recognize, recognize_archive};
use super::numpy::{Elements, NumpyFile};
use super::role::Role;
use super::scanned_format::ScannedFormat;
use crate::containers::{Container, StorageSize};
use crate::danger::{Allowed, Finding, Level};
use crate::error::Error;
use crate::io::Source;
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

/// Bytes of the mapped file to read before its pages are released. They count as memory of this process.
const MAPPED: usize = 32 << 20;

/// What a scan has found in a file so far, and what it has cost.
///
/// The costs bound the scan: a file may refer to the same bytes many times.
#[derive(Default)]
pub(super) struct Scanner<'a> {
    /// Names that the user vouches for.
    pub(super) allowed: Allowed,
    /// The file, if it is mapped.
    source: Option<&'a Source>,
    /// Bytes of the file that were read since its pages were last released.
    touched: usize,
    pub(super) findings: Vec<LocatedFinding>,
    /// Pickles scanned.
    pub(super) pickles: usize,
    /// Why a part of the file could not be scanned.
    pub(super) problem: Option<Error>,
    /// Bytes of pickles scanned, and bytes searched for unlisted zip records.
    pub(super) scanned_bytes: u64,
    /// Values built by all pickles.
    pub(super) values: usize,
    /// Values built from data.
    pub(super) data_values: usize,
    /// Bytes inflated.
    pub(super) inflated: u64,
    /// Bytes of storages inflated.
    pub(super) inflated_data: u64,
    /// Records of zips and members of tar files. Each zip counts for a hundred more.
    pub(super) records: usize,
    /// Whether the zip being scanned is a TorchScript program.
    pub(super) is_script: bool,
    /// Whether the next pickle's storages should be listed.
    pub(super) storages_wanted: bool,
    /// The storages that the last such pickle refers to.
    pub(super) storages: Vec<StorageSize>,
}

impl<'a> Scanner<'a> {
    /// Returns a scanner of the mapped bytes of a file.
    pub(super) fn new(source: &'a Source, allowed: &Allowed) -> Self {
        Scanner { source: Some(source), allowed: allowed.clone(), ..Scanner::default() }
    }

    /// Scans a file, or what stands for one: a member of an archive, or the content of a compressed file. Returns `None`
    /// if there is nothing to scan in it and its format is not known.
    pub(super) fn file(&mut self, bytes: &[u8], place: &str, role: Role, depth: usize) -> Option<ScannedFormat> {
        if !self.may_enter(place, depth) {
            return None;
        }
        if depth > 0 && role != Role::Data && is_native_code(bytes) {
            let reason = "runs native code when a program loads it";
            self.add_content("a shared library or a program", Level::Dangerous, reason, place);
        }
        if role == Role::Data {
            // numpy.load unpickles any record of a zip that begins as an array of objects.
            if bytes.starts_with(NumpyFile::SIGNATURE) {
                return Some(self.archive(&Archive::Numpy, bytes, place, depth));
            }
            return self.pickles(bytes, place, role, depth).map(|_| ScannedFormat::Pickle);
        }
        let content = recognize(bytes);
        let found = match &content {
            Content::Archive(archive) => return Some(self.archive(archive, bytes, place, depth)),
            // Random data begins like a zlib stream once in two thousand times, and nothing decompresses parts of files.
            Content::Compressed(ScannedFormat::Zlib) if depth > 0 => None,
            Content::Compressed(format) if self.compressed(*format, bytes, place, role, depth) => Some(*format),
            Content::Compressed(_) | Content::Unknown => None,
            Content::Safetensors => Some(ScannedFormat::Container(Container::Safetensors)),
            Content::Other(format) => Some(*format),
        };
        // A file of another format may be a pickle, too: a loader does not look at its beginning first. Pickles of
        // protocol 0 are text.
        let is_other = found.is_some_and(|format| format != ScannedFormat::Text);
        let role = if is_other && matches!(role, Role::File { .. }) { Role::Found } else { role };
        let end = self.pickles(bytes, place, role, depth);
        let behind = end.and_then(|end| bytes.get(end..)).filter(|behind| behind.starts_with(NumpyFile::SIGNATURE));
        if let Some(behind) = behind {
            self.numpy(behind, place, depth);
        }
        let is_pickle = end.is_some();
        if !is_pickle && found.is_none() && depth == 0 {
            self.embedded(bytes, place, 0, depth);
        }
        // Python finds a zip at the end of a member, whatever precedes it. For a whole file, `scan_bytes` looks for it.
        if depth > 0 {
            self.zip_at_end(bytes, place, depth);
        }
        if let Some(obstacle) = found.and_then(ScannedFormat::obstacle) {
            self.fail(Error::unsupported(obstacle), place);
        }
        // What is only counted in a folder must not hide a pickle.
        found.filter(|format| !is_pickle || !format.is_skipped()).or(is_pickle.then_some(ScannedFormat::Pickle))
    }

    /// Scans bytes that may be an archive, an array or a pickle. Returns `None` if there is nothing to scan in them.
    pub(super) fn part(&mut self, bytes: &[u8], place: &str, role: Role, depth: usize) -> Option<ScannedFormat> {
        if !self.may_enter(place, depth) {
            return None;
        }
        match recognize_archive(bytes) {
            Some(archive) => Some(self.archive(&archive, bytes, place, depth)),
            None => self.pickles(bytes, place, role, depth).map(|_| ScannedFormat::Pickle),
        }
    }

    fn archive(&mut self, archive: &Archive, bytes: &[u8], place: &str, depth: usize) -> ScannedFormat {
        match archive {
            Archive::Zip => self.zip(bytes, place, depth),
            Archive::Tar => {
                self.tar(bytes, place, depth);
                // The name of the first member may be a pickle.
                self.pickles(bytes, place, Role::Found, depth);
                ScannedFormat::Tar
            }
            Archive::Numpy => {
                self.numpy(bytes, place, depth);
                ScannedFormat::NumpyArray
            }
        }
    }

    /// Scans the pickles of consecutive NumPy arrays.
    fn numpy(&mut self, bytes: &[u8], place: &str, depth: usize) {
        let mut rest = bytes;
        for _ in 0..limits::SCAN_STACKED {
            if rest.is_empty() || self.is_exhausted() {
                return;
            }
            let Some(array) = NumpyFile::parse(rest) else {
                if !rest.starts_with(NumpyFile::SIGNATURE) {
                    self.part(rest, place, Role::Found, depth + 1);
                }
                return;
            };
            let end = match array.elements {
                Elements::Objects => self.pickles(array.content, place, Role::Loaded, depth),
                Elements::Plain(len) => Some(len),
                Elements::Unclear => {
                    let found = "a NumPy header that NumPy does not write; what follows it may not have been scanned";
                    self.fail(Error::unsupported(found), place);
                    self.pickles(array.content, place, Role::Loaded, depth)
                }
            };
            rest = end.and_then(|end| array.content.get(end..)).unwrap_or_default();
        }
        let found = format!("more than {} arrays in succession", limits::SCAN_STACKED);
        self.fail(Error::limit(found), place);
    }

    /// Whether a scan may go on at this depth. Records an error if it is too deep.
    fn may_enter(&mut self, place: &str, depth: usize) -> bool {
        // The error was recorded when a limit was first exceeded.
        if self.is_exhausted() {
            return false;
        }
        if depth > limits::SCAN_DEPTH {
            self.fail(Error::limit(format!("nested deeper than the limit of {}", limits::SCAN_DEPTH)), place);
            return false;
        }
        true
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

    /// Counts bytes of the file that are about to be read, and releases the pages that were read before.
    pub(super) fn touch(&mut self, bytes: usize) {
        self.touched += bytes;
        if self.touched > MAPPED {
            self.touched = bytes;
            if let Some(source) = self.source {
                source.release_pages();
            }
        }
    }
}

/// Returns the place of a part of what is at `place`. Cuts long names: the place is repeated for every finding.
pub(super) fn nested_place(place: &str, name: &str) -> String {
    const LONGEST: usize = 200;
    let cut = name.char_indices().nth(LONGEST).and_then(|(end, _)| name.get(..end));
    let name = cut.map_or_else(|| name.to_owned(), |cut| format!("{cut}…"));
    if place.is_empty() { name } else { format!("{place} > {name}") }
}
