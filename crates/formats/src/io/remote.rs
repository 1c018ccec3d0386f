//! Files that are not on this machine: addresses in place of paths.
//!
//! This crate has no network code. A program with such code [connects](connect) a [`Remote`]. Then [`Source::open`],
//! [`is_file`](super::is_file) and [`is_dir`](super::is_dir) accept addresses such as `https://host/model.safetensors` in
//! place of paths. A path that begins like an address is never looked for on this machine.
//!
//! [`Source::open`]: super::Source::open

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::overwrite::Overwrite;
use super::progress::Progress;
use crate::error::{Error, Hint, Kind, OrInternal, Result};

/// How addresses begin.
pub const SCHEMES: [&str; 4] = ["https://", "http://", "hf://", "s3://"];

/// A file elsewhere, readable at any offset from any thread.
///
/// Errors name no file: the caller adds the address.
pub trait RemoteFile: fmt::Debug + Send + Sync {
    /// Bytes of the file when it was opened.
    fn bytes(&self) -> u64;

    /// Fills `out` with the bytes at `offset`, which the caller has checked against the length. Fails if the file is not
    /// the one that was opened: its length or its tag changed.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// Fails if the file has changed since it was opened. Asks the server.
    fn check_unchanged(&self) -> Result<()>;

    /// The sha256 of the file, lower-case hexadecimal, as the server states it. It has not been compared with the bytes.
    fn stated_sha256(&self) -> Option<&str>;

    /// Text that differs if the content does, as far as the server tells: the tag and the length.
    fn version(&self) -> String;
}

/// What an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A file.
    File,
    /// A folder: a repository, or a prefix of names.
    Folder,
}

/// Opens addresses.
pub trait Remote: Send + Sync {
    /// Opens a file. Opening one again returns the same file while it is in use.
    fn open(&self, address: &str) -> Result<Arc<dyn RemoteFile>>;

    /// The [version](RemoteFile::version) of a file, with one small request at most.
    fn version(&self, address: &str) -> Result<String>;

    /// What an address leads to; `None` for nothing. Makes no request where the address itself tells.
    fn kind(&self, address: &str) -> Result<Option<RemoteKind>>;

    /// The addresses of all files below a folder, sorted.
    fn list(&self, address: &str) -> Result<Vec<String>>;

    /// The addresses of the files in the same folder whose names begin as that of this address. `None` where the server
    /// lists no files, or refuses to.
    fn beside(&self, address: &str) -> Result<Option<Vec<String>>>;

    /// Asks the server about an output. Returns `None` if the output does not exist. Fails for addresses that cannot be
    /// written to.
    fn stored(&self, address: &str) -> Result<Option<Stored>>;

    /// Stores the content of a file on this machine. It appears whole or not at all. Fails if there is a file already,
    /// unless it may be replaced.
    fn store(&self, address: &str, file: &Path, how: &Storing<'_>) -> Result<()>;
}

/// An output at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The text that it was [stored](Storing::record) with.
    pub record: Option<String>,
}

/// How to store an output.
#[derive(Clone, Copy)]
pub struct Storing<'a> {
    /// Whether what is there may be replaced.
    pub overwrite: Overwrite,
    /// A line of printable ASCII to keep with the output, as [`Stored`] returns it.
    pub record: Option<&'a str>,
    /// What observes the transfer.
    pub progress: &'a dyn Progress,
}

static REMOTE: OnceLock<Arc<dyn Remote>> = OnceLock::new();

/// Sets what opens addresses in this process. Returns whether it is the first: later calls change nothing.
pub fn connect(remote: Arc<dyn Remote>) -> bool {
    REMOTE.set(remote).is_ok()
}

/// The address that a path is; `None` for a path on this machine.
pub fn address(path: &Path) -> Option<Cow<'_, str>> {
    let is_address = SCHEMES.iter().any(|scheme| path.as_os_str().as_encoded_bytes().starts_with(scheme.as_bytes()));
    // Joining a path on Windows puts the other separator between the parts.
    is_address.then(|| {
        path.to_str().map(|text| if text.contains('\\') { text.replace('\\', "/").into() } else { text.into() })
    })?
}

fn remote() -> Result<&'static Arc<dyn Remote>> {
    REMOTE.get().ok_or_else(|| Error::unsupported("an address, and this program reads paths only"))
}

pub(super) fn open(address: &str) -> Result<Arc<dyn RemoteFile>> {
    remote()?.open(address)
}

/// What an address leads to; `None` for nothing, and for what cannot be asked: opening the address reports the error.
pub(super) fn kind(address: &str) -> Option<RemoteKind> {
    remote().ok()?.kind(address).ok()?
}

/// Fails if an output may not be written to an address: none can be, or there is a file that must not be replaced.
pub fn check_destination(path: &Path, overwrite: Overwrite) -> Result<()> {
    match stored(path)? {
        Some(_) if overwrite == Overwrite::Refuse => Err(already_exists(path)),
        _ => Ok(()),
    }
}

/// Asks the server about the output at an address. Returns `None` if the output does not exist.
pub fn stored(path: &Path) -> Result<Option<Stored>> {
    let address = address(path).or_internal("a path where an address is expected")?;
    remote().and_then(|remote| remote.stored(&address)).map_err(|error| error.in_file(path))
}

/// Text that differs if the content of the file behind an address does, as far as its server tells.
pub fn version(path: &Path) -> Result<String> {
    let address = address(path).or_internal("a path where an address is expected")?;
    remote().and_then(|remote| remote.version(&address)).map_err(|error| error.in_file(path))
}

/// The files in the folder of an address whose names begin as its own does. `None` where the server lists no files.
pub fn beside(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let address = address(path).or_internal("a path where an address is expected")?;
    let found = remote().and_then(|remote| remote.beside(&address)).map_err(|error| error.in_file(path))?;
    Ok(found.map(|files| files.into_iter().map(PathBuf::from).collect()))
}

/// Stores the content of a file on this machine at an address, where it appears whole or not at all.
pub fn store(path: &Path, file: &Path, how: &Storing<'_>) -> Result<()> {
    let address = address(path).or_internal("a path where an address is expected")?;
    let stored = remote()?.store(&address, file, how);
    stored.map_err(|error| if error.kind() == Kind::Conflict { already_exists(path) } else { error.in_file(path) })
}

fn already_exists(path: &Path) -> Error {
    Error::conflict("already exists").with_hint(Hint::Overwrite).in_file(path)
}

/// Lists all files below the address of a folder, sorted.
pub(crate) fn files_below(address: &str) -> Result<Vec<PathBuf>> {
    Ok(remote()?.list(address)?.into_iter().map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_schemes_are_addresses() {
        for text in ["https://host/a.safetensors", "http://127.0.0.1:1/a", "hf://owner/name/a.ckpt", "s3://bucket/key"]
        {
            assert_eq!(address(Path::new(text)).as_deref(), Some(text));
        }
        for text in ["a.safetensors", "/https://x", "ftp://host/a", "hf:/a", "C:\\models\\a.ckpt", "models/s3:/a"] {
            assert_eq!(address(Path::new(text)), None, "{text}");
        }
    }
}
