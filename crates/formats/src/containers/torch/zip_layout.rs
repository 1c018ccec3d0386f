//! The layout of a torch zip: stored records with aligned payloads, all offsets known before anything is written.
//!
//! The `zip` crate reads archives but does not write these: the offsets must be known first, and several threads write
//! the payloads.

use crate::containers::zip::{
    COUNT_IN_ZIP64, CentralHeader, EARLIEST_DATE, EXTRA_HEADER_LEN, EXTRA_PADDING, EXTRA_ZIP64, EndOfDirectory,
    IN_ZIP64, LocalHeader, STORED, VERSION_PLAIN, VERSION_ZIP64, Zip64EndOfDirectory, Zip64Locator, narrow,
};
use crate::error::{Error, Result};

/// Alignment of payloads in bytes, the same as torch uses; tensors of a memory-mapped file are then aligned too.
const ALIGNMENT: u64 = 64;

/// Bytes of the zip64 extra field in a local header: its own header and two sizes.
const LOCAL_ZIP64_LEN: u64 = 20;

/// One record of the archive.
struct Entry {
    name: String,
    /// Offset of the local header.
    offset: u64,
    /// Bytes of padding in the local header's extra field.
    padding: u16,
    /// Bytes of the payload.
    len: u64,
}

/// The offsets of all headers and payloads of an archive.
#[derive(Default)]
pub(super) struct ZipLayout {
    entries: Vec<Entry>,
    end: u64,
}

impl ZipLayout {
    /// Adds a record and returns the offset of its payload of `len` bytes.
    ///
    /// The caller bounds the sum of all lengths by half of [`limits::FILE_BYTES`](crate::limits::FILE_BYTES): the headers of
    /// at most 75,000 records do not fill the other half.
    pub(super) fn place(&mut self, name: String, len: u64) -> u64 {
        let mut entry = Entry { name, offset: self.end, padding: 0, len };
        let unpadded = entry.payload_offset();
        entry.padding = (unpadded.next_multiple_of(ALIGNMENT) - unpadded) as u16;
        let payload = entry.payload_offset();
        self.end = payload + len;
        self.entries.push(entry);
        payload
    }

    /// Size of the finished archive in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.end + self.directory(&vec![0; self.entries.len()]).len() as u64
    }

    /// Returns all headers with their offsets. `crc32s` holds the checksum of each record, in the order of placing.
    pub(super) fn headers(&self, crc32s: &[u32]) -> Result<Vec<(u64, Vec<u8>)>> {
        if crc32s.len() != self.entries.len() {
            let found = format!("{} checksums for {} zip records", crc32s.len(), self.entries.len());
            return Err(Error::internal(found));
        }
        let headers = self.entries.iter().zip(crc32s).map(|(entry, &crc32)| (entry.offset, entry.local_header(crc32)));
        Ok(headers.chain([(self.end, self.directory(crc32s))]).collect())
    }

    /// Returns the central directory and the end records.
    fn directory(&self, crc32s: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for (entry, &crc32) in self.entries.iter().zip(crc32s) {
            entry.write_central_header(crc32, &mut out);
        }
        let (entries, directory_len) = (self.entries.len() as u64, out.len() as u64);
        let narrow_entries = u16::try_from(entries).unwrap_or(COUNT_IN_ZIP64);
        if narrow_entries == COUNT_IN_ZIP64 || narrow(self.end) == IN_ZIP64 || narrow(directory_len) == IN_ZIP64 {
            let end_offset = self.end + directory_len;
            Zip64EndOfDirectory {
                record_len: Zip64EndOfDirectory::RECORD_LEN,
                version_made_by: VERSION_ZIP64,
                version_needed: VERSION_ZIP64,
                disk: 0,
                directory_disk: 0,
                entries_on_disk: entries,
                entries,
                directory_len,
                directory_offset: self.end,
            }
            .write(&mut out);
            Zip64Locator { end_disk: 0, end_offset, disks: 1 }.write(&mut out);
        }
        EndOfDirectory {
            disk: 0,
            directory_disk: 0,
            entries_on_disk: narrow_entries,
            entries: narrow_entries,
            directory_len: narrow(directory_len),
            directory_offset: narrow(self.end),
            comment_len: 0,
        }
        .write(&mut out);
        out
    }
}

impl Entry {
    /// Whether the size goes into the zip64 extra field.
    fn is_large(&self) -> bool {
        narrow(self.len) == IN_ZIP64
    }

    fn payload_offset(&self) -> u64 {
        let zip64 = if self.is_large() { LOCAL_ZIP64_LEN } else { 0 };
        let fixed = (LocalHeader::LEN + self.name.len() + EXTRA_HEADER_LEN) as u64;
        self.offset + fixed + zip64 + u64::from(self.padding)
    }

    fn local_header(&self, crc32: u32) -> Vec<u8> {
        let mut extra = Vec::new();
        if self.is_large() {
            write_zip64_values(&[self.len, self.len], &mut extra);
        }
        extra.extend(EXTRA_PADDING.to_le_bytes());
        extra.extend(self.padding.to_le_bytes());
        extra.resize(extra.len() + usize::from(self.padding), b'Z');
        let mut out = Vec::new();
        LocalHeader {
            version_needed: version_needed(self.is_large()),
            flags: 0,
            method: STORED,
            time: 0,
            date: EARLIEST_DATE,
            crc32,
            compressed_size: narrow(self.len),
            size: narrow(self.len),
            name_len: self.name.len() as u16,
            extra_len: extra.len() as u16,
        }
        .write(&mut out);
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }

