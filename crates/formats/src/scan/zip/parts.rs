//! The ranges of a zip that a scan needs.

use std::collections::HashMap;
use std::ops::Range;

use super::directory::{Record, directory, records};
use super::{kind, role_of};
use crate::containers::storage_sizes;
use crate::containers::zip::{LocalHeader, STORED};
use crate::limits;
use crate::pickle::parse_lenient;
use crate::scan::role::Role;

/// The most bytes of a local header beside its name, and of what follows a content: extra fields with sizes and padding, and
/// a data descriptor. PyTorch needs fewer.
const AROUND: u64 = 30 + 20 + 68 + 24;

/// Bytes of pickles that are fetched.
const MOST_PICKLES: u64 = limits::SCAN_BYTES;

/// Where the directory of a zip begins that all readers read alike; `None` for others.
pub(in crate::scan) fn plain_directory(bytes: &[u8]) -> Option<u64> {
    let found = directory(bytes)?;
    let is_plain = found.shift == 0 && !found.is_ambiguous && found.end == bytes.len();
    is_plain.then_some(found.begin as u64)
}

/// The records with the ranges from their local headers to the next one, in the order of the file. `None` unless they cover
/// the zip from its start.
fn ranges(bytes: &[u8]) -> Option<Vec<(Record, Range<u64>)>> {
    let directory = directory(bytes)?;
    let mut records = records(bytes, directory, limits::ZIP_ENTRIES).ok()?;
    records.sort_by_key(|record| record.header);
    let starts: Vec<u64> = records.iter().map(|record| record.header as u64).chain([directory.begin as u64]).collect();
    let is_whole = starts.first() == Some(&0) && starts.is_sorted_by(|a, b| a < b);
    let ranges = starts.iter().zip(starts.iter().skip(1)).map(|(start, end)| *start..*end);
    is_whole.then(|| records.into_iter().zip(ranges).collect())
}

/// The ranges of the records that loaders unpickle.
pub(in crate::scan) fn pickles(bytes: &[u8]) -> Option<Vec<Range<u64>>> {
    let found = ranges(bytes)?.into_iter().filter(|(record, _)| role_of(&record.name) == Role::Loaded);
    let found: Vec<Range<u64>> = found.map(|(_, range)| range).collect();
    let bytes = found.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
    (bytes <= MOST_PICKLES).then_some(found)
}

/// The ranges of all records but the storages of the pickles, which must be here, and but the pickles.
pub(in crate::scan) fn without_storages(bytes: &[u8]) -> Option<Vec<Range<u64>>> {
    let records = ranges(bytes)?;
    let mut storages = HashMap::new();
    for (record, _) in records.iter().filter(|(record, _)| role_of(&record.name) == Role::Loaded) {
        let content = bytes.get(record.begin..record.begin.checked_add(record.len)?)?;
        if record.method == STORED {
            kind::add_storages(&record.name, &storage_sizes(&parse_lenient(content).pickle), &mut storages);
        }
    }
    let is_storage = |record: &Record, range: &Range<u64>| {
        let most = (record.len as u64).saturating_add(record.name.len() as u64 + AROUND);
        let fits = range.end - range.start <= most && range.end - range.start >= LocalHeader::LEN as u64;
        record.method == STORED && fits && storages.get(&record.name) == Some(&record.size)
    };
    let others =
        records.iter().filter(|(record, range)| role_of(&record.name) != Role::Loaded && !is_storage(record, range));
    Some(others.map(|(_, range)| range.clone()).collect())
}
