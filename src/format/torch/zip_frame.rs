//! The zip around the tensors: stored records, each payload at a multiple of 64, laid out before anything is written.
//!
//! Written by hand because the offsets have to be known first and the payloads are written by several threads; read
//! by the `zip` crate. Field order and widths: PKWARE APPNOTE 4.3 and 4.5.3.

/// Payloads begin at multiples of this, as torch aligns them; a memory map then has aligned tensors.
const ALIGNMENT: u64 = 64;

/// The extra field torch pads with: "FB".
const PADDING_ID: u16 = 0x4246;

/// The extra field of 64-bit sizes.
const ZIP64_ID: u16 = 0x0001;

/// A 32-bit field that says "look into the 64-bit one".
const IN_ZIP64: u64 = 0xffff_ffff;

/// 1 January 1980, the earliest date a zip can say. No clock is asked.
const DATE: u16 = 0x0021;

/// One record of the archive.
struct Entry {
    name: String,
    /// Of its local header.
    offset: u64,
    /// Bytes of padding in its local header's extra field.
    padding: u16,
    len: u64,
}

/// Where everything in the archive goes.
#[derive(Default)]
pub(super) struct ZipFrame {
    entries: Vec<Entry>,
    end: u64,
}

impl ZipFrame {
    /// Places the next record; returns the offset of its payload of `len` bytes.
    pub(super) fn place(&mut self, name: String, len: u64) -> u64 {
        let mut entry = Entry { name, offset: self.end, padding: 0, len };
        let unpadded = entry.payload_offset();
        entry.padding = (unpadded.next_multiple_of(ALIGNMENT) - unpadded) as u16;
        let payload = entry.payload_offset();
        self.end = payload + len;
        self.entries.push(entry);
        payload
    }

    /// Bytes of the finished archive.
    pub(super) fn bytes(&self) -> u64 {
        self.end + self.directory(&[]).len() as u64
    }

    /// All headers, with their offsets, for records of these checksums.
    pub(super) fn seal(&self, crc32s: &[u32]) -> Vec<(u64, Vec<u8>)> {
        let headers = self.entries.iter().zip(crc32s).map(|(entry, &crc32)| (entry.offset, entry.local_header(crc32)));
        headers.chain([(self.end, self.directory(crc32s))]).collect()
    }

    /// The central directory and the end records.
    fn directory(&self, crc32s: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        let crc32s = crc32s.iter().copied().chain(std::iter::repeat(0));
        for (entry, crc32) in self.entries.iter().zip(crc32s) {
            entry.central_header(crc32, &mut out);
        }
        let (count, len) = (self.entries.len() as u64, out.len() as u64);
        if count >= 0xffff || self.end >= IN_ZIP64 || len >= IN_ZIP64 {
            let start = self.end + len;
            out.extend(0x0606_4b50_u32.to_le_bytes());
            out.extend(44_u64.to_le_bytes()); // bytes of the rest of this record
            out.extend([45, 0, 45, 0]); // made by and needed: version 4.5
            out.extend([0; 8]); // this disk, the directory's disk
            for value in [count, count, len, self.end] {
                out.extend(value.to_le_bytes());
            }
            out.extend(0x0706_4b50_u32.to_le_bytes());
            out.extend([0; 4]); // the disk of the record above
            out.extend(start.to_le_bytes());
            out.extend(1_u32.to_le_bytes()); // disks
        }
        out.extend(0x0605_4b50_u32.to_le_bytes());
        out.extend([0; 4]); // this disk, the directory's disk
        let count = (count.min(0xffff) as u16).to_le_bytes();
        out.extend(count);
        out.extend(count);
        out.extend(word(len));
        out.extend(word(self.end));
        out.extend([0; 2]); // no comment
        out
    }
}

impl Entry {
    fn is_large(&self) -> bool {
        self.len >= IN_ZIP64
    }

    fn payload_offset(&self) -> u64 {
        let zip64 = if self.is_large() { 20 } else { 0 };
        self.offset + 30 + self.name.len() as u64 + zip64 + 4 + u64::from(self.padding)
    }

    fn local_header(&self, crc32: u32) -> Vec<u8> {
        let mut extra = Vec::new();
        if self.is_large() {
            extra.extend(ZIP64_ID.to_le_bytes());
            extra.extend(16_u16.to_le_bytes());
            extra.extend(self.len.to_le_bytes());
            extra.extend(self.len.to_le_bytes());
        }
        extra.extend(PADDING_ID.to_le_bytes());
        extra.extend(self.padding.to_le_bytes());
        extra.resize(extra.len() + usize::from(self.padding), b'Z');
        let mut out = Vec::new();
        out.extend(0x0403_4b50_u32.to_le_bytes());
        self.shared_fields(self.is_large(), crc32, &mut out);
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((extra.len() as u16).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }

    fn central_header(&self, crc32: u32, out: &mut Vec<u8>) {
        let mut large = Vec::new();
        if self.is_large() {
            large.extend(self.len.to_le_bytes());
            large.extend(self.len.to_le_bytes());
        }
        if self.offset >= IN_ZIP64 {
            large.extend(self.offset.to_le_bytes());
        }
        let mut extra = Vec::new();
        if !large.is_empty() {
            extra.extend(ZIP64_ID.to_le_bytes());
            extra.extend((large.len() as u16).to_le_bytes());
            extra.extend(large);
        }
        out.extend(0x0201_4b50_u32.to_le_bytes());
        out.extend([45, 0]); // made by: version 4.5
        self.shared_fields(!extra.is_empty(), crc32, out);
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((extra.len() as u16).to_le_bytes());
        out.extend([0; 10]); // no comment, disk 0, no attributes
        out.extend(word(self.offset));
        out.extend(self.name.as_bytes());
        out.extend(extra);
    }

    /// What both headers hold alike: version needed, flags, method, time, date, checksum, sizes.
    fn shared_fields(&self, needs_zip64: bool, crc32: u32, out: &mut Vec<u8>) {
        out.extend([if needs_zip64 { 45 } else { 20 }, 0]);
        out.extend([0; 6]); // no flags, stored, midnight
        out.extend(DATE.to_le_bytes());
        out.extend(crc32.to_le_bytes());
        out.extend(word(self.len));
        out.extend(word(self.len));
    }
}

/// A number as a 32-bit field, which refers to the 64-bit one where it does not fit.
fn word(value: u64) -> [u8; 4] {
    (value.min(IN_ZIP64) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read};

    #[test]
    fn the_zip_crate_reads_what_is_laid_out() {
        let records = [("archive/data.pkl", &b"pickle"[..]), ("archive/data/0", b""), ("archive/version", b"3\n")];
        let mut frame = ZipFrame::default();
        let offsets: Vec<u64> =
            records.iter().map(|(name, content)| frame.place((*name).into(), content.len() as u64)).collect();
        assert!(offsets.iter().all(|offset| offset % ALIGNMENT == 0));
        let crc32s: Vec<u32> = records.iter().map(|(_, content)| crc32fast::hash(content)).collect();
        let mut file = vec![0; frame.bytes() as usize];
        let mut put = |offset: u64, bytes: &[u8]| file[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        for (offset, bytes) in frame.seal(&crc32s) {
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
    fn sizes_and_offsets_past_four_gigabytes_go_into_the_64_bit_fields() {
        let mut frame = ZipFrame::default();
        let large = 5 << 30;
        frame.place("archive/data/0".into(), large);
        let second = frame.place("archive/data/1".into(), 4);
        let mut zip = ZipSkeleton { headers: frame.seal(&[1, 2]), len: frame.bytes(), position: 0 };
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
