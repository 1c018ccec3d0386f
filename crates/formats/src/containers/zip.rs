//! The records of the zip format with named fields, read and written. Covers single records, not archives, and checks
//! only signatures.
//!
//! Field names, widths and order follow PKWARE's [APPNOTE], sections 4.3 (records) and 4.5 (extra fields). Numbers are
//! little-endian.
//!
//! [APPNOTE]: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT

use std::io::{self, Read};

/// Compression method of a stored record.
pub(crate) const STORED: u16 = 0;

/// Compression method of a deflated record.
pub(crate) const DEFLATED: u16 = 8;

/// Flag of an encrypted record.
pub(crate) const FLAG_ENCRYPTED: u16 = 1;

/// Version 2.0 of the format, which reads plain records.
pub(crate) const VERSION_PLAIN: u16 = 20;

/// Version 4.5 of the format, which reads zip64 records.
pub(crate) const VERSION_ZIP64: u16 = 45;

/// 1 January 1980 in MS-DOS format, the earliest date a zip can express.
pub(crate) const EARLIEST_DATE: u16 = 0x0021;

/// Identifier of the extra field with 64-bit sizes and offsets.
pub(crate) const EXTRA_ZIP64: u16 = 0x0001;

/// Identifier of the extra field that torch pads local headers with, "FB".
pub(crate) const EXTRA_PADDING: u16 = 0x4246;

/// Bytes of an extra field's identifier and length.
pub(crate) const EXTRA_HEADER_LEN: usize = 4;

/// Value of a 32-bit field whose real value is in the zip64 record or extra field.
pub(crate) const IN_ZIP64: u32 = u32::MAX;

/// Value of a 16-bit field whose real value is in the zip64 record.
pub(crate) const COUNT_IN_ZIP64: u16 = u16::MAX;

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident $signature:literal { $($(#[$field_doc:meta])* $field:ident: $int:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) struct $name { $($(#[$field_doc])* pub(crate) $field: $int,)* }

        impl $name {
            /// The four bytes that the record begins with.
            pub(crate) const SIGNATURE: &[u8; 4] = $signature;

            /// Bytes of the record: the signature and the fields of fixed width.
            pub(crate) const LEN: usize = Self::SIGNATURE.len() $(+ size_of::<$int>())*;

            /// Reads the record at the start of `bytes`. Returns `None` if the signature differs or bytes are missing.
            pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
                Self::read_fields(&mut bytes.strip_prefix(Self::SIGNATURE)?).ok()
            }

            /// Reads the fields behind the signature.
            pub(crate) fn read_fields(reader: &mut impl Read) -> io::Result<Self> {
                Ok(Self {
                    $($field: {
                        let mut bytes = [0; size_of::<$int>()];
                        reader.read_exact(&mut bytes)?;
                        <$int>::from_le_bytes(bytes)
                    },)*
                })
            }

            /// Appends the record to `out`.
            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                out.extend(Self::SIGNATURE);
                $(out.extend(self.$field.to_le_bytes());)*
            }
        }
    )*};
}

records! {
    /// Precedes the content of each file (4.3.7). The file's name and its extra fields follow.
    LocalHeader b"PK\x03\x04" {
        version_needed: u16,
        flags: u16,
        method: u16,
        time: u16,
        date: u16,
        crc32: u32,
        compressed_size: u32,
        size: u32,
        name_len: u16,
        extra_len: u16,
    }

    /// Entry of the central directory (4.3.12). The file's name, its extra fields and its comment follow.
    CentralHeader b"PK\x01\x02" {
        version_made_by: u16,
        version_needed: u16,
        flags: u16,
        method: u16,
        time: u16,
        date: u16,
        crc32: u32,
        compressed_size: u32,
        size: u32,
        name_len: u16,
        extra_len: u16,
        comment_len: u16,
        disk: u16,
        internal_attributes: u16,
        external_attributes: u32,
        header_offset: u32,
    }

    /// Zip64 end of central directory record (4.3.14).
    Zip64EndOfDirectory b"PK\x06\x06" {
        /// Bytes of this record behind this field.
        record_len: u64,
        version_made_by: u16,
        version_needed: u16,
        disk: u32,
        directory_disk: u32,
        entries_on_disk: u64,
        entries: u64,
        directory_len: u64,
        directory_offset: u64,
    }

    /// Zip64 end of central directory locator (4.3.15). Directly precedes the end of central directory record.
    Zip64Locator b"PK\x06\x07" {
        end_disk: u32,
        end_offset: u64,
        disks: u32,
    }

    /// End of central directory record (4.3.16). A comment follows.
    EndOfDirectory b"PK\x05\x06" {
        disk: u16,
        directory_disk: u16,
        entries_on_disk: u16,
        entries: u16,
        directory_len: u32,
        directory_offset: u32,
        comment_len: u16,
    }
}

impl LocalHeader {
    /// Bytes from the start of the header to the file's content.
    pub(crate) fn content_offset(&self) -> usize {
        Self::LEN + usize::from(self.name_len) + usize::from(self.extra_len)
    }
}

impl CentralHeader {
    /// Bytes of the name, the extra fields and the comment, which follow the record.
    pub(crate) fn variable_len(&self) -> usize {
        usize::from(self.name_len) + usize::from(self.extra_len) + usize::from(self.comment_len)
    }
}

impl Zip64EndOfDirectory {
    /// What `record_len` counts in a record without extensions: all but the signature and the field itself.
    pub(crate) const RECORD_LEN: u64 = (Self::LEN - Self::SIGNATURE.len() - size_of::<u64>()) as u64;
}

/// Returns the content of the first extra field with this identifier. Fields that are cut short end the search.
pub(crate) fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (id, rest) = extra.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (content, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        if u16::from_le_bytes(*id) == wanted {
            return Some(content);
        }
        extra = rest;
    }
}

/// Returns a value as a 32-bit field: itself, or [`IN_ZIP64`] if it does not fit.
pub(crate) fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(IN_ZIP64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_lengths_of_the_specification() {
        let lengths =
            [LocalHeader::LEN, CentralHeader::LEN, Zip64EndOfDirectory::LEN, Zip64Locator::LEN, EndOfDirectory::LEN];
        assert_eq!(lengths, [30, 46, 56, 20, 22]);
        assert_eq!(Zip64EndOfDirectory::RECORD_LEN, 44);
    }

    #[test]
    fn a_written_record_reads_back() {
        let header = CentralHeader { method: DEFLATED, size: 7, name_len: 3, header_offset: 9, ..Default::default() };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        assert_eq!(CentralHeader::parse(&bytes), Some(header));
        assert_eq!(CentralHeader::parse(&bytes[..45]), None);
        assert_eq!(LocalHeader::parse(&bytes), None);
    }

    #[test]
    fn finds_an_extra_field_behind_others() {
        let extra = b"FB\x02\0ZZ\x01\0\x03\0abc";
        assert_eq!(extra_field(extra, EXTRA_ZIP64), Some(&b"abc"[..]));
        assert_eq!(extra_field(extra, 7), None);
        assert_eq!(extra_field(&extra[..12], EXTRA_ZIP64), None);
    }
}
