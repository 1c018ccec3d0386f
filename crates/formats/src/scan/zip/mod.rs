//! Every record of a zip that some reader may see: those in the directory, and those that the directory leaves out.
//!
//! Checksums, sizes, flags and local names are not trusted. Readers differ in which of them they check, and attackers
//! evade scanners with files that fail in one reader and load in another.

mod directory;
mod keras;
mod kind;
mod parts;
mod unlisted;

use std::borrow::Cow;
use std::collections::HashMap;

use flate2::read::DeflateDecoder;

use super::role::Role;
use super::scanned_format::ScannedFormat;
use super::scanner::{Scanner, nested_place};
use crate::containers::zip::{DEFLATED, STORED};
use crate::danger::Level;
use crate::error::Error;
use crate::limits;
pub(super) use parts::{pickles, plain_directory, without_storages};

use directory::{Directory, Record, directory, records};
use keras::{KERAS_CONFIGURATION, KERAS_WEIGHTS};

/// Records that each zip counts for, because of the search for its directory.
const RECORDS_PER_ZIP: usize = 100;

/// Bytes of the file that looking at a record may bring into memory: the kernel maps pages in groups.
const TOUCHED: usize = 128 << 10;

/// Whether bytes end with a zip, whatever they begin with.
pub(super) fn ends_with_zip(bytes: &[u8]) -> bool {
    directory(bytes).is_some()
}

/// What a record may be, by its name alone. Python's name of a record ends at its first NUL.
fn role_of(name: &str) -> Role {
    let name = name.to_ascii_lowercase();
    let is_pickle = |name: &str| name.ends_with(".pkl") || name.ends_with(".pickle");
    if is_pickle(&name) || is_pickle(before_nul(&name)) { Role::Loaded } else { Role::Found }
}

/// The part of a name that Python takes.
fn before_nul(name: &str) -> &str {
    name.split('\0').next().unwrap_or_default()
}

impl Scanner<'_> {
    /// Scans the zip that bytes end with, if there is one.
    pub(super) fn zip_at_end(&mut self, bytes: &[u8], place: &str, depth: usize) {
        if ends_with_zip(bytes) {
            self.zip(bytes, place, depth);
        }
    }

    /// Scans every record of a zip. Returns its format.
    pub(super) fn zip(&mut self, bytes: &[u8], place: &str, depth: usize) -> ScannedFormat {
        self.records += RECORDS_PER_ZIP;
        let Some(directory) = directory(bytes) else {
            let found = "the zip's directory cannot be read; the file was cut short or damaged";
            self.fail(Error::malformed(found), place);
            // Its records may still be read from header to header.
            self.unlisted(bytes, &[], Directory::none(bytes), place, depth);
            return ScannedFormat::Zip;
        };
        if directory.is_ambiguous {
            self.fail(
                Error::malformed("the zip has two directories, and readers differ in which one they take"),
                place,
            );
        }
        let left = limits::SCAN_RECORDS.saturating_sub(self.records);
        let mut records = match records(bytes, directory, left) {
            Ok(records) => records,
            Err(error) => {
                self.records += left;
                self.fail(error, place);
                return ScannedFormat::Zip;
            }
        };
        self.records += records.len();
        let format = kind::kind(&records);
        self.add_code(format, place);
        if kind::holds_modules(&records) && !matches!(format, ScannedFormat::TorchScript | ScannedFormat::TorchPackage)
        {
            self.add_content("Python modules", Level::Unknown, "Python runs when it imports them from the zip", place);
        }
        // Restored behind the records: this zip may be within another.
        let was_script = std::mem::replace(&mut self.is_script, format == ScannedFormat::TorchScript);
        // Pickles come first: they tell which records are storages.
        records.sort_by_key(|record| role_of(&record.name) != Role::Loaded);
        let mut storages = HashMap::new();
        for record in &records {
            if self.is_exhausted() {
                break;
            }
            let role = match role_of(&record.name) {
                // Keras only reads its arrays.
                Role::Found if format == ScannedFormat::Keras && record.name == KERAS_WEIGHTS => Role::Data,
                Role::Found if storages.get(&record.name) == Some(&record.size) => Role::Data,
                role => role,
            };
            self.record(bytes, record, role, place, depth);
            if before_nul(&record.name) == KERAS_CONFIGURATION {
                self.keras(bytes, record, place);
            }
            if role == Role::Loaded {
                kind::add_storages(&record.name, &std::mem::take(&mut self.storages), &mut storages);
            }
        }
        self.unlisted(bytes, &records, directory, place, depth);
        self.is_script = was_script;
        if let Some(behind) = bytes.get(directory.end..).filter(|behind| !behind.is_empty()) {
            let place = nested_place(place, &format!("bytes at {}, behind the zip", directory.end));
            self.part(behind, &place, Role::Found, depth + 1);
        }
        format
    }

    fn record(&mut self, bytes: &[u8], record: &Record, role: Role, place: &str, depth: usize) {
        self.touch(TOUCHED);
        let place = nested_place(place, &record.name);
        let Some((_, content)) = bytes.split_at_checked(record.begin) else { return };
        let stored = content.get(..record.len).unwrap_or(content);
        if stored.is_empty() {
            return;
        }
        if record.is_encrypted && role == Role::Loaded {
            self.fail(Error::unsupported("it is encrypted and could not be scanned"), &place);
        }
        let content: Cow<'_, [u8]> = match record.method {
            STORED => stored.into(),
            DEFLATED => self.inflate(DeflateDecoder::new(stored), role, &place).into(),
            other => {
                let found = format!("compression method {other} cannot be scanned; expected stored or deflated");
                return self.fail(Error::unsupported(found), &place);
            }
        };
        if role == Role::Loaded {
            self.storages_wanted = true;
        }
        self.file(&content, &place, role, depth + 1);
        self.storages_wanted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::zip::{CentralHeader, EXTRA_ZIP64, EndOfDirectory, IN_ZIP64, LocalHeader};

    /// A zip of one record whose directory entry declares this size and offset.
    fn zip_declaring(size: u64, offset: u64) -> Vec<u8> {
        let name = b"archive/data.pkl";
        let mut bytes = Vec::new();
        LocalHeader { name_len: name.len() as u16, size: 1, compressed_size: 1, ..Default::default() }
            .write(&mut bytes);
        bytes.extend(name);
        bytes.extend(b".");
        let directory_offset = bytes.len() as u32;
        let values = [size, size, offset].map(u64::to_le_bytes).concat();
        CentralHeader {
            size: IN_ZIP64,
            compressed_size: IN_ZIP64,
            header_offset: IN_ZIP64,
            name_len: name.len() as u16,
            extra_len: 4 + values.len() as u16,
            ..Default::default()
        }
        .write(&mut bytes);
        bytes.extend(name);
        bytes.extend(EXTRA_ZIP64.to_le_bytes());
        bytes.extend((values.len() as u16).to_le_bytes());
        bytes.extend(values);
        EndOfDirectory { entries: 1, entries_on_disk: 1, directory_offset, ..Default::default() }.write(&mut bytes);
        bytes
    }

    #[test]
    fn survives_sizes_and_offsets_at_the_ends_of_their_range() {
        for size in [0, 1, u64::MAX - 1, u64::MAX] {
            for offset in [0, 1, u64::MAX - 40, u64::MAX] {
                Scanner::default().zip(&zip_declaring(size, offset), "", 0);
            }
        }
    }
}
