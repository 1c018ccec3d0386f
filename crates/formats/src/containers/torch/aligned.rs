//! Where the contents of records begin, without reading their local headers.
//!
//! The local headers of a torch zip are scattered over gigabytes, and each would be a request to a server. The length of a
//! local header follows from the directory instead: PyTorch writes records one behind the other, each content at a
//! multiple of 64 bytes, and behind a content either nothing or a data descriptor of known length. Contents are used at
//! these places only if the directory has a checksum for each, which every reader of a storage compares.

use std::io::{Read, Seek};

use zip::{CompressionMethod, ZipArchive};

use crate::containers::zip::LocalHeader;

/// Bytes that PyTorch aligns contents to.
const ALIGNMENT: u64 = 64;

/// Lengths of what may follow a content: nothing, or a data descriptor with sizes of 32 or 64 bits, with or without its
/// signature.
const BEHIND: [u64; 5] = [0, 12, 16, 20, 24];

/// The most bytes of extra fields in a local header: sizes of 64 bits, and padding.
const MOST_EXTRA: u64 = 20 + 4 + ALIGNMENT;

/// Returns where the content of each record begins, in the order of the directory, which begins at `directory`. `None`
/// unless all follow from the alignment.
pub(super) fn aligned_contents<R: Read + Seek>(zip: &ZipArchive<R>, directory: u64) -> Option<Vec<u64>> {
    let mut starts = vec![directory];
    for index in 0..zip.len() {
        starts.push(zip.by_index_data(index).ok()?.header_start());
    }
    starts.sort_unstable();
    let contents = (0..zip.len()).map(|index| {
        let entry = zip.by_index_data(index).ok()?;
        let has_sum = entry.crc32() != 0 || entry.size() == 0;
        if !has_sum || entry.compression() != CompressionMethod::Stored {
            return None;
        }
        let header = entry.header_start();
        let next = *starts.get(starts.partition_point(|&start| start <= header))?;
        // The lengths differ by less than the alignment, so that one of them fits at most.
        let mut ends = BEHIND.iter().filter_map(|behind| next.checked_sub(*behind)?.checked_sub(entry.size()));
        let content = ends.find(|content| content.is_multiple_of(ALIGNMENT))?;
        let extra =
            content.checked_sub(header)?.checked_sub(LocalHeader::LEN as u64 + entry.name_raw().len() as u64)?;
        (extra <= MOST_EXTRA).then_some(content)
    });
    contents.collect()
}