    fn write_central_header(&self, crc32: u32, out: &mut Vec<u8>) {
        let mut values = Vec::new();
        if self.is_large() {
            values.extend([self.len, self.len]);
        }
        if narrow(self.offset) == IN_ZIP64 {
            values.push(self.offset);
        }
        let mut extra = Vec::new();
        if !values.is_empty() {
            write_zip64_values(&values, &mut extra);
        }
        CentralHeader {
            version_made_by: VERSION_ZIP64,
            version_needed: version_needed(!extra.is_empty()),
            flags: 0,
            method: STORED,
            time: 0,
            // A fixed date keeps the output the same for the same input.
            date: EARLIEST_DATE,
            crc32,
            compressed_size: narrow(self.len),
            size: narrow(self.len),
            name_len: self.name.len() as u16,
            extra_len: extra.len() as u16,
            comment_len: 0,
            disk: 0,
            internal_attributes: 0,
            external_attributes: 0,
            header_offset: narrow(self.offset),
        }
        .write(out);
        out.extend(self.name.as_bytes());
        out.extend(extra);
    }
}

/// Appends a zip64 extra field with these sizes and offsets.
fn write_zip64_values(values: &[u64], extra: &mut Vec<u8>) {
    extra.extend(EXTRA_ZIP64.to_le_bytes());
    extra.extend((size_of_val(values) as u16).to_le_bytes());
    extra.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn version_needed(uses_zip64: bool) -> u16 {
    if uses_zip64 { VERSION_ZIP64 } else { VERSION_PLAIN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read};

    use crate::error::Kind;

    #[test]
    fn the_zip_crate_reads_the_layout() {
        let records = [("archive/data.pkl", &b"pickle"[..]), ("archive/data/0", b""), ("archive/version", b"3\n")];
        let mut layout = ZipLayout::default();
        let offsets: Vec<u64> =
            records.iter().map(|(name, content)| layout.place((*name).into(), content.len() as u64)).collect();
        assert!(offsets.iter().all(|offset| offset % ALIGNMENT == 0));
        let crc32s: Vec<u32> = records.iter().map(|(_, content)| crc32fast::hash(content)).collect();
        let mut file = vec![0; layout.bytes() as usize];
        let mut put = |offset: u64, bytes: &[u8]| file[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        for (offset, bytes) in layout.headers(&crc32s).unwrap() {
            put(offset, &bytes);
        }
        for (offset, (_, content)) in offsets.iter().zip(records) {
            put(*offset, content);
        }
        let mut zip = zip::ZipArchive::new(Cursor::new(file)).unwrap();
        zip.validate_header_consistency().unwrap();
        for (index, (name, content)) in records.iter().enumerate() {
            let mut entry = zip.by_index(index).unwrap();
            assert_eq!(entry.name().unwrap(), *name);
            let mut found = Vec::new();
            entry.read_to_end(&mut found).unwrap();
            assert_eq!(found, *content);
        }
    }

    #[test]
    fn headers_need_a_checksum_for_each_record() {
        let mut layout = ZipLayout::default();
        layout.place("archive/version".into(), 2);
        assert!(layout.headers(&[1]).is_ok());
        for crc32s in [&[][..], &[1, 2]] {
            assert_eq!(layout.headers(crc32s).unwrap_err().kind(), Kind::Internal);
        }
    }

    #[test]
    fn writes_sizes_and_offsets_above_4_gib_as_zip64() {
        let mut layout = ZipLayout::default();
        let large = 5 << 30;
        layout.place("archive/data/0".into(), large);
        let second = layout.place("archive/data/1".into(), 4);
        let mut zip = ZipSkeleton { headers: layout.headers(&[1, 2]).unwrap(), len: layout.bytes(), position: 0 };
        let mut archive = zip::ZipArchive::new(&mut zip).unwrap();
        assert_eq!(archive.by_index_raw(0).unwrap().size(), large);
        assert_eq!(archive.by_index_raw(1).unwrap().data_start(), Some(second));
        assert_eq!(archive.by_index_raw(1).unwrap().crc32(), 2);
    }

    /// The headers of an archive too large to hold, with zeros between them.
    struct ZipSkeleton {
        headers: Vec<(u64, Vec<u8>)>,
        len: u64,
        position: u64,
    }

    impl Read for &mut ZipSkeleton {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let count = out.len().min((self.len - self.position.min(self.len)) as usize);
            for (index, byte) in out[..count].iter_mut().enumerate() {
                let at = self.position + index as u64;
                let header =
                    self.headers.iter().find(|(offset, bytes)| (*offset..*offset + bytes.len() as u64).contains(&at));
                *byte = header.map_or(0, |(offset, bytes)| bytes[(at - offset) as usize]);
            }
            self.position += count as u64;
            Ok(count)
        }
    }

    impl std::io::Seek for &mut ZipSkeleton {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.position = match to {
                std::io::SeekFrom::Start(offset) => offset,
                std::io::SeekFrom::End(delta) => self.len.checked_add_signed(delta).unwrap(),
                std::io::SeekFrom::Current(delta) => self.position.checked_add_signed(delta).unwrap(),
            };
            Ok(self.position)
        }
    }
}
