//! Decompresses as much as a scan needs. Bounds memory and time.

use std::io::{ErrorKind, Read};

use super::content::{Archive, recognize_archive};
use super::numpy::{Elements, NumpyFile};
use super::role::Role;
use super::scanned_format::ScannedFormat;
use super::scanner::{Scanner, nested_place};
use super::streams::Streams;
use crate::error::Error;
use crate::limits;
use crate::pickle::parse_lenient;

/// Bytes that are decompressed first.
const HEAD: u64 = 4096;

/// How much longer each next attempt is.
const GROWTH: u64 = 8;

impl Scanner<'_> {
    /// Decompresses the start of a stream, and continues as long as it may be a pickle or an archive. Damaged data is
    /// returned up to the damage: Python reads in blocks and runs what comes before it.
    pub(super) fn inflate(&mut self, mut stream: impl Read, role: Role, place: &str) -> Vec<u8> {
        let mut content = Vec::new();
        let mut target = HEAD;
        loop {
            let missing = target - content.len() as u64;
            let error = stream.by_ref().take(missing).read_to_end(&mut content).err();
            if error.as_ref().is_some_and(|error| error.kind() == ErrorKind::FileTooLarge) {
                let found = format!("more than {} compressed streams in succession", limits::SCAN_STREAMS);
                self.fail(Error::limit(found), place);
            }
            let is_damaged = error.is_some();
            if is_damaged || (content.len() as u64) < target || !may_continue(&content, role) {
                break;
            }
            let spent = *self.spent(role) + content.len() as u64;
            if target > limits::PICKLE_BYTES || spent > limits::SCAN_BYTES {
                // Data that could still be a pickle is not one that anything loads.
                if role != Role::Data {
                    let most = limits::PICKLE_BYTES;
                    let found = format!("it inflates to more than the limit of {most} bytes; the rest was not scanned");
                    self.fail(Error::limit(found), place);
                }
                break;
            }
            target = (target * GROWTH).min(limits::PICKLE_BYTES + 1);
        }
        *self.spent(role) += content.len() as u64;
        if self.inflated > limits::SCAN_BYTES {
            let most = limits::SCAN_BYTES;
            let found = format!("the file inflates to more than the limit of {most} bytes; the rest was not scanned");
            self.fail(Error::limit(found), place);
        }
        content
    }

    /// The bytes that were inflated of storages, or of anything else.
    fn spent(&mut self, role: Role) -> &mut u64 {
        if role == Role::Data { &mut self.inflated_data } else { &mut self.inflated }
    }

    /// Scans the content of a gzip or zlib stream, which joblib decompresses before it unpickles. Returns false if
    /// nothing can be decompressed.
    pub(super) fn compressed(
        &mut self,
        format: ScannedFormat,
        bytes: &[u8],
        place: &str,
        role: Role,
        depth: usize,
    ) -> bool {
        let within = nested_place(place, format.name());
        let content = match format {
            ScannedFormat::Gzip => self.inflate(Streams::gzip(bytes), role, &within),
            _ => self.inflate(Streams::zlib(bytes), role, &within),
        };
        if content.is_empty() {
            return false;
        }
        self.file(&content, &within, role, depth + 1);
        true
    }
}

/// Whether more bytes than these could matter to a scan.
fn may_continue(content: &[u8], role: Role) -> bool {
    if role == Role::Data {
        return pickles_continue(content);
    }
    match recognize_archive(content) {
        Some(Archive::Zip | Archive::Tar) => true,
        Some(Archive::Numpy) => NumpyFile::parse(content).is_none_or(|file| match file.elements {
            Elements::Objects | Elements::Unclear => pickles_continue(file.content),
            Elements::Plain(len) => len <= file.content.len(),
        }),
        None => pickles_continue(content),
    }
}

/// Whether pickles that begin here may continue behind the end of the bytes.
fn pickles_continue(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    for _ in 0..limits::SCAN_STACKED {
        if rest.is_empty() {
            return true;
        }
        let parsed = parse_lenient(rest);
        if parsed.is_cut_short || !parsed.is_complete {
            return parsed.is_cut_short;
        }
        rest = rest.get(parsed.pickle.bytes().len()..).unwrap_or_default();
    }
    true
}
