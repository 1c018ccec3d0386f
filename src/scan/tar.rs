//! The members of a tar file, in which PyTorch before 0.2 kept its pickles, and which later ones still load.

use super::{Scanner, way};
use crate::error::Error;
use crate::limits;

/// What headers and contents are multiples of.
const BLOCK: usize = 512;

/// Where a header has the member's name and the digits of its size.
const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;

impl Scanner {
    /// Looks through every member, as far as it begins with pickles.
    pub(super) fn tar(&mut self, bytes: &[u8], place: &str, depth: usize) {
        let mut rest = bytes;
        // The last blocks are zeros.
        while let Some((header, behind)) = rest.split_at_checked(BLOCK)
            && header.first().is_some_and(|&first| first != 0)
        {
            self.records += 1;
            if self.is_exhausted() {
                let found = format!("more than {} records in its archives", limits::SCAN_RECORDS);
                return self.fail(Error::limit(found), place);
            }
            let len = header.get(SIZE).and_then(octal).unwrap_or(usize::MAX).min(behind.len());
            let content = behind.get(..len).unwrap_or_default();
            let name = header.get(NAME).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
            // What PyTorch loads as a pickle, whatever it looks like.
            let is_pickle = matches!(name, b"pickle" | b"sys_info" | b"storages" | b"tensors");
            self.part(content, &way(place, &String::from_utf8_lossy(name)), is_pickle, depth + 1);
            rest = behind.get(len.next_multiple_of(BLOCK)..).unwrap_or_default();
        }
        let found = "a tar file; its members were looked through as far as they begin with pickles, \
                     what lies behind their first storages was not";
        self.fail(Error::unsupported(found), place);
    }
}

fn octal(field: &[u8]) -> Option<usize> {
    let digits = field.iter().copied().skip_while(|&byte| byte == b' ').take_while(u8::is_ascii_digit);
    usize::from_str_radix(&digits.map(char::from).collect::<String>(), 8).ok()
}
