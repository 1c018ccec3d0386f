use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read, Seek};
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::aligned::aligned_contents;
use crate::containers::zip::{CentralHeader, DEFLATED, EndOfDirectory, LocalHeader, STORED, Zip64EndOfDirectory};
use crate::error::{Error, Result};
use crate::io::{Source, SourceReader};
use crate::limits;
use crate::tensor::{Extent, Storage};

/// The records of a torch zip. All are in one folder and are found by their name within it.
pub(super) struct Archive {
    source: Arc<Source>,
    records: HashMap<String, ArchiveRecord>,
}

/// One file of the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArchiveRecord {
    pub extent: Extent,
    /// `None` if the writer computed no checksum.
    pub crc32: Option<u32>,
}

/// Buffer size in bytes. Local headers are read one at a time; a larger buffer would also read the tensors behind them.
const HEADER_READ: usize = 512;

/// Bytes at the end of a file on a server that are read at once: the directory of a checkpoint has 120 to 250 KB.
const DIRECTORY_READ: u64 = 256 << 10;

/// The endings of the names of checkpoints.
const MODELS: &[&str] = &[".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"];

/// Fails if the zip is an archive that a checkpoint is packed in.
fn refuse_packed_model<R: Read + Seek>(zip: &ZipArchive<R>) -> Result<()> {
    let mut names = zip.file_names().flatten();
    let is_model = |name: &str| MODELS.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    let model = zip.file_names().flatten().find(|name| is_model(name));
    match model.filter(|_| !names.any(|name| name == "data.pkl" || name.ends_with("/data.pkl"))) {
        Some(name) => {
            let found = format!("a zip archive with a checkpoint in it; unpack it, and open {name}");
            Err(Error::unsupported(found))
        }
        None => Ok(()),
    }
}

impl Archive {
    /// Reads the directory and locates the content of each record. Fails if a record lies outside the file, overlaps
    /// another one, or has a local header that contradicts the directory.
    pub(super) fn open(source: &Arc<Source>) -> Result<Self> {
        // The default mode guesses where the archive begins and is wrong for torch files whose folder name has 21
        // characters. A torch file always begins at 0.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        if source.is_remote() {
            // One request for the directory. Its end is read first, and then its start.
            source.read(source.len() - source.len().min(DIRECTORY_READ), source.len().min(DIRECTORY_READ))?;
        }
        let reader = BufReader::with_capacity(HEADER_READ, source.reader());
        let mut zip = ZipArchive::with_config(config, reader).map_err(damaged)?;
        if zip.len() > limits::ZIP_ENTRIES {
            return Err(Error::limit(format!(
                "{} records in the zip, the limit is {}",
                zip.len(),
                limits::ZIP_ENTRIES
            )));
        }
        if zip.has_duplicate_names() {
            return Err(Error::conflict("two records of the zip have the same name"));
        }
        refuse_packed_model(&zip)?;
        let mut folder = None;
        let mut records = HashMap::with_capacity(zip.len());
        let mut ranges = Vec::with_capacity(zip.len());
        let mut seen = HashSet::with_capacity(zip.len());
        let mut first = u64::MAX;
        let directory = zip.central_directory_start();
        check_directory(source, directory, zip.len() as u64)?;
        let known = match source.is_remote() {
            true => aligned_contents(&zip, directory),
            false => None,
        };
        // The local headers are scattered over the file. Without prefetching, a hard disk would seek for each. The next
        // loop reports errors.
        for index in 0..zip.len() {
            if let Ok(entry) = zip.by_index_data(index) {
                source.prefetch(entry.header_start(), HEADER_READ as u64);
            }
        }
        for index in 0..zip.len() {
            let offset = known.as_ref().and_then(|known| known.get(index)).copied();
            let (name, header, record) = entry(source, &mut zip, index, offset)?;
            if !seen.insert(name.to_ascii_lowercase()) {
                return Err(Error::conflict("its name occurs twice, ignoring case").in_record(name));
            }
            first = first.min(header);
            let within = split_folder(&name, &mut folder)?;
            let (offset, len) = range_of(record.extent);
            if offset.checked_add(len).is_none_or(|end| end > directory.min(source.len())) {
                let found = format!(
                    "its {len} bytes at offset {offset} of the file reach into the zip's directory or past the end"
                );
                return Err(Error::malformed(found).in_record(name));
            }
            ranges.push((offset, len));
            if !within.is_empty() {
                records.insert(within.to_owned(), record);
            }
        }
        if first != 0 {
            return Err(Error::malformed("the zip begins with a record that its directory does not list").at(0));
        }
        check_overlaps(ranges)?;
        Ok(Archive { source: Arc::clone(source), records })
    }

    /// Returns where the zip ends: behind the comment of its last end record.
    pub(super) fn end(&self) -> Result<u64> {
        let len = self.source.len();
        // The end record is the last one; its comment has at most 65,535 bytes.
        let most = EndOfDirectory::LEN as u64 + u64::from(u16::MAX);
        let begin = len.saturating_sub(most);
        let mut tail = vec![0; (len - begin) as usize];
        self.source.read_at(begin, &mut tail)?;
        let at = tail.windows(EndOfDirectory::SIGNATURE.len()).rposition(|window| window == EndOfDirectory::SIGNATURE);
        let record = at.and_then(|at| Some((at, EndOfDirectory::parse(tail.get(at..)?)?)));
        Ok(match record {
            Some((at, record)) => {
                let end = begin + (at + EndOfDirectory::LEN + usize::from(record.comment_len)) as u64;
                end.min(len)
            }
            // More follows than a comment can be.
            None => len,
        })
    }

    /// Returns a record by its name within the folder.
    pub(super) fn get(&self, name: &str) -> Option<ArchiveRecord> {
        self.records.get(name).copied()
    }

    /// Returns the content of a record, or `None` if there is no such record. Fails if it is larger than `most` bytes.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(record) = self.get(name) else { return Ok(None) };
        let too_large = |len: u64| Error::limit(format!("{len} bytes, the limit is {most}")).in_record(name);
        let bytes = match record.extent {
            Extent::Raw { len, .. } if len > most => return Err(too_large(len)),
            // Read, not mapped: mapped pages would take memory in addition to the copy.
            Extent::Raw { offset, len } => {
                let mut bytes = vec![0; len as usize];
                self.source.read_at(offset, &mut bytes)?;
                bytes
            }
            Extent::Deflated { offset, compressed, len } => {
                let mut bytes = Vec::new();
                let stream = DeflateDecoder::new(self.source.reader_of(offset, compressed));
                let outcome = stream.take(most + 1).read_to_end(&mut bytes);
                outcome.map_err(|error| Error::malformed(format!("cannot inflate: {error}")).in_record(name))?;
                if bytes.len() as u64 > most {
                    return Err(too_large(bytes.len() as u64));
                }
                if bytes.len() as u64 != len {
                    let found = format!("inflates to {} bytes, expected {len}", bytes.len());
                    return Err(Error::malformed(found).in_record(name));
                }
                bytes
            }
        };
        if record.crc32.is_some_and(|promised| crc32fast::hash(&bytes) != promised) {
            return Err(Error::malformed("its checksum is wrong; the file is damaged").in_record(name));
        }
        Ok(Some(bytes))
    }

    /// Returns a record as a storage of tensors.
    pub(super) fn storage(&self, name: &str, record: ArchiveRecord) -> Storage {
        Storage::new(Arc::clone(&self.source), name, record.extent).with_crc32(record.crc32)
    }
}

