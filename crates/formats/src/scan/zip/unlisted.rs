//! Records that the directory of a zip does not list. A reader that goes from header to header sees them.

use super::directory::{Directory, Record, find};
use super::role_of;
use crate::containers::zip::{DEFLATED, LocalHeader, STORED};
use crate::error::Error;
use crate::limits;
use crate::scan::scanner::Scanner;

/// Bytes between two records that may be a data descriptor of the first one.
const DESCRIPTOR: usize = 24;

/// Bytes of an unlisted record's name to show.
const SHOWN_NAME: usize = 100;

/// Bytes to search before the pages of the file are released.
const SEARCHED: usize = 8 << 20;

impl Scanner<'_> {
    /// Scans records that the directory does not list. A reader that goes from header to header sees them.
    pub(super) fn unlisted(
        &mut self,
        bytes: &[u8],
        records: &[Record],
        directory: Directory,
        place: &str,
        depth: usize,
    ) {
        let mut taken: Vec<_> =
            records.iter().map(|record| (record.header, record.begin.saturating_add(record.len))).collect();
        taken.push((directory.begin, directory.begin));
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
            let found = self.find_header(rest).and_then(|at| rest.split_at_checked(at));
            let Some((skipped, bytes)) = found else { return };
            self.records += 1;
            let Some(header) = LocalHeader::parse(bytes) else { return };
            let header_offset = rest_offset + skipped.len();
            let name = bytes.get(LocalHeader::LEN..).into_iter().flatten().copied();
            let name: Vec<u8> = name.take(usize::from(header.name_len).min(SHOWN_NAME)).collect();
            let name = format!("{} (at byte {header_offset}, not in the directory)", String::from_utf8_lossy(&name));
            // The sizes of an unlisted record are not trusted: the content may extend to the end of the gap.
            let (begin, len) = (header.content_offset(), bytes.len());
            let record = Record { name, method: header.method, is_encrypted: false, header: 0, begin, len, size: 0 };
            if matches!(header.method, STORED | DEFLATED) {
                self.record(bytes, &record, role_of(&record.name), place, depth);
            }
            let Some((_, behind)) = bytes.split_at_checked(LocalHeader::SIGNATURE.len()) else { return };
            rest = behind;
            rest_offset = header_offset + LocalHeader::SIGNATURE.len();
        }
        let found = format!("more than {} records that are missing from the zip's directory", limits::SCAN_STACKED);
        self.fail(Error::limit(found), place);
    }

    /// Returns the offset of the next local header. Keeps few pages of the file in memory.
    fn find_header(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut begin = 0;
        while let Some(rest) = bytes.get(begin..).filter(|rest| rest.len() >= LocalHeader::SIGNATURE.len()) {
            let window = rest.get(..SEARCHED + LocalHeader::SIGNATURE.len() - 1).unwrap_or(rest);
            self.touch(window.len());
            if let Some(at) = find(window, LocalHeader::SIGNATURE) {
                return Some(begin + at);
            }
            begin += SEARCHED;
        }
        None
    }
}
