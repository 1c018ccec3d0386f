//! Members of tar files. PyTorch before 0.2 saved its pickles in them, and later versions still load them.

use std::ffi::CStr;
use std::path::Path;

use super::names::is_named_like_a_pickle;
use super::role::Role;
use super::scanner::{Scanner, nested_place};
use crate::error::Error;
use crate::limits;

/// Bytes of a header. Contents are padded to a multiple of it.
const BLOCK: usize = 512;

/// Kinds of members that describe the next member. Their content may override its name and size.
const EXTENDED: &[u8] = b"xgXLK";

/// The fields of a member's header that a scan needs.
struct Header<'a> {
    name: &'a [u8],
    /// Bytes of the content; `None` if the field is not an octal number.
    size: Option<usize>,
    kind: u8,
}

impl<'a> Header<'a> {
    fn parse(block: &'a [u8; BLOCK]) -> Self {
        Header { name: until_nul(&block[..100]), size: octal(&block[124..136]), kind: block[156] }
    }
}

impl Scanner<'_> {
    /// Scans every member as a file.
    pub(super) fn tar(&mut self, bytes: &[u8], place: &str, depth: usize) {
        let mut rest = bytes;
        // Blocks of zeros mark the end. A name may be empty: an extended header can override it.
        while let Some((block, behind)) = rest.split_first_chunk()
            && *block != [0; BLOCK]
        {
            self.records += 1;
            if self.is_exhausted() {
                let found = format!("more than {} records in its archives", limits::SCAN_RECORDS);
                return self.fail(Error::limit(found), place);
            }
            let header = Header::parse(block);
            let name = String::from_utf8_lossy(header.name);
            // A member with a missing or too large size extends to the end of the file.
            let within = header.size.and_then(|size| behind.split_at_checked(size));
            let (content, _) = within.unwrap_or((behind, &[]));
            // Sparse files have a map of their parts in place of their first bytes.
            let is_size = |field: &&[u8]| find(content, field).is_some();
            let overrides = EXTENDED.contains(&header.kind) && [&b" size="[..], b"GNU.sparse."].iter().any(is_size);
            if within.is_none() || overrides || header.kind == b'S' {
                let found = format!("the size of the tar's member {name:?} cannot be determined, or exceeds the file");
                self.fail(Error::unsupported(found), place);
            }
            // PyTorch loads these as pickles, whatever they look like.
            let is_torch = matches!(header.name, b"pickle" | b"sys_info" | b"storages" | b"tensors");
            let is_named = is_named_like_a_pickle(Path::new(&*name));
            let role = if is_torch { Role::Loaded } else { Role::File { is_named } };
            self.touch(BLOCK);
            self.file(content, &nested_place(place, &name), role, depth + 1);
            if matches!(header.name, b"storages" | b"tensors") {
                let found = "a tar file of PyTorch before 0.2 cannot be scanned completely; each member was scanned as far \
                             as it begins with pickles, but not behind its first storages";
                self.fail(Error::unsupported(found), place);
            }
            // The padding of the last member may be missing.
            rest = behind.get(content.len().next_multiple_of(BLOCK)..).unwrap_or(&[]);
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

fn until_nul(field: &[u8]) -> &[u8] {
    CStr::from_bytes_until_nul(field).map_or(field, CStr::to_bytes)
}

/// Reads an octal number. Rejects underscores and prefixes, which only Python accepts.
fn octal(field: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' '), 8).ok()
}
