//! Every record of a zip that some reader may see: those in the directory, and those that the directory leaves out.
//!
//! Checksums, sizes, flags and local names are not trusted. Readers differ in which of them they check, and attackers
//! evade scanners with files that fail in one reader and load in another.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::DeflateDecoder;

use super::scanner::{Scanner, nested_place};
use crate::containers::zip::{
    CentralHeader, DEFLATED, EXTRA_ZIP64, EndOfDirectory, FLAG_ENCRYPTED, IN_ZIP64, LocalHeader, STORED,
    Zip64EndOfDirectory, Zip64Locator, extra_field,
};
use crate::error::{Error, OrInternal, Result};
use crate::limits;

/// How far from the end of a file the end record may begin: a comment may follow it.
const END_REACH: usize = EndOfDirectory::LEN + u16::MAX as usize;

/// Bytes between two records that may be a data descriptor of the first one.
const DESCRIPTOR: usize = 24;

/// Records that each zip counts for, because of the search for its directory.
const RECORDS_PER_ZIP: usize = 100;

/// Bytes of an unlisted record's name to show.
const SHOWN_NAME: usize = 100;

/// Bytes that are inflated to see whether a record may be a pickle.
const HEAD: u64 = 4096;

/// A record as its directory entry describes it, with the place of its content.
struct Record {
    name: String,
    method: u16,
    is_encrypted: bool,
    /// Offset of the local header.
    header: usize,
    /// Offset of the content.
    begin: usize,
    /// Bytes of the content.
    len: usize,
}

/// Whether bytes end with a zip, whatever they begin with.
pub(super) fn ends_with_zip(bytes: &[u8]) -> bool {
    directory(bytes).is_some()
}

impl Scanner {
    /// Scans every record of a zip.
    pub(super) fn zip(&mut self, bytes: &[u8], place: &str, depth: usize) {
        self.records += RECORDS_PER_ZIP;
        let Some(directory) = directory(bytes) else {
            let found = "the zip's directory cannot be read; the file was cut short or damaged";
            return self.fail(Error::malformed(found), place);
        };
        let left = limits::SCAN_RECORDS.saturating_sub(self.records);
        let records = match records(bytes, directory, left) {
            Ok(records) => records,
            Err(error) => {
                self.records += left;
                return self.fail(error, place);
            }
        };
        self.records += records.len();
        for record in &records {
            if self.is_exhausted() {
                return;
            }
            self.record(bytes, record, place, depth);
        }
        self.unlisted(bytes, &records, directory, place, depth);
    }

