//! Every record of a zip, as any reader may see it: from the directory, and from what the directory keeps quiet about.
//!
//! Neither checksums nor sizes nor flags nor the names of local headers are believed: readers differ in which of them
//! they check, and a file that fails in one and loads in another is how scanners are passed by.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::DeflateDecoder;

use super::{Scanner, way};
use crate::error::{Error, Result};
use crate::limits;

/// What a record's own header begins with.
pub(super) const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";

/// Bytes of a local header, of a directory entry, of the end record, before what varies in length.
const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;

/// A comment may stand behind the end record.
const END_REACH: usize = END_LEN + u16::MAX as usize;

/// Bytes between two records that may be the sizes of the first, written behind it.
const DESCRIPTOR: usize = 24;

/// What a zip counts for among the records that a scan looks at: its directory has to be searched for.
const A_ZIP: usize = 100;

/// Bytes of a name that are shown of a record that no directory lists.
const HIDDEN_NAME: usize = 100;

/// Bytes of a record that tell whether it may be a pickle.
const HEAD: u64 = 4096;

/// One record: what its directory entry says, and where its bytes begin.
struct Record {
    name: String,
    method: u16,
    encrypted: bool,
    /// Where its header is.
    header: usize,
    /// Where its bytes begin, and how many there are.
    begin: usize,
    len: usize,
}

/// Whether a zip stands at the end of bytes that begin with something else.
pub(super) fn is_behind(bytes: &[u8]) -> bool {
    directory(bytes).is_some_and(|begin| bytes.get(begin..).is_some_and(|rest| rest.starts_with(CENTRAL)))
}

impl Scanner {
    /// Looks through every record of a zip.
    pub(super) fn zip(&mut self, bytes: &[u8], place: &str, depth: usize) {
        self.records += A_ZIP;
        let Some(directory) = directory(bytes) else {
            let found = "a zip without a readable directory, it was cut short or damaged";
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
        self.hidden(bytes, &records, directory, place, depth);
    }

    fn record(&mut self, bytes: &[u8], record: &Record, place: &str, depth: usize) {
        let way = way(place, &record.name);
        let stored = bytes.get(record.begin..record.begin.saturating_add(record.len).min(bytes.len()));
        let Some(stored) = stored.filter(|stored| !stored.is_empty()) else { return };
        let is_pickle = [".pkl", ".pickle"].iter().any(|ending| record.name.to_ascii_lowercase().ends_with(ending));
        if record.encrypted && is_pickle {
            self.fail(Error::unsupported("it is encrypted; nobody knows what is in it"), &way);
        }
        let content: Cow<'_, [u8]> = match record.method {
            0 => stored.into(),
            8 => match self.inflate(stored, is_pickle) {
                Ok(content) => content.into(),
                Err(error) => return self.fail(error, &way),
            },
            other => {
                let found =
                    format!("compressed by method {other}, which is not looked into; expected stored or deflated");
                return self.fail(Error::unsupported(found), &way);
            }
        };
        self.part(&content, &way, is_pickle, depth + 1);
    }

