//! The container of PyTorch 0.2 to 1.5: five consecutive pickles (magic number, version, system, object, key list), then
//! each storage in the order of the key list, preceded by its element count.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_pickle::{DeOptions, Value};

use super::contents;
use super::storages::{Reference, Storages, references};
use crate::containers::{Container, StoredCheckpoint};
use crate::error::{Error, Result};
use crate::io::Source;
use crate::limits;
use crate::pickle::{self, Node, Pickle};
use crate::tensor::{Extent, Storage};

/// The value of the first pickle, in decimal.
const MAGIC: &str = "119547037146038801333356";

/// The value of the second pickle.
const VERSION: i64 = 1001;

/// Bytes of the element count before each storage.
const COUNT: u64 = 8;

/// Bytes that are tried first when reading a pickle.
const FIRST_READ: u64 = 1 << 20;

/// Values that a pickle other than the object may have, besides two per storage.
const SIDE_NODES: usize = 64;

/// Bytes that the pickle of the magic number may have (15). Converting an integer to decimal takes quadratic time.
const NUMBER_BYTES: usize = 64;

/// The third pickle.
#[derive(Deserialize)]
struct System {
    little_endian: bool,
}

/// Reads a legacy file: its pickles, and the element count before each storage.
///
/// Fails if they contradict one another or the length of the file.
pub(in crate::containers) fn read(source: &Arc<Source>) -> Result<StoredCheckpoint> {
    let mut pickles = Pickles { source, offset: 0 };
    let magic = pickles.number("magic number")?;
    if magic != MAGIC {
        return Err(Error::malformed(format!("the magic number is {magic}, expected {MAGIC}")).at(0));
    }
    let version: i64 = pickles.side("protocol version", SIDE_NODES)?;
    if version != VERSION {
        return Err(Error::unsupported(format!("legacy protocol version {version}; expected {VERSION}")));
    }
    let system: System = pickles.side("system information", SIDE_NODES)?;
    if !system.little_endian {
        // On such machines PyTorch stores little-endian data and other writers do not; the file does not record which.
        return Err(Error::unsupported(
            "a legacy file from a big-endian machine; save it again with PyTorch 1.6 or newer",
        ));
    }
    let begin = pickles.offset;
    let object = pickles.next()?;
    let references = references(&object).map_err(|error| error.at(begin))?;
    let keys: Vec<String> = pickles.side("storage keys", SIDE_NODES + references.len() * 2)?;
    let storages = storages(source, pickles.offset, &keys, references)?;
    contents::build(&object, &storages, StoredCheckpoint::for_source(source, Container::TorchLegacy))
}

/// Reads the consecutive pickles at the start of the file.
struct Pickles<'a> {
    source: &'a Source,
    /// At most the length of the file.
    offset: u64,
}

impl Pickles<'_> {
    /// Parses the next pickle. Its end is known only after parsing.
    fn next(&mut self) -> Result<Pickle> {
        let begin = self.offset;
        // One byte past the limit distinguishes a pickle that is too long from a file that was cut short.
        let most = (self.source.len() - begin).min(limits::PICKLE_BYTES + 1);
        let parse = |window| pickle::parse_vec(self.source.read(begin, window)?);
        // Most of the file is tensor data. Reads more only if the first part does not hold a whole pickle.
        let first = if most > FIRST_READ { parse(FIRST_READ).ok() } else { None };
        let pickle = first.map_or_else(|| parse(most), Ok).map_err(|error| {
            // An error without an offset concerns the pickle as a whole.
            let within = error.offset().unwrap_or(0);
            error.move_to(begin + within)
        })?;
        self.offset += pickle.bytes().len() as u64;
        Ok(pickle)
    }

    /// Reads the next pickle as a value of a known plain type, with serde_pickle.
    fn side<T: DeserializeOwned>(&mut self, what: &str, nodes: usize) -> Result<T> {
        let begin = self.offset;
        let pickle = self.bounded(what, nodes)?;
        serde_pickle::from_slice(pickle.bytes(), DeOptions::new().decode_strings())
            .map_err(|error| Error::malformed(format!("the pickle of the {what}: {error}")).at(begin))
    }

    /// Reads the next pickle, of at most [`NUMBER_BYTES`], as an integer and returns it in decimal.
    fn number(&mut self, what: &str) -> Result<String> {
        let begin = self.offset;
        let pickle = self.bounded(what, SIDE_NODES)?;
        let fail = |found: String| Error::malformed(format!("the pickle of the {what}: {found}")).at(begin);
        if pickle.bytes().len() > NUMBER_BYTES {
            return Err(fail(format!("{} bytes, at most {NUMBER_BYTES} are expected", pickle.bytes().len())));
        }
        match serde_pickle::value_from_slice(pickle.bytes(), DeOptions::new()) {
            Ok(Value::I64(number)) => Ok(number.to_string()),
            Ok(Value::Int(number)) => Ok(number.to_string()),
            Ok(other) => Err(fail(format!("expected a number, found {other}"))),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// Parses the next pickle and bounds its values. serde_pickle recurses and allocates for every mark, so it needs that
    /// bound.
    fn bounded(&mut self, what: &str, nodes: usize) -> Result<Pickle> {
        let begin = self.offset;
        let pickle = self.next()?;
        let is_flat =
            pickle.nodes().iter().all(|node| !matches!(node, Node::Object(_) | Node::Persistent(_) | Node::Global(_)));
        if pickle.nodes().len() > nodes || !is_flat {
            return Err(Error::malformed(format!("the pickle of the {what} has more values than expected")).at(begin));
        }
        Ok(pickle)
    }
}

/// Locates the storages. Checks each element count against the object pickle and the length of the file.
fn storages(source: &Arc<Source>, begin: u64, keys: &[String], references: Vec<Reference>) -> Result<Storages> {
    let mut wanted: HashMap<String, Reference> =
        references.into_iter().map(|reference| (reference.key.clone(), reference)).collect();
    let mut storages = Storages::default();
    // At most the length of the file: everything before it was read, or compared with what is left.
    let mut offset = begin;
    for key in keys {
        let Some(reference) = wanted.remove(key) else {
            return Err(Error::malformed(format!("storage {key} is listed, but no tensor refers to it")).at(offset));
        };
        let mut count = [0; COUNT as usize];
        source.read_at(offset, &mut count)?;
        let count = i64::from_le_bytes(count);
        let bytes = u64::try_from(count).ok().and_then(|count| count.checked_mul(reference.size));
        if bytes != Some(reference.bytes) {
            let expected = reference.bytes / reference.size;
            return Err(Error::malformed(format!("storage {key} has {count} elements, its tensors expect {expected}"))
                .at(offset));
        }
        offset += COUNT;
        if source.len() - offset < reference.bytes {
            let left = source.len() - offset;
            let found = format!("storage {key} has {} bytes, {left} are left; the file was cut short", reference.bytes);
            return Err(Error::malformed(found).at(offset));
        }
        let extent = Extent::Raw { offset, len: reference.bytes };
        offset += reference.bytes;
        let storage = Storage::new(Arc::clone(source), format!("storage {key}"), extent);
        storages.insert(reference, Arc::new(storage));
    }
    if let Some(missing) = wanted.keys().min() {
        return Err(Error::missing(format!("storage {missing} of a tensor is not in the file's key list")));
    }
    if offset != source.len() {
        let left = source.len() - offset;
        return Err(Error::malformed(format!("{left} bytes follow the last storage")).at(offset));
    }
    Ok(storages)
}