    fn record(&mut self, bytes: &[u8], record: &Record, place: &str, depth: usize) {
        let place = nested_place(place, &record.name);
        let Some((_, content)) = bytes.split_at_checked(record.begin) else { return };
        let stored = content.get(..record.len).unwrap_or(content);
        if stored.is_empty() {
            return;
        }
        let is_pickle = [".pkl", ".pickle"].iter().any(|ending| record.name.to_ascii_lowercase().ends_with(ending));
        if record.is_encrypted && is_pickle {
            self.fail(Error::unsupported("it is encrypted and could not be scanned"), &place);
        }
        let content: Cow<'_, [u8]> = match record.method {
            STORED => stored.into(),
            DEFLATED => match self.inflate(stored, is_pickle) {
                Ok(content) => content.into(),
                Err(error) => return self.fail(error, &place),
            },
            other => {
                let found = format!("compression method {other} cannot be scanned; expected stored or deflated");
                return self.fail(Error::unsupported(found), &place);
            }
        };
        self.part(&content, &place, is_pickle, depth + 1);
    }

    /// Returns the content of a deflated record: all of it if it may be a pickle or a zip, otherwise its first bytes.
    fn inflate(&mut self, stored: &[u8], is_pickle: bool) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut stream = DeflateDecoder::new(stored);
        // Damaged data is scanned up to the damage: Python reads in blocks and runs what comes before it.
        let outcome = stream.by_ref().take(HEAD).read_to_end(&mut content);
        let is_longer = content.len() as u64 == HEAD;
        let may_matter = is_pickle
            || content.starts_with(LocalHeader::SIGNATURE)
            || content.starts_with(b"\x93NUMPY")
            || looks_like_pickle(&content);
        if outcome.is_ok() && is_longer && may_matter {
            // As above: an error ends the content where the damage is.
            let _ = stream.take(limits::PICKLE_BYTES + 1 - HEAD).read_to_end(&mut content);
        }
        self.inflated += content.len() as u64;
        if self.inflated > limits::SCAN_BYTES {
            let found = format!("the records inflate to more than the limit of {} bytes", limits::SCAN_BYTES);
            return Err(Error::limit(found));
        }
        Ok(content)
    }

    /// Scans records that the directory does not list. A reader that goes from header to header sees them.
    fn unlisted(&mut self, bytes: &[u8], records: &[Record], directory: usize, place: &str, depth: usize) {
        let mut taken: Vec<_> =
            records.iter().map(|record| (record.header, record.begin.saturating_add(record.len))).collect();
        taken.push((directory, directory));
        taken.sort_unstable();
        // An entry may declare any size, so that a record may end at the largest offset.
        let mut covered = 0_usize;
        for (begin, end) in taken {
            if begin > covered.saturating_add(DESCRIPTOR) || covered == 0 && begin > 0 {
                // Records that the directory places past the end of the file leave no gap.
                if let Some(gap) = bytes.get(covered..begin) {
                    self.gap(gap, covered, place, depth);
                }
            }
            covered = covered.max(end);
        }
    }

    /// Scans the records in a range of bytes that no listed record covers.
    fn gap(&mut self, gap: &[u8], offset: usize, place: &str, depth: usize) {
        // All gaps of a file together are no larger than the file, but zips within zips may share their gaps.
        if depth > 0 {
            self.scanned_bytes += gap.len() as u64;
        }
        let mut rest = gap;
        let mut rest_offset = offset;
        for _ in 0..limits::SCAN_STACKED {
            if self.is_exhausted() {
                let found = "too many records that are missing from the zip's directory";
                return self.fail(Error::limit(found), place);
            }
            let found = find(rest, LocalHeader::SIGNATURE).and_then(|at| rest.split_at_checked(at));
            let Some((skipped, bytes)) = found else { return };
            self.records += 1;
            let Some(header) = LocalHeader::parse(bytes) else { return };
            let header_offset = rest_offset + skipped.len();
            let name = bytes.get(LocalHeader::LEN..).into_iter().flatten().copied();
            let name: Vec<u8> = name.take(usize::from(header.name_len).min(SHOWN_NAME)).collect();
            let name = format!("{} (at byte {header_offset}, not in the directory)", String::from_utf8_lossy(&name));
            // The sizes of an unlisted record are not trusted: the content may extend to the end of the gap.
            let (begin, len) = (header.content_offset(), bytes.len());
            let record = Record { name, method: header.method, is_encrypted: false, header: 0, begin, len };
            if matches!(header.method, STORED | DEFLATED) {
                self.record(bytes, &record, place, depth);
            }
            let Some((_, behind)) = bytes.split_at_checked(LocalHeader::SIGNATURE.len()) else { return };
            rest = behind;
            rest_offset = header_offset + LocalHeader::SIGNATURE.len();
        }
        let found = format!("more than {} records that are missing from the zip's directory", limits::SCAN_STACKED);
        self.fail(Error::limit(found), place);
    }
}

/// Whether the first byte is one that pickles with calls begin with.
fn looks_like_pickle(head: &[u8]) -> bool {
    head.first().is_some_and(|first| matches!(first, 0x80 | b'(' | b'c' | b'}' | b']' | b'i'))
}

/// Returns the offset of the directory, from the last end record that points to one. A comment may contain bytes that
/// look like an end record.
fn directory(bytes: &[u8]) -> Option<usize> {
    let reach = bytes.len().saturating_sub(END_REACH);
    let mut tail = bytes.get(reach..)?;
    loop {
        let at = rfind(tail, EndOfDirectory::SIGNATURE)?;
        if let Some(found) = directory_of(bytes, reach + at) {
            return Some(found);
        }
        tail = tail.get(..at)?;
    }
}

/// Returns the offset of the directory that the end record at `end` points to.
fn directory_of(bytes: &[u8], end: usize) -> Option<usize> {
    let (before, record) = bytes.split_at_checked(end)?;
    let is_directory = |at: &usize| starts_at(bytes, *at, CentralHeader::SIGNATURE);
    let zip64 = before.len().checked_sub(Zip64Locator::LEN).and_then(|at| Zip64Locator::parse(before.get(at..)?));
    let zip64 = zip64.and_then(|locator| Zip64EndOfDirectory::parse(from(bytes, locator.end_offset)?));
    let zip64_offset = zip64.and_then(|end| usize::try_from(end.directory_offset).ok()).filter(is_directory);
    // The last field, the length of the comment, may be cut off: some readers accept that.
    let fields = record.get(..EndOfDirectory::LEN - size_of::<u16>())?;
    let end_record = EndOfDirectory::parse(&[fields, &[0; size_of::<u16>()]].concat())?;
    // If other bytes precede the zip, its offsets are wrong and only the size leads to the directory.
    let by_offset = || Some(end_record.directory_offset as usize).filter(is_directory);
    let by_len = || end.checked_sub(end_record.directory_len as usize).filter(is_directory);
    zip64_offset.or_else(by_offset).or_else(by_len)
}