    /// The content of a deflated record: all of it if it may be a pickle or a zip, else its head.
    fn inflate(&mut self, stored: &[u8], is_pickle: bool) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut stream = DeflateDecoder::new(stored);
        // What breaks later was there before: Python reads in blocks, too.
        let outcome = stream.by_ref().take(HEAD).read_to_end(&mut content);
        let is_zip = content.starts_with(LOCAL);
        let goes_on = content.len() as u64 == HEAD && (is_pickle || is_zip || content.starts_with(b"\x93NUMPY"));
        let goes_on = goes_on || content.len() as u64 == HEAD && looks_like_pickle(&content);
        if outcome.is_ok() && goes_on {
            let _ = stream.take(limits::PICKLE_BYTES + 1 - HEAD).read_to_end(&mut content);
        }
        self.inflated += content.len() as u64;
        if self.inflated > limits::SCAN_BYTES {
            return Err(Error::limit(format!(
                "inflates to more than {} bytes with those before it",
                limits::SCAN_BYTES
            )));
        }
        Ok(content)
    }

    /// Looks for records that the directory does not list: a reader that goes from header to header sees them.
    fn hidden(&mut self, bytes: &[u8], records: &[Record], directory: usize, place: &str, depth: usize) {
        let mut taken: Vec<_> =
            records.iter().map(|record| (record.header, record.begin.saturating_add(record.len))).collect();
        taken.push((directory, directory));
        taken.sort_unstable();
        let mut covered = 0;
        for (begin, end) in taken {
            if begin > covered + DESCRIPTOR || covered == 0 && begin > 0 {
                self.gap(bytes.get(covered..begin).unwrap_or_default(), covered, place, depth);
            }
            covered = covered.max(end);
        }
    }

    fn gap(&mut self, gap: &[u8], offset: usize, place: &str, depth: usize) {
        // The gaps of a file are no more than its bytes; those of zips within zips may be the same ones again.
        if depth > 0 {
            self.looked_through += gap.len() as u64;
        }
        let mut rest = gap;
        for _ in 0..limits::SCAN_STACKED {
            if self.is_exhausted() {
                let found = "more records that are not in the zip's directory than are looked at";
                return self.fail(Error::limit(found), place);
            }
            let Some(at) = find(rest, LOCAL) else { return };
            self.records += 1;
            let header = rest.get(at..).unwrap_or_default();
            rest = header.get(LOCAL.len()..).unwrap_or_default();
            let lengths = u16_at(header, 26).zip(u16_at(header, 28));
            let Some((name_len, extra_len)) = lengths else { return };
            let begin = LOCAL_LEN + usize::from(name_len) + usize::from(extra_len);
            let name = header.get(LOCAL_LEN..LOCAL_LEN + usize::from(name_len).min(HIDDEN_NAME)).unwrap_or_default();
            let at = offset + gap.len() - rest.len() - LOCAL.len();
            let name = format!("{} (at byte {at}, not in the directory)", String::from_utf8_lossy(name));
            let method = u16_at(header, 8).unwrap_or_default();
            let len = header.len().saturating_sub(begin);
            let record = Record { name, method, encrypted: false, header: 0, begin, len };
            if method == 0 || method == 8 {
                self.record(header, &record, place, depth);
            }
        }
        self.fail(
            Error::limit(format!("more than {} records that are not in the zip's directory", limits::SCAN_STACKED)),
            place,
        );
    }
}

/// The first bytes of pickles that call something.
fn looks_like_pickle(head: &[u8]) -> bool {
    head.first().is_some_and(|first| matches!(first, 0x80 | b'(' | b'c' | b'}' | b']' | b'i'))
}

/// Where the directory begins: by the last end record that leads to one. A comment may look like an end record.
fn directory(bytes: &[u8]) -> Option<usize> {
    let reach = bytes.len().saturating_sub(END_REACH);
    let mut tail = bytes.get(reach..)?;
    loop {
        let at = rfind(tail, END)?;
        if let Some(found) = directory_of(bytes, reach + at) {
            return Some(found);
        }
        tail = tail.get(..at)?;
    }
}

/// Where the directory of the end record at `end` begins.
fn directory_of(bytes: &[u8], end: usize) -> Option<usize> {
    let record = bytes.get(end..)?;
    let (size, offset) = (u32_at(record, 12)? as usize, u32_at(record, 16)? as usize);
    let locator = end.checked_sub(20).and_then(|at| bytes.get(at..)).filter(|at| at.starts_with(b"PK\x06\x07"));
    let big = locator.and_then(|locator| usize::try_from(u64_at(locator, 8)?).ok());
    if let Some(big) = big.and_then(|at| bytes.get(at..)).filter(|record| record.starts_with(END_64))
        && let Some(offset) = u64_at(big, 48).and_then(|offset| usize::try_from(offset).ok())
        && bytes.get(offset..).is_some_and(|rest| rest.starts_with(CENTRAL))
    {
        return Some(offset);
    }
    // By its offset, or, where something was put before the zip, by its size.
    let is_there = |at: &usize| bytes.get(*at..).is_some_and(|rest| rest.starts_with(CENTRAL));
    Some(offset).filter(is_there).or_else(|| end.checked_sub(size).filter(is_there))
}