fn damaged(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => Error::io("cannot read the zip's directory", error),
        other => {
            Error::malformed(format!("the zip's directory cannot be read; the file was cut short or damaged ({other})"))
        }
    }
}

/// Compares the directory with its end record. Readers differ: some rely on the entry count, some on the size, and some
/// read entries until the signature changes.
fn check_directory(source: &Arc<Source>, begin: u64, count: u64) -> Result<()> {
    let fail = |found: &str| Err(Error::malformed(format!("the zip's directory {found}")).at(begin));
    let cut_short = |_| Error::malformed("the zip's directory was cut short").at(begin);
    let mut reader = BufReader::new(source.reader_of(begin, source.len().saturating_sub(begin)));
    let mut found = 0;
    let mut len = 0;
    let declared_len = loop {
        let mut signature = [0; 4];
        reader.read_exact(&mut signature).map_err(cut_short)?;
        match &signature {
            CentralHeader::SIGNATURE => {
                let variable_len = CentralHeader::read_fields(&mut reader).map_err(cut_short)?.variable_len();
                reader.read_exact(&mut vec![0; variable_len]).map_err(cut_short)?;
                found += 1;
                len += (CentralHeader::LEN + variable_len) as u64;
            }
            EndOfDirectory::SIGNATURE => {
                break EndOfDirectory::read_fields(&mut reader).map_err(cut_short)?.directory_len.into();
            }
            Zip64EndOfDirectory::SIGNATURE => {
                break Zip64EndOfDirectory::read_fields(&mut reader).map_err(cut_short)?.directory_len;
            }
            _ if found == count => return fail("is not followed by an end record"),
            _ => break len,
        }
    };
    if found != count {
        return fail(&format!("has {found} entries, its end record declares {count}"));
    }
    if declared_len != len {
        return fail(&format!("has {len} bytes, its end record declares {declared_len}"));
    }
    Ok(())
}

