//! Files that fooled loaders or scanners, rebuilt around a harmless payload: `posix.system('true')`.
//!
//! They are assembled byte by byte because no writer produces such contradictions.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use trinart_ckpt_formats::pickle::Encoder;

use super::pickle_tensor;

/// The expected verdict of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Dangerous,
    Unknown,
    Safe,
    Unreadable,
}

/// A file and its expected verdict.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) verdict: Verdict,
}

pub(crate) fn case(name: &str, bytes: impl AsRef<[u8]>, verdict: Verdict) -> Case {
    Case { name: name.to_owned(), bytes: bytes.as_ref().to_vec(), verdict }
}

/// The payload as a complete pickle of protocol 2 whose value is None.
pub(crate) const PAYLOAD: &[u8] = b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R0N.";

/// The pickle of `{"weight": four floats in record 0}` with these opcodes before its STOP.
pub(crate) fn tensor_and(opcodes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let entry = |encoder: &mut Encoder, key: &str| {
        encoder.str(key)?;
        pickle_tensor(encoder, ("torch", "FloatStorage"), "0", 4);
        Ok(())
    };
    encoder.dict(["weight"].into_iter(), entry).unwrap();
    let mut bytes = encoder.finish();
    bytes.pop();
    [&bytes, opcodes, b"."].concat()
}

pub(crate) fn floats() -> Vec<u8> {
    [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat()
}

/// A legacy torch file (before 1.6): magic number, version, system, object, keys, storage.
pub(crate) fn legacy(system: &[u8], object: &[u8], keys: &[u8]) -> Vec<u8> {
    let begin = &b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."[..];
    [begin, system, object, keys, &4_u64.to_le_bytes(), &floats()].concat()
}

pub(crate) const SYSTEM: &[u8] = b"\x80\x02}q\x00X\x0d\x00\x00\x00little_endianq\x01\x88s.";
pub(crate) const KEYS: &[u8] = b"\x80\x02]q\x00X\x01\x00\x00\x000q\x01a.";

// --- Inconsistent zips ---------------------------------------------------------------------------------------------

/// A record of a zip and the fields of its local header and directory entry.
#[derive(Clone)]
pub(crate) struct Record {
    name: String,
    /// The name in the local header.
    local_name: String,
    content: Vec<u8>,
    stored: Vec<u8>,
    method: u16,
    crc32: u32,
    local_flags: u16,
    flags: u16,
    is_listed: bool,
    /// Values that replace the sizes in both headers and the offset in the directory.
    pub(crate) compressed: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) header: Option<u32>,
}

pub(crate) fn record(name: &str, content: &[u8]) -> Record {
    Record {
        name: name.to_owned(),
        local_name: name.to_owned(),
        content: content.to_vec(),
        stored: content.to_vec(),
        method: 0,
        crc32: crc32fast::hash(content),
        local_flags: 0,
        flags: 0,
        is_listed: true,
        compressed: None,
        size: None,
        header: None,
    }
}

impl Record {
    pub(crate) fn deflated(mut self) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&self.content).unwrap();
        (self.stored, self.method) = (encoder.finish().unwrap(), 8);
        self
    }

    pub(crate) fn with_name(mut self, name: &str) -> Self {
        (self.name, self.local_name) = (name.to_owned(), name.to_owned());
        self
    }

    pub(crate) fn with_local_name(mut self, name: &str) -> Self {
        self.local_name = name.to_owned();
        self
    }

    pub(crate) fn with_flags(mut self, local: u16, listed: u16) -> Self {
        (self.local_flags, self.flags) = (local, listed);
        self
    }

    pub(crate) fn with_wrong_crc32(mut self) -> Self {
        self.crc32 ^= 1;
        self
    }

    pub(crate) fn with_method(mut self, method: u16) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn unlisted(mut self) -> Self {
        self.is_listed = false;
        self
    }

    pub(crate) fn with_sizes(mut self, compressed: u32, size: u32) -> Self {
        (self.compressed, self.size) = (Some(compressed), Some(size));
        self
    }

    pub(crate) fn with_size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    pub(crate) fn with_offset(mut self, header: u32) -> Self {
        self.header = Some(header);
        self
    }
}

/// A zip of these records, preceded by these bytes.
pub(crate) fn raw_zip(before: &[u8], records: &[Record]) -> Vec<u8> {
    let mut file = before.to_vec();
    let mut directory = Vec::new();
    for record in records {
        let header = record.header.unwrap_or(file.len() as u32);
        let sizes = [
            record.crc32,
            record.compressed.unwrap_or(record.stored.len() as u32),
            record.size.unwrap_or(record.content.len() as u32),
        ];
        let sizes = sizes.map(u32::to_le_bytes).concat();
        let name_len = |name: &str| (name.len() as u16).to_le_bytes();
        file.extend(b"PK\x03\x04\x14\0");
        file.extend([record.local_flags, record.method, 0, 0x21].map(u16::to_le_bytes).concat());
        file.extend(&sizes);
        file.extend(name_len(&record.local_name));
        file.extend([0, 0]);
        file.extend(record.local_name.as_bytes());
        file.extend(&record.stored);
        if record.is_listed {
            directory.extend(b"PK\x01\x02\x14\0\x14\0");
            directory.extend([record.flags, record.method, 0, 0x21].map(u16::to_le_bytes).concat());
            directory.extend(&sizes);
            directory.extend(name_len(&record.name));
            directory.extend([0; 12]);
            directory.extend(header.to_le_bytes());
            directory.extend(record.name.as_bytes());
        }
    }
    let count = records.iter().filter(|record| record.is_listed).count().min(u16::MAX.into()) as u16;
    let (begin, len) = (file.len() as u32, directory.len() as u32);
    file.extend(directory);
    // The end record counts up to 65,535 records; more need a zip64 end record.
    let listed = records.iter().filter(|record| record.is_listed).count() as u64;
    if listed > u64::from(u16::MAX) {
        let end = file.len() as u64;
        file.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        file.extend([listed, listed, u64::from(len), u64::from(begin)].map(u64::to_le_bytes).concat());
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(end.to_le_bytes());
        file.extend([1, 0, 0, 0]);
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].map(u16::to_le_bytes).concat());
    file.extend([len, begin].map(u32::to_le_bytes).concat());
    file.extend([0, 0]);
    file
}

/// A torch zip with this pickle.
pub(crate) fn torch(pickle: &[u8]) -> Vec<u8> {
    torch_with(record("archive/data.pkl", pickle), &[])
}

/// A torch zip with this pickle record and more records.
pub(crate) fn torch_with(pickle: Record, more: &[Record]) -> Vec<u8> {
    let rest = [record("archive/data/0", &floats()), record("archive/version", b"3\n")];
    raw_zip(b"", &[&[pickle], &rest[..], more].concat())
}

// --- safetensors ---------------------------------------------------------------------------------------------------

pub(crate) fn safetensors(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}