/// The records that the directory lists, at most `most`.
fn records(bytes: &[u8], directory: usize, most: usize) -> Result<Vec<Record>> {
    let most = most.min(limits::ZIP_ENTRIES);
    let mut records = Vec::new();
    let mut rest = bytes.get(directory..).unwrap_or_default();
    let mut shift = None;
    while rest.starts_with(CENTRAL) {
        if records.len() == most {
            return Err(Error::limit(format!("more than {most} records in the zip")));
        }
        let (mut record, len) = entry(rest).ok_or_else(|| Error::malformed("the zip's directory was cut short"))?;
        // Bytes before the zip move everything; the first record shows by how much.
        let is_header = |at: usize| bytes.get(at..).is_some_and(|rest| rest.starts_with(LOCAL));
        let shift = *shift.get_or_insert_with(|| {
            if is_header(record.header) {
                0
            } else {
                find(bytes, LOCAL).map_or(0, |at| at.saturating_sub(record.header))
            }
        });
        record.header = record.header.saturating_add(shift);
        let header = bytes.get(record.header..).unwrap_or_default();
        let lengths = u16_at(header, 26).zip(u16_at(header, 28));
        let (name_len, extra_len) = lengths.unwrap_or_default();
        record.begin = record.header.saturating_add(LOCAL_LEN + usize::from(name_len) + usize::from(extra_len));
        records.push(record);
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(records)
}

/// The directory entry that `bytes` begin with, and its length.
fn entry(bytes: &[u8]) -> Option<(Record, usize)> {
    let (name_len, extra_len) = (usize::from(u16_at(bytes, 28)?), usize::from(u16_at(bytes, 30)?));
    let comment_len = usize::from(u16_at(bytes, 32)?);
    let name = bytes.get(CENTRAL_LEN..CENTRAL_LEN + name_len)?;
    let extra = bytes.get(CENTRAL_LEN + name_len..CENTRAL_LEN + name_len + extra_len)?;
    let narrow = [u32_at(bytes, 24)?, u32_at(bytes, 20)?, u32_at(bytes, 42)?];
    let mut wide = wide(extra).unwrap_or_default().chunks_exact(8);
    let mut value = |narrow: u32| match narrow {
        u32::MAX => wide.next().and_then(|bytes| u64_at(bytes, 0)).unwrap_or(u64::from(narrow)),
        _ => u64::from(narrow),
    };
    let [size, compressed, header] = narrow.map(&mut value);
    let method = u16_at(bytes, 10)?;
    // A stored record has one size; where two are given, a reader may take either.
    let len = if method == 0 { size.max(compressed) } else { compressed };
    let record = Record {
        name: String::from_utf8_lossy(name).into_owned(),
        method,
        encrypted: u16_at(bytes, 8)? & 1 != 0,
        header: usize::try_from(header).ok()?,
        begin: 0,
        len: usize::try_from(len).ok()?,
    };
    Some((record, CENTRAL_LEN + name_len + extra_len + comment_len))
}

/// The part of the extra field with the sizes that need 64 bits.
fn wide(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (id, len) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..)?;
        if id == 1 {
            return field.get(..len);
        }
        extra = field.get(len..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn find(bytes: &[u8], sign: &[u8]) -> Option<usize> {
    bytes.windows(sign.len()).position(|window| window == sign)
}

fn rfind(bytes: &[u8], sign: &[u8]) -> Option<usize> {
    bytes.windows(sign.len()).rposition(|window| window == sign)
}
