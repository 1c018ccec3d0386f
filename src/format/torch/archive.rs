use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read};
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, Result};
use crate::io::{Source, SourceReader};
use crate::limits;
use crate::tensor::{Extent, Storage};

/// The records of a torch zip: one folder, its files by their name within it.
pub(super) struct Archive {
    source: Arc<Source>,
    records: HashMap<String, Record>,
}

/// One file of the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub extent: Extent,
    /// `None` where the writer computed none.
    pub crc32: Option<u32>,
}

/// Local headers are read one at a time; a larger buffer would read the tensors behind them.
const HEADER_READ: usize = 512;

/// What an entry of the directory begins with, and the two end records; the bytes of each before what varies in length.
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: usize = 22;
const END_64: [u8; 4] = *b"PK\x06\x06";
const END_64_LEN: usize = 56;

impl Archive {
    /// Reads the directory and finds where each record's bytes lie. Everything lies in the file, nothing overlaps.
    pub(super) fn open(source: &Arc<Source>) -> Result<Self> {
        // The default mode guesses where the archive begins, and guesses wrong for torch files whose folder name has
        // 21 characters. A torch file begins at 0, always.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
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
        let mut folder = None;
        let mut records = HashMap::with_capacity(zip.len());
        let mut ranges = Vec::with_capacity(zip.len());
        let mut seen = HashSet::with_capacity(zip.len());
        let mut first = u64::MAX;
        let directory = zip.central_directory_start();
        check_directory(source, directory, zip.len() as u64)?;
        // The local headers lie all over the file. Asked for one by one, each would cost a turn of the disk.
        for index in 0..zip.len() {
            if let Ok(entry) = zip.by_index_data(index) {
                source.prefetch(entry.header_start(), HEADER_READ as u64);
            }
        }
        for index in 0..zip.len() {
            let (name, header, record) = entry(&mut zip, index)?;
            if !seen.insert(name.to_ascii_lowercase()) {
                return Err(Error::conflict("its name occurs twice, but for case").in_record(name));
            }
            first = first.min(header);
            check_own_header(source, header, &name, method_of(record.extent))
                .map_err(|error| error.in_record(name.as_str()))?;
            let within = split_folder(&name, &mut folder)?;
            let (offset, len) = range_of(record.extent);
            if offset.checked_add(len).is_none_or(|end| end > directory.min(source.len())) {
                let found =
                    format!("{len} bytes at {offset} of the file reach into the zip's directory or past the end");
                return Err(Error::malformed(found).in_record(name));
            }
            ranges.push((offset, len));
            if !within.is_empty() {
                records.insert(within.to_owned(), record);
            }
        }
        if first != 0 {
            return Err(Error::malformed("it begins with a record that its directory does not list").at(0));
        }
        check_overlaps(ranges)?;
        Ok(Archive { source: Arc::clone(source), records })
    }

    /// A record by its name within the folder.
    pub(super) fn get(&self, name: &str) -> Option<Record> {
        self.records.get(name).copied()
    }

    /// The content of a record of at most `most` bytes.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(record) = self.get(name) else { return Ok(None) };
        let too_large = |len: u64| Error::limit(format!("{len} bytes, the limit is {most}")).in_record(name);
        let bytes = match record.extent {
            Extent::Raw { len, .. } if len > most => return Err(too_large(len)),
            // Copied, not mapped: mapped pages would count beside the copy.
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
                    let found = format!("inflates to {} bytes, {len} are declared", bytes.len());
                    return Err(Error::malformed(found).in_record(name));
                }
                bytes
            }
        };
        if record.crc32.is_some_and(|promised| crc32fast::hash(&bytes) != promised) {
            return Err(Error::malformed("its checksum is wrong, the file is damaged").in_record(name));
        }
        Ok(Some(bytes))
    }

    /// A record as the storage of tensors.
    pub(super) fn storage(&self, name: &str, record: Record) -> Storage {
        Storage::new(Arc::clone(&self.source), name, record.extent).with_crc32(record.crc32)
    }
}

fn damaged(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => Error::io("cannot read the zip's directory", error),
        other => Error::malformed(format!("a zip without a readable directory, it was cut short or damaged ({other})")),
    }
}

