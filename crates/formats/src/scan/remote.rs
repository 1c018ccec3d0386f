//! What a scan needs of a file behind an address.
//!
//! Of a torch zip, it is everything but the contents of storages, which loaders take for numbers; of a safetensors file, its
//! header and its end. Of other files, everything is fetched.

use super::zip;
use crate::containers::{Container, safetensors, sniff};
use crate::error::Result;
use crate::io::{Image, Parts, Progress, Source};
use std::sync::Arc;

/// Bytes at the start and the end that are fetched first. The end holds the directory of a zip, behind which a comment of
/// 64 KiB may follow.
const START: u64 = 512 << 10;
const END: u64 = 256 << 10;

/// Files of up to this size are fetched whole.
const SMALL: u64 = START + END;

/// Fetches what a scan of a file needs. Returns how many bytes it does not have.
pub(super) fn image(source: &Arc<Source>, progress: &dyn Progress) -> Result<(Image, u64)> {
    let len = source.len();
    if len > SMALL {
        let parts = match sniff(source) {
            Ok(Container::TorchZip) => torch_zip(source)?,
            Ok(Container::Safetensors) => header(source)?,
            _ => None,
        };
        if let Some(parts) = parts {
            let missing = len.saturating_sub(parts.fetched);
            return Ok((parts.finish()?, missing));
        }
    }
    Ok((Image::whole(source, progress)?, 0))
}

/// Fetches the header and the end of a safetensors file. `None` if the end is that of a zip.
fn header(source: &Arc<Source>) -> Result<Option<Parts<'_>>> {
    // A header that cannot be right is reported by the reader.
    let Ok(begin) = safetensors::data_offset(source) else { return Ok(None) };
    let mut parts = Parts::new(source)?;
    let end = source.len() - END;
    parts.fetch(0..begin.max(START).min(end))?;
    parts.fetch(end.max(begin)..source.len())?;
    Ok(if zip::ends_with_zip(parts.bytes()) { None } else { Some(parts) })
}

/// Fetches all of a torch zip but the contents of its storages. `None` if it has an unusual structure.
fn torch_zip(source: &Arc<Source>) -> Result<Option<Parts<'_>>> {
    let mut parts = Parts::new(source)?;
    parts.fetch(0..START)?;
    parts.fetch(source.len() - END..source.len())?;
    let Some(begin) = zip::plain_directory(parts.bytes()) else { return Ok(None) };
    parts.fetch(begin.min(source.len() - END)..source.len() - END)?;
    let Some(pickles) = zip::pickles(parts.bytes()) else { return Ok(None) };
    for range in pickles {
        parts.fetch(range.start.max(START)..range.end)?;
    }
    let Some(others) = zip::without_storages(parts.bytes()) else { return Ok(None) };
    for range in others {
        parts.fetch(range.start.max(START)..range.end)?;
    }
    Ok(Some(parts))
}
