use std::sync::Arc;

use super::archive::Archive;
use super::contents;
use super::storages::{Storages, references};
use crate::containers::{Container, StoredCheckpoint, TrailingBytes};
use crate::error::{Error, Result};
use crate::io::Source;
use crate::limits;
use crate::pickle;

/// The container versions that PyTorch reads.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=10;

/// Reads a torch zip: its directory and its pickle.
///
/// Fails if the pickle refers to a storage that is missing or has another length.
pub(in crate::containers) fn read(source: &Arc<Source>) -> Result<StoredCheckpoint> {
    let archive = Archive::open(source)?;
    let Some(bytes) = archive.read("data.pkl", limits::PICKLE_BYTES)? else {
        return Err(Error::unsupported("a zip without data.pkl; not a file of torch.save"));
    };
    if archive.get("constants.pkl").is_some() {
        return Err(Error::unsupported(
            "a TorchScript program, not a checkpoint; save its state_dict() with torch.save",
        ));
    }
    check_version(&archive)?;
    let big_endian = is_big_endian(&archive)?;
    let pickle = pickle::parse_vec(bytes).map_err(|error| error.in_record("data.pkl"))?;
    let mut storages = Storages::default();
    for reference in references(&pickle)? {
        let name = format!("data/{}", reference.key);
        let record = archive.get(&name).ok_or_else(|| {
            Error::missing("a tensor refers to this record, which is not in the file").in_record(name.as_str())
        })?;
        let storage = archive.storage(&name, record).big_endian(big_endian);
        if storage.len() != reference.bytes {
            let found = format!("it has {} bytes, its tensors expect {}", storage.len(), reference.bytes);
            return Err(Error::malformed(found).in_record(name));
        }
        storages.insert(reference, Arc::new(storage));
    }
    storages.check_inflated(source.len())?;
    let mut contents = StoredCheckpoint::for_source(source, Container::TorchZip);
    let end = archive.end()?;
    if end < source.len() {
        let (file, bytes) = (source.path().to_owned(), source.len() - end);
        contents.trailing.push(TrailingBytes { file, container: Container::TorchZip, offset: end, bytes });
    }
    contents::build(&pickle, &storages, contents).map_err(|error| error.in_record("data.pkl"))
}

fn check_version(archive: &Archive) -> Result<()> {
    let Some(text) = archive.read("version", limits::ZIP_TEXT_RECORD)? else {
        return Err(Error::missing("a zip without the record version, which torch.load requires"));
    };
    let version = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if version.is_some_and(|version| VERSIONS.contains(&version)) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&text);
    Err(Error::unsupported(format!("container version {:?}; PyTorch reads 1 to 10", text.trim())).in_record("version"))
}

fn is_big_endian(archive: &Archive) -> Result<bool> {
    match archive.read("byteorder", limits::ZIP_TEXT_RECORD)?.as_deref() {
        None | Some(b"little") => Ok(false),
        Some(b"big") => Ok(true),
        Some(other) => {
            let found = format!("expected little or big, found {:?}", String::from_utf8_lossy(other));
            Err(Error::malformed(found).in_record("byteorder"))
        }
    }
}