/// Holds what the end record says of the directory against the directory: some readers go by its count, some by its
/// size, and some read entries for as long as there are any.
fn check_directory(source: &Arc<Source>, begin: u64, count: u64) -> Result<()> {
    let fail = |found: &str| Err(Error::malformed(format!("the zip's directory {found}")).at(begin));
    let mut reader = source.reader_of(begin, source.len().saturating_sub(begin));
    let mut sign = [0; 4];
    let mut len = 0;
    let mut read = |out: &mut [u8]| {
        reader.read_exact(out).map_err(|_| Error::malformed("the zip's directory was cut short").at(begin))
    };
    let mut found = 0;
    loop {
        read(&mut sign)?;
        if sign != CENTRAL {
            break;
        }
        let mut fixed = [0; CENTRAL_LEN - 4];
        read(&mut fixed)?;
        // The lengths of the name, of the extra field and of the comment, which stand behind.
        let lengths = fixed.get(24..30).unwrap_or_default().as_chunks().0.iter().map(|len| u16::from_le_bytes(*len));
        let behind: usize = lengths.map(usize::from).sum();
        read(&mut vec![0; behind])?;
        found += 1;
        len += (CENTRAL_LEN + behind) as u64;
    }
    if found != count {
        return fail(&format!("has {found} entries, its end says {count}"));
    }
    let mut end = [0; END_LEN - 4];
    read(&mut end)?;
    let said = match sign {
        END => end.get(8..12).and_then(|len| len.try_into().ok()).map(u32::from_le_bytes).map(u64::from),
        END_64 => {
            let mut more = [0; END_64_LEN - END_LEN];
            read(&mut more)?;
            let end = [&end[..], &more].concat();
            end.get(36..44).and_then(|len| len.try_into().ok()).map(u64::from_le_bytes)
        }
        _ => return fail("ends in something that is no end record"),
    };
    if said != Some(len) {
        return fail(&format!("has {len} bytes, its end says {}", said.unwrap_or_default()));
    }
    Ok(())
}

fn entry(zip: &mut ZipArchive<BufReader<SourceReader>>, index: usize) -> Result<(String, u64, Record)> {
    let file = zip.by_index_raw(index).map_err(damaged)?;
    let name = std::str::from_utf8(file.name_raw())
        .map_err(|_| Error::malformed("a record of the zip whose name is not UTF-8"))?
        .to_owned();
    let fail = |kind: fn(String) -> Error, message: &str| Err(kind(message.to_owned()).in_record(name.as_str()));
    if file.encrypted() {
        return fail(Error::unsupported, "it is encrypted");
    }
    let offset = file.data_start().ok_or_else(|| Error::malformed("no local header").in_record(name.as_str()))?;
    let (compressed, len) = (file.compressed_size(), file.size());
    let extent = match file.compression() {
        CompressionMethod::Stored if compressed == len => Extent::Raw { offset, len },
        CompressionMethod::Stored => return fail(Error::malformed, "stored, but its two sizes differ"),
        CompressionMethod::Deflated if len / limits::INFLATE_RATIO > compressed => {
            return fail(Error::malformed, "it claims to inflate further than deflate can");
        }
        CompressionMethod::Deflated => Extent::Deflated { offset, compressed, len },
        other => {
            return fail(Error::unsupported, &format!("compression {other}; torch files are stored or deflated"));
        }
    };
    // torch writes 0 where it was told not to compute checksums.
    let crc32 = Some(file.crc32()).filter(|&crc32| crc32 != 0);
    Ok((name, file.header_start(), Record { extent, crc32 }))
}

/// A record is called the same by its own header as by the directory, and compressed the same: PyTorch goes by the one,
/// others by the other.
fn check_own_header(source: &Source, header: u64, name: &str, method: u16) -> Result<()> {
    const NAME: usize = 30;
    let mut own = vec![0; NAME + name.len()];
    source.read_at(header, &mut own)?;
    let (fixed, own_name) = own.split_at(NAME);
    let len = fixed.get(26..28).and_then(|len| len.try_into().ok()).map(u16::from_le_bytes);
    if len.map(usize::from) != Some(name.len()) || own_name != name.as_bytes() {
        return Err(Error::malformed("its own header gives it another name than the directory does").at(header));
    }
    let own_method = fixed.get(8..10).and_then(|method| method.try_into().ok()).map(u16::from_le_bytes);
    if own_method != Some(method) {
        return Err(Error::malformed("its own header compresses it otherwise than the directory says").at(header));
    }
    Ok(())
}

/// The part of the name behind the folder; the folder is the first record's and must be every record's, as for torch.
fn split_folder<'a>(name: &'a str, folder: &mut Option<String>) -> Result<&'a str> {
    let (found, within) = name.split_once('/').filter(|(folder, _)| !folder.is_empty()).ok_or_else(|| {
        Error::unsupported("it is in no folder, torch puts all records into one; not a file of torch.save")
            .in_record(name)
    })?;
    let folder = folder.get_or_insert_with(|| found.to_owned());
    if folder != found {
        return Err(Error::unsupported(format!(
            "records in the folders {folder} and {found}; torch puts all into one"
        )));
    }
    Ok(within)
}

/// The number of its compression in a zip.
fn method_of(extent: Extent) -> u16 {
    match extent {
        Extent::Raw { .. } => 0,
        Extent::Deflated { .. } => 8,
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
        if let [(first, len), (second, _)] = pair
            && first + len > *second
        {
            return Err(Error::malformed("two records of the zip overlap").at(*second));
        }
    }
    Ok(())
}
