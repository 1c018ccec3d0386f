//! The directory of a zip, read without trusting it.

use crate::containers::zip::{
    CentralHeader, EXTRA_ZIP64, EndOfDirectory, FLAG_ENCRYPTED, IN_ZIP64, LocalHeader, STORED, Zip64EndOfDirectory,
    Zip64Locator, extra_field,
};
use crate::error::{Error, OrInternal, Result};
use crate::limits;
use memchr::memmem;

/// How far from the end of a file the end record may begin: a comment may follow it.
const END_REACH: usize = EndOfDirectory::LEN + u16::MAX as usize;

/// Where the directory of a zip is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    /// Offset of the first entry.
    pub(super) begin: usize,
    /// Offset behind the end record and its comment.
    pub(super) end: usize,
    /// Bytes before the zip that its offsets do not count.
    pub(super) shift: usize,
    /// Whether other readers may take another directory.
    pub(super) is_ambiguous: bool,
}

impl Directory {
    /// An empty directory at the end of the bytes, in place of one that cannot be read.
    pub(super) fn none(bytes: &[u8]) -> Self {
        Directory { begin: bytes.len(), end: bytes.len(), shift: 0, is_ambiguous: false }
    }
}

/// A record as its directory entry describes it, with the place of its content.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) method: u16,
    pub(super) is_encrypted: bool,
    /// Offset of the local header.
    pub(super) header: usize,
    /// Offset of the content.
    pub(super) begin: usize,
    /// Bytes of the content in the file.
    pub(super) len: usize,
    /// Bytes of the content after decompression, as declared.
    pub(super) size: u64,
}

/// Returns the place of the directory, from the last end record that points to one. A comment may contain bytes that
/// look like an end record.
pub(super) fn directory(bytes: &[u8]) -> Option<Directory> {
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

/// Returns the place of the directory that the end record at `end` points to.
fn directory_of(bytes: &[u8], end: usize) -> Option<Directory> {
    let (before, record) = bytes.split_at_checked(end)?;
    // The last field, the length of the comment, may be cut off: some readers accept that.
    let fields = record.get(..EndOfDirectory::LEN - size_of::<u16>())?;
    let end_record = EndOfDirectory::parse(&[fields, &[0; size_of::<u16>()]].concat())?;
    let locator_at = before.len().checked_sub(Zip64Locator::LEN);
    let locator = locator_at.and_then(|at| Zip64Locator::parse(before.get(at..)?));
    let wide = locator.and_then(|locator| Zip64EndOfDirectory::parse(from(bytes, locator.end_offset)?));
    // Python ignores the locator's offset, and reads the record directly before the locator.
    let wide_at = locator.and(locator_at).and_then(|at| at.checked_sub(Zip64EndOfDirectory::LEN));
    let near = wide_at.and_then(|at| Zip64EndOfDirectory::parse(before.get(at..)?));
    let declared = |wide: Option<Zip64EndOfDirectory>| match wide {
        Some(wide) => Some((usize::try_from(wide.directory_offset).ok()?, usize::try_from(wide.directory_len).ok()?)),
        None => Some((end_record.directory_offset as usize, end_record.directory_len as usize)),
    };
    // If other bytes precede the zip, its offsets are wrong and only the size leads to the directory.
    let mut found = [near, wide, None].into_iter().filter_map(declared).flat_map(|(offset, len)| {
        let before_end = |end: usize| end.checked_sub(len);
        [Some(offset), wide_at.and_then(before_end), before_end(end)].map(|begin| begin.map(|begin| (begin, offset)))
    });
    let is_directory = |begin: usize| starts_at(bytes, begin, CentralHeader::SIGNATURE);
    let (begin, offset) = found.find_map(|candidate| candidate.filter(|(begin, _)| is_directory(*begin)))?;
    // Some readers go to the offset, and Python to where the directory ends. Without its 64-bit record, Python takes the
    // 32-bit size.
    let narrow = end.checked_sub(end_record.directory_len as usize).filter(|_| near.is_none());
    let near_end = declared(near).filter(|_| near.is_some()).and_then(|(_, len)| wide_at?.checked_sub(len));
    let offsets = [near, wide, None].into_iter().filter_map(declared).map(|(offset, _)| offset);
    let is_ambiguous = offsets.chain(narrow).chain(near_end).any(|other| other != begin && is_directory(other));
    let comment = record.get(fields.len()..EndOfDirectory::LEN).and_then(|len| len.first_chunk());
    let comment = comment.map_or(0, |len| usize::from(u16::from_le_bytes(*len)));
    Some(Directory {
        begin,
        end: (end + EndOfDirectory::LEN).saturating_add(comment).min(bytes.len()),
        shift: begin.saturating_sub(offset),
        is_ambiguous,
    })
}

/// Reads the records that the directory lists. Fails if they are more than `most`.
pub(super) fn records(bytes: &[u8], directory: Directory, most: usize) -> Result<Vec<Record>> {
    let most = most.min(limits::ZIP_ENTRIES);
    let mut records = Vec::new();
    let mut rest = bytes.get(directory.begin..).or_internal("the zip's directory lies outside the file")?;
    while rest.starts_with(CentralHeader::SIGNATURE) {
        if records.len() >= most {
            return Err(Error::limit(format!("more than {most} records in the zip")));
        }
        let (record, len) = entry(rest).ok_or_else(|| Error::malformed("the zip's directory was cut short"))?;
        // Bytes before the zip shift all offsets for some readers, and for others not.
        let unshifted = record.clone().located(bytes, 0);
        let shifted = record.located(bytes, directory.shift);
        let is_twofold = directory.shift > 0 && starts_at(bytes, unshifted.header, LocalHeader::SIGNATURE);
        records.extend(is_twofold.then_some(unshifted));
        records.push(shifted);
        // A comment that is cut off ends the directory.
        rest = rest.get(len..).unwrap_or(&[]);
    }
    Ok(records)
}

impl Record {
    /// Sets the place of the content for a zip that this number of bytes precede.
    fn located(mut self, bytes: &[u8], shift: usize) -> Self {
        // An entry may declare any offset. One that overflows lies past the end of the file like any other large one.
        self.header = self.header.saturating_add(shift);
        // The signature is not checked: readers differ in that, too.
        let fields = bytes.get(self.header.saturating_add(LocalHeader::SIGNATURE.len())..);
        let header = fields.and_then(|mut fields| LocalHeader::read_fields(&mut fields).ok());
        // A header that is cut off by the end of the file has no content.
        let content_offset = header.map_or(LocalHeader::LEN, |header| header.content_offset());
        self.begin = self.header.saturating_add(content_offset);
        self
    }
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
        size,
    };
    Some((record, CentralHeader::LEN + header.variable_len()))
}

fn from(bytes: &[u8], offset: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..)
}

pub(super) fn starts_at(bytes: &[u8], offset: usize, signature: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(signature))
}

pub(super) fn find(bytes: &[u8], signature: &[u8]) -> Option<usize> {
    memmem::find(bytes, signature)
}

fn rfind(bytes: &[u8], signature: &[u8]) -> Option<usize> {
    memmem::rfind(bytes, signature)
}
