//! The record of what a batch has written, so that the next one can skip what is up to date.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::io::{AtomicFile, Overwrite, Source, remote};

/// The name of the record in the folder of the outputs.
const NAME: &str = ".trinart-ckpt.json";

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
    fn of(path: &Path) -> io::Result<Self> {
        if remote::address(path).is_some() {
            let file = Source::open(path).map_err(io::Error::other)?;
            return Ok(Stamp { bytes: file.len(), modified: file.version().unwrap_or_default() });
        }
        let (mut bytes, mut newest) = (0, 0);
        add(path, &mut bytes, &mut newest)?;
        Ok(Stamp { bytes, modified: newest.to_string() })
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

/// What is recorded about an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    recipe: String,
    input: Stamp,
    output: Stamp,
}

/// The record of a folder. Does nothing unless it is on.
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
        if is_on && remote::address(folder).is_some() {
            let found = "outputs at an address have no record of earlier runs; expected a folder, or another option";
            return Err(Error::unsupported(found).in_file(folder));
        }
        if !is_on || !path.exists() {
            return Ok(recipes);
        }
        let fail = |error| Error::io("cannot read the record of earlier runs", error).in_file(&path);
        let bytes = fs::metadata(&path).map_err(fail)?.len();
        if bytes > MOST_BYTES {
            return Err(Error::limit(format!("{bytes} bytes, the limit is {MOST_BYTES}")).in_file(&path));
        }
        let found = serde_json::from_slice(&fs::read(&path).map_err(fail)?);
        recipes.outputs =
            found.map_err(|error| Error::malformed(format!("not a record of earlier runs: {error}")).in_file(&path))?;
        Ok(recipes)
    }

    fn key(&self, output: &Path) -> String {
        output.strip_prefix(&self.folder).unwrap_or(output).to_string_lossy().into_owned()
    }

    /// Whether an output is what this recipe makes of the input. `None` without a record of the output.
    pub(super) fn is_current(&self, output: &Path, input: &Path, recipe: &str) -> Option<bool> {
        let entry = self.outputs.get(&self.key(output))?;
        let is_same = |path: &Path, stamp: &Stamp| Stamp::of(path).is_ok_and(|found| found == *stamp);
        Some(entry.recipe == recipe && is_same(input, &entry.input) && is_same(output, &entry.output))
    }

    /// Records an output, and writes the record.
    pub(super) fn record(&mut self, output: &Path, input: &Path, recipe: &str) -> Result<()> {
        if !self.is_on {
            return Ok(());
        }
        let stamp = |path: &Path| {
            Stamp::of(path).map_err(|error| Error::io("cannot read the time of the last change", error).in_file(path))
        };
        let entry = Entry { recipe: recipe.to_owned(), input: stamp(input)?, output: stamp(output)? };
        self.outputs.insert(self.key(output), entry);
        let text = serde_json::to_string_pretty(&self.outputs).or_internal("a record cannot be written as JSON")?;
        AtomicFile::write(&self.folder.join(NAME), Overwrite::Replace, text.as_bytes())
    }
}
