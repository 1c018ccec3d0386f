//! What stands at a path or behind an address: files, folders, small contents.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Source;
use super::remote::{self, RemoteKind, address, files_below, kind};
use crate::error::{Error, Result};

/// Whether a path or an address leads to a file.
pub fn is_file(path: &Path) -> bool {
    address(path).map_or_else(|| path.is_file(), |address| kind(&address) == Some(RemoteKind::File))
}

/// Whether a path or an address leads to a folder.
pub fn is_dir(path: &Path) -> bool {
    address(path).map_or_else(|| path.is_dir(), |address| kind(&address) == Some(RemoteKind::Folder))
}

/// The size of a file in bytes; 0 for a folder, and for what cannot be read.
pub fn file_bytes(path: &Path) -> u64 {
    match address(path) {
        Some(address) if kind(&address) == Some(RemoteKind::File) => {
            remote::open(&address).map_or(0, |file| file.bytes())
        }
        Some(_) => 0,
        None => fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |found| found.len()),
    }
}

/// Lists the names of the entries of a folder, in any order. Leaves out names that are not UTF-8.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let Some(address) = address(folder) else {
        let fail = |error| Error::io("cannot list the folder", error).in_file(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(fail)? {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        return Ok(names);
    };
    let below = format!("{}/", address.trim_end_matches('/'));
    let files = files_below(&address).map_err(|error| error.in_file(folder))?;
    let first = |file: &PathBuf| Some(file.to_str()?.strip_prefix(&below)?.split('/').next()?.to_owned());
    let mut names: Vec<String> = files.iter().filter_map(first).collect();
    names.dedup();
    Ok(names)
}

/// Reads a file of at most `most` bytes, or one behind an address. `what` names the content in the error of a larger file.
pub fn read_small(path: &Path, what: &str, most: u64) -> Result<Vec<u8>> {
    let too_large = |bytes: u64| Error::limit(format!("{bytes} bytes of {what}, the limit is {most}")).in_file(path);
    if address(path).is_some() {
        let source = Source::open(path)?;
        return if source.len() > most { Err(too_large(source.len())) } else { source.read(0, source.len()) };
    }
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > most {
        return Err(too_large(bytes));
    }
    let mut content = Vec::new();
    // The file may grow meanwhile.
    fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut content)).map_err(fail)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_error_where_nothing_is_connected() {
        let path = Path::new("https://example.invalid/a.safetensors");
        assert!(Source::open(path).unwrap_err().to_string().contains("reads paths only"));
        assert!(!is_file(path) && !is_dir(path));
        assert_eq!(file_bytes(path), 0);
    }
}