/// Reads the records that the directory lists. Fails if they are more than `most`.
fn records(bytes: &[u8], directory: usize, most: usize) -> Result<Vec<Record>> {
    let most = most.min(limits::ZIP_ENTRIES);
    let mut records = Vec::new();
    let mut rest = bytes.get(directory..).or_internal("the zip's directory lies outside the file")?;
    let mut shift = None;
    while rest.starts_with(CentralHeader::SIGNATURE) {
        if records.len() == most {
            return Err(Error::limit(format!("more than {most} records in the zip")));
        }
        let (mut record, len) = entry(rest).ok_or_else(|| Error::malformed("the zip's directory was cut short"))?;
        // Bytes before the zip shift all offsets. The first record shows by how much.
        let shift = *shift.get_or_insert_with(|| {
            if starts_at(bytes, record.header, LocalHeader::SIGNATURE) {
                return 0;
            }
            find(bytes, LocalHeader::SIGNATURE).map_or(0, |first| first.saturating_sub(record.header))
        });
        // An entry may declare any offset. One that overflows lies past the end of the file like any other large one.
        record.header = record.header.saturating_add(shift);
        // The signature is not checked: readers differ in that, too.
        let fields = bytes.get(record.header.saturating_add(LocalHeader::SIGNATURE.len())..);
        let header = fields.and_then(|mut fields| LocalHeader::read_fields(&mut fields).ok());
        // A header that is cut off by the end of the file has no content.
        let content_offset = header.map_or(LocalHeader::LEN, |header| header.content_offset());
        record.begin = record.header.saturating_add(content_offset);
        records.push(record);
        // A comment that is cut off ends the directory.
        rest = rest.get(len..).unwrap_or(&[]);
    }
    Ok(records)
}

/// Reads the directory entry at the start of `bytes`. Returns it with its length.
fn entry(bytes: &[u8]) -> Option<(Record, usize)> {
    let header = CentralHeader::parse(bytes)?;
    let (name, rest) = bytes.get(CentralHeader::LEN..)?.split_at_checked(header.name_len.into())?;
    let extra = rest.get(..usize::from(header.extra_len))?;
    let mut wide = extra_field(extra, EXTRA_ZIP64).map_or(&[][..], |values| values.as_chunks().0).iter();
    let mut value = |narrow: u32| match narrow {
        // Without a 64-bit value, the 32-bit one counts.
        IN_ZIP64 => wide.next().map_or(narrow.into(), |value| u64::from_le_bytes(*value)),
        _ => narrow.into(),
    };
    // The order of the values in the extra field.
    let [size, compressed_size, offset] = [header.size, header.compressed_size, header.header_offset].map(&mut value);
    // The two sizes of a stored record should be equal. If not, a reader may use either.
    let len = if header.method == STORED { size.max(compressed_size) } else { compressed_size };
    let record = Record {
        name: String::from_utf8_lossy(name).into_owned(),
        method: header.method,
        is_encrypted: header.flags & FLAG_ENCRYPTED != 0,
        header: usize::try_from(offset).ok()?,
        begin: 0,
        len: usize::try_from(len).ok()?,
    };
    Some((record, CentralHeader::LEN + header.variable_len()))
}

fn from(bytes: &[u8], offset: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..)
}

fn starts_at(bytes: &[u8], offset: usize, signature: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(signature))
}

fn find(bytes: &[u8], signature: &[u8]) -> Option<usize> {
    bytes.windows(signature.len()).position(|window| window == signature)
}

fn rfind(bytes: &[u8], signature: &[u8]) -> Option<usize> {
    bytes.windows(signature.len()).rposition(|window| window == signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zip of one record whose directory entry declares this size and offset.
    fn zip_declaring(size: u64, offset: u64) -> Vec<u8> {
        let name = b"archive/data.pkl";
        let mut bytes = Vec::new();
        LocalHeader { name_len: name.len() as u16, size: 1, compressed_size: 1, ..Default::default() }
            .write(&mut bytes);
        bytes.extend(name);
        bytes.extend(b".");
        let directory_offset = bytes.len() as u32;
        let values = [size, size, offset].map(u64::to_le_bytes).concat();
        CentralHeader {
            size: IN_ZIP64,
            compressed_size: IN_ZIP64,
            header_offset: IN_ZIP64,
            name_len: name.len() as u16,
            extra_len: 4 + values.len() as u16,
            ..Default::default()
        }
        .write(&mut bytes);
        bytes.extend(name);
        bytes.extend(EXTRA_ZIP64.to_le_bytes());
        bytes.extend((values.len() as u16).to_le_bytes());
        bytes.extend(values);
        EndOfDirectory { entries: 1, entries_on_disk: 1, directory_offset, ..Default::default() }.write(&mut bytes);
        bytes
    }

    #[test]
    fn survives_sizes_and_offsets_at_the_ends_of_their_range() {
        for size in [0, 1, u64::MAX - 1, u64::MAX] {
            for offset in [0, 1, u64::MAX - 40, u64::MAX] {
                Scanner::default().zip(&zip_declaring(size, offset), "", 0);
            }
        }
    }
}
