//! Lists folders, and reads the small files in them.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::json::parse_json;
use super::{COMPONENTS, OTHER_COMPONENTS};
use crate::error::{Error, Result};
use crate::limits;

/// Returns the components of a pipeline whose tensors are read: those of a UNet, or else those of a transformer.
pub(super) fn components(path: &Path) -> impl Iterator<Item = &'static str> {
    let others: &[&str] = if path.join("unet").is_dir() { &[] } else { OTHER_COMPONENTS };
    COMPONENTS.iter().chain(others).copied()
}

/// Lists the entries of a folder with UTF-8 names, sorted.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let fail = |error| Error::io("cannot list the folder", error).in_file(folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Reads a file of at most `most` bytes.
pub(super) fn text(path: &Path, most: u64) -> Result<Vec<u8>> {
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > most {
        return Err(Error::limit(format!("{bytes} bytes of JSON or text, the limit is {most}")).in_file(path));
    }
    let mut content = Vec::new();
    // The file may grow meanwhile.
    fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut content)).map_err(fail)?;
    Ok(content)
}

/// Reads a configuration.
pub(super) fn json(path: &Path) -> Result<Value> {
    parse_json(&text(path, limits::CONFIG_FILE)?).map_err(|error| error.in_file(path))
}