/// Returns the name, the local header's offset and the place of a record. `known` is where its content begins, if that is
/// known without its local header; then the headers of storages are not read.
fn entry(
    source: &Source,
    zip: &mut ZipArchive<BufReader<SourceReader>>,
    index: usize,
    known: Option<u64>,
) -> Result<(String, u64, ArchiveRecord)> {
    let offset = match known {
        Some(offset) => Some(offset),
        None => zip.by_index_raw(index).map_err(damaged)?.data_start(),
    };
    let file = zip.by_index_data(index).map_err(damaged)?;
    let name = std::str::from_utf8(file.name_raw())
        .map_err(|_| Error::malformed("a record of the zip has a name that is not UTF-8"))?
        .to_owned();
    let fail = |kind: fn(String) -> Error, message: &str| Err(kind(message.to_owned()).in_record(name.as_str()));
    if file.encrypted() {
        return fail(Error::unsupported, "it is encrypted");
    }
    let offset = offset.ok_or_else(|| Error::malformed("it has no local header").in_record(name.as_str()))?;
    let (compressed, len) = (file.compressed_size(), file.size());
    let extent = match file.compression() {
        CompressionMethod::Stored if compressed == len => Extent::Raw { offset, len },
        CompressionMethod::Stored => {
            return fail(Error::malformed, "it is stored, but its compressed size differs from its size");
        }
        CompressionMethod::Deflated if len / limits::INFLATE_RATIO > compressed => {
            return fail(Error::malformed, "its declared size is more than deflate can expand to");
        }
        CompressionMethod::Deflated => Extent::Deflated { offset, compressed, len },
        other => {
            return fail(Error::unsupported, &format!("compression method {other}; expected stored or deflated"));
        }
    };
    // torch writes 0 if checksums are turned off.
    let crc32 = Some(file.crc32()).filter(|&crc32| crc32 != 0);
    let header = file.header_start();
    let is_storage = name.split_once('/').is_some_and(|(_, within)| within.starts_with("data/"));
    if known.is_none() || !is_storage {
        let checked = check_local_header(source, header, &name, method_of(extent));
        checked.map_err(|error| error.in_record(name.as_str()))?;
    }
    Ok((name, header, ArchiveRecord { extent, crc32 }))
}

/// Compares a record's local header with its directory entry. PyTorch relies on one of them, other readers on the other.
fn check_local_header(source: &Source, offset: u64, name: &str, method: u16) -> Result<()> {
    let mut bytes = vec![0; LocalHeader::LEN + name.len()];
    source.read_at(offset, &mut bytes)?;
    let header = LocalHeader::parse(&bytes).ok_or_else(|| Error::malformed("it has no local header").at(offset))?;
    if usize::from(header.name_len) != name.len() || !bytes.ends_with(name.as_bytes()) {
        return Err(Error::malformed("its name in the local header differs from the zip's directory").at(offset));
    }
    if header.method != method {
        let found = "its compression method in the local header differs from the zip's directory";
        return Err(Error::malformed(found).at(offset));
    }
    Ok(())
}

/// Returns the part of a name behind the folder. Fails unless all records are in the folder of the first, as in torch.
fn split_folder<'a>(name: &'a str, folder: &mut Option<String>) -> Result<&'a str> {
    let (found, within) = name.split_once('/').filter(|(folder, _)| !folder.is_empty()).ok_or_else(|| {
        Error::unsupported("it is not in a folder, but torch.save puts all records into one; not a torch file")
            .in_record(name)
    })?;
    let folder = folder.get_or_insert_with(|| found.to_owned());
    if folder != found {
        return Err(Error::unsupported(format!(
            "records are in the folders {folder} and {found}, but torch.save puts all into one"
        )));
    }
    Ok(within)
}

/// The compression method in zip headers.
fn method_of(extent: Extent) -> u16 {
    match extent {
        Extent::Raw { .. } => STORED,
        Extent::Deflated { .. } => DEFLATED,
    }
}

fn range_of(extent: Extent) -> (u64, u64) {
    match extent {
        Extent::Raw { offset, len } => (offset, len),
        Extent::Deflated { offset, compressed, .. } => (offset, compressed),
    }
}

fn check_overlaps(mut ranges: Vec<(u64, u64)>) -> Result<()> {
    ranges.retain(|&(_, len)| len > 0);
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        // Cannot overflow: `open` checks that each range ends within the file.
        if let [(first, len), (second, _)] = pair
            && first + len > *second
        {
            return Err(Error::malformed("two records of the zip overlap").at(*second));
        }
    }
    Ok(())
}
