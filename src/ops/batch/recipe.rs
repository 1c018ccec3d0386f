//! The record of what a batch has written, so that the next one can skip what is up to date.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::io::{AtomicFile, Overwrite, read_small, remote};
use trinart_ckpt_formats::walk::list_files;
use trinart_ckpt_models::hash;

/// The name of the record in the folder of the outputs.
const NAME: &str = ".trinart-ckpt.json";

/// The name of the file that is locked while the record is written.
const LOCK: &str = ".trinart-ckpt.lock";

/// The size of the largest record: some hundred bytes for each output.
const MOST_BYTES: u64 = 64 << 20;

/// The size and the time of the last change of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    /// Nanoseconds since 1970, as text: numbers of JSON have no such precision; or the tag that a server states.
    modified: String,
}

impl Stamp {
    /// Returns that of a file, or of the newest file in a folder with the size of all. The tag of a file behind an address
    /// stands for its time.
    fn of(path: &Path) -> Result<Self> {
        let (mut bytes, mut newest) = (0, 0);
        if remote::address(path).is_none() {
            let fail = |error| Error::io("cannot read the time of the last change", error).in_file(path);
            add(path, &mut bytes, &mut newest).map_err(fail)?;
            return Ok(Stamp { bytes, modified: newest.to_string() });
        }
        let versions = list_files(path).files.iter().map(|file| remote::version(file)).collect::<Result<Vec<_>>>()?;
        // The versions have the sizes.
        Ok(Stamp { bytes, modified: versions.join(" ") })
    }
}

fn add(path: &Path, bytes: &mut u64, newest: &mut u128) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| add(&entry?.path(), bytes, newest));
    }
    *bytes = bytes.saturating_add(metadata.len());
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    *newest = (*newest).max(since);
    Ok(())
}

/// Returns text that differs if a file or a folder has changed, as far as its size and its time or the tag of its server
/// tell.
pub fn version_of(path: &Path) -> Result<String> {
    Stamp::of(path).map(|stamp| format!("{} {}", stamp.bytes, stamp.modified))
}

/// What is recorded about an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    recipe: String,
    input: Stamp,
    output: Stamp,
}

/// What the record says about an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is no output.
    Missing,
    /// The output is what this recipe makes of the input.
    Current,
    /// The output is of an earlier run, and another input, recipe or output.
    Outdated,
    /// No run with a record has written the output.
    Unknown,
}

/// The record of a folder. Does nothing unless it is on.
///
/// At an address, each output keeps its own: several programs may write into one prefix.
pub(super) struct Recipes {
    folder: PathBuf,
    is_on: bool,
    outputs: BTreeMap<String, Entry>,
}

impl Recipes {
    /// Reads the record of a folder. One that is not there is empty.
    pub(super) fn open(folder: &Path, is_on: bool) -> Result<Self> {
        let mut recipes = Recipes { folder: folder.to_owned(), is_on, outputs: BTreeMap::new() };
        let path = folder.join(NAME);
        if !is_on || remote::address(folder).is_some() || !path.exists() {
            return Ok(recipes);
        }
        let found = serde_json::from_slice(&read_small(&path, "a record of earlier runs", MOST_BYTES)?);
        recipes.outputs =
            found.map_err(|error| Error::malformed(format!("not a record of earlier runs: {error}")).in_file(&path))?;
        Ok(recipes)
    }

    /// Keeps other programs from writing the record. The lock ends with the file.
    fn lock(&self) -> Result<File> {
        let path = self.folder.join(LOCK);
        let fail = |error| Error::io("cannot lock the record of earlier runs", error).in_file(&path);
        let file = File::create(&path).map_err(fail)?;
        match file.lock() {
            // A file system without locks is one that programs do not share.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(fail(error)),
            _ => Ok(file),
        }
    }

    fn key(&self, output: &Path) -> String {
        output.strip_prefix(&self.folder).unwrap_or(output).to_string_lossy().into_owned()
    }

    /// What an output at an address is to keep, so that a later run can tell whether it is current. `None` for other
    /// outputs, and unless the record is on.
    pub(super) fn mark(&self, output: &Path, input: &Path, recipe: &str) -> Result<Option<String>> {
        if !self.is_on || remote::address(output).is_none() {
            return Ok(None);
        }
        let text =
            serde_json::to_vec(&(recipe, Stamp::of(input)?)).or_internal("a record cannot be written as JSON")?;
        Ok(Some(hash::bytes_sha256(&text)))
    }

    /// What is known of an output. `mark` is what [`Self::mark`] returns for it.
    pub(super) fn state(&self, output: &Path, input: &Path, recipe: &str, mark: Option<&str>) -> Result<State> {
        if let Some(mark) = mark {
            return Ok(match remote::stored(output)?.map(|stored| stored.record) {
                None => State::Missing,
                Some(None) => State::Unknown,
                Some(Some(record)) if record == mark => State::Current,
                Some(Some(_)) => State::Outdated,
            });
        }
        if !output.exists() {
            return Ok(State::Missing);
        }
        let Some(entry) = self.outputs.get(&self.key(output)) else { return Ok(State::Unknown) };
        let is_same = |path: &Path, stamp: &Stamp| Stamp::of(path).is_ok_and(|found| found == *stamp);
        let is_current = entry.recipe == recipe && is_same(input, &entry.input) && is_same(output, &entry.output);
        Ok(if is_current { State::Current } else { State::Outdated })
    }

    /// Records an output, and writes the record.
    pub(super) fn record(&mut self, output: &Path, input: &Path, recipe: &str) -> Result<()> {
        if !self.is_on || remote::address(output).is_some() {
            return Ok(());
        }
        let entry = Entry { recipe: recipe.to_owned(), input: Stamp::of(input)?, output: Stamp::of(output)? };
        let _lock = self.lock()?;
        // Other programs may have recorded outputs in the same folder meanwhile.
        self.outputs = Self::open(&self.folder, true)?.outputs;
        self.outputs.insert(self.key(output), entry);
        let text = serde_json::to_string_pretty(&self.outputs).or_internal("a record cannot be written as JSON")?;
        AtomicFile::write(&self.folder.join(NAME), Overwrite::Replace, text.as_bytes())
    }
}
