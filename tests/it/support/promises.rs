//! Checks the properties of every reader: it reads arbitrary bytes or rejects them with an error that names the file,
//! and it never panics.
//!
//! Each function returns a description of the violated property.

use std::fs;
use std::path::Path;

use trinart_ckpt::formats::containers::{self, Target, WriteOptions};
use trinart_ckpt::formats::danger;
use trinart_ckpt::formats::error::Error;
use trinart_ckpt::formats::io::{NoProgress, Overwrite};
use trinart_ckpt::formats::limits;
use trinart_ckpt::formats::metadata::Metadata;
use trinart_ckpt::formats::pickle::{parse, parse_lenient};
use trinart_ckpt::formats::state_dict::StateDict;
use trinart_ckpt::formats::tensor::LazyTensor;
use trinart_ckpt::formats::{OpenOptions, StoredCheckpoint};
use trinart_ckpt::models::checkpoint::Checkpoint;
use trinart_ckpt::models::hash::content_hash;
use trinart_ckpt::models::plan::convert;
use trinart_ckpt::ops::{HashCheckpoint, Inspect, Scan};
use trinart_ckpt::report::ScanVerdict;

/// Number of bytes to read at each end of a tensor. A view can expand four bytes to a gigabyte, so tensors are not read
/// completely.
const PIECE: u64 = 1 << 16;

/// Maximum total size of the tensors of a file that is hashed and rewritten, in bytes.
const MOST_WRITTEN: u64 = 4 << 20;

type Broken = Result<(), String>;

/// Checks that an error is one printable line and names the file.
fn refused(error: &Error) -> Broken {
    let line = error.to_string();
    if error.file().is_none() {
        return Err(format!("an error without a file: {line}"));
    }
    if line.chars().any(char::is_control) {
        return Err(format!("an error that is not one printable line: {line:?}"));
    }
    Ok(())
}

/// Opens a file or folder, reads its tensors, inspects and hashes it, writes it to `outputs` and reads it again.
pub(crate) fn open(path: &Path, outputs: &Path) -> Broken {
    let contents = match super::open(path) {
        Ok(contents) => contents,
        Err(error) => return refused(&error),
    };
    for (key, tensor) in contents.state_dict().iter() {
        if let Err(error) = ends(tensor) {
            return refused(&error).map_err(|broken| format!("tensor {key:?}: {broken}"));
        }
    }
    inspect(&contents)?;
    let total: u64 = contents.state_dict().iter().map(|(_, tensor)| tensor.bytes()).sum();
    if total > MOST_WRITTEN {
        return Ok(());
    }
    let hashed = content_hash(contents.state_dict().iter(), 1, &NoProgress).map_err(|error| error.in_file(path));
    let Ok(hash) = hashed.map_err(|error| refused(&error)) else { return Ok(()) };
    if let Err(error) = HashCheckpoint::new(path).jobs(1).run() {
        refused(&error)?;
    }
    for (name, target) in [("again.safetensors", Target::Safetensors), ("again.ckpt", Target::Torch)] {
        write_and_read(&contents, &hash, &outputs.join(name), target)?;
    }
    Ok(())
}

/// Builds the reports of `inspect` and of a dry run of `convert`.
fn inspect(contents: &StoredCheckpoint) -> Broken {
    let path = contents.path();
    let inspection =
        Inspect::new(path).keys(true).run().map_err(|error| format!("opened but not inspected: {error}"))?;
    one_line_each(&inspection.to_text())?;
    serde_json::to_string(&inspection).map_err(|error| error.to_string())?;
    let checkpoint = match Checkpoint::open_with(path, &OpenOptions::new().sanitize()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return refused(&error),
    };
    match convert::plan(&checkpoint, &convert::ConvertOptions::default()) {
        Ok(_) => Ok(()),
        Err(error) => refused(&error.in_file(path)),
    }
}

fn one_line_each(text: &str) -> Broken {
    let control = text.chars().find(|character| character.is_control() && *character != '\n');
    control.map_or(Ok(()), |character| Err(format!("a control character in the output: {character:?}")))
}

/// Reads the first and the last elements, as bytes.
fn ends(tensor: &LazyTensor) -> trinart_ckpt::formats::error::Result<(Vec<u8>, Vec<u8>)> {
    let size = tensor.dtype().size() as u64;
    let elements = tensor.bytes() / size;
    let count = elements.min(PIECE / size);
    let held = tensor.hold()?;
    let mut first = vec![0; (count * size) as usize];
    let mut last = first.clone();
    tensor.read(0, &mut first, None)?;
    tensor.read(elements - count, &mut last, None)?;
    drop(held);
    Ok((first, last))
}

/// Checks that an output contains the same tensors, and nothing dangerous or opaque.
fn write_and_read(contents: &StoredCheckpoint, hash: &str, output: &Path, target: Target) -> Broken {
    let options = WriteOptions::default().overwrite(Overwrite::Replace).jobs(1);
    let nothing = Metadata::new();
    // Like the program, use only the tensors of a file with dangerous names.
    let metadata = if contents.dangers().is_empty() { contents.metadata() } else { &nothing };
    let state_dict: &StateDict = contents.state_dict();
    if let Err(error) = containers::write(output, target, state_dict, metadata, &options) {
        return refused(&error);
    }
    let again = super::open(output).map_err(|error| format!("the output cannot be read: {error}"))?;
    let keys =
        |contents: &StoredCheckpoint| contents.state_dict().iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    let (mut before, mut after) = (keys(contents), keys(&again));
    before.sort();
    after.sort();
    if before != after {
        return Err(format!("wrote {before:?}, read {after:?}"));
    }
    match content_hash(again.state_dict().iter(), 1, &NoProgress) {
        Ok(found) if found == hash => {}
        Ok(_) => return Err("the tensors of the output differ from the input".to_owned()),
        Err(error) => return Err(format!("the output cannot be read: {error}")),
    }
    if !again.dangers().is_empty() || !again.opaque().is_empty() {
        return Err(format!(
            "the output contains dangerous or opaque values: {:?} {:?}",
            again.dangers(),
            again.opaque()
        ));
    }
    fs::remove_file(output).map_err(|error| error.to_string())
}

/// Scans a file and builds its report.
pub(crate) fn scan(path: &Path) -> Broken {
    let report = Scan::new([path]).run().map_err(|error| format!("the scan fails: {error}"))?;
    let [scanned] = report.files.as_slice() else { return Err(format!("{} files for one path", report.files.len())) };
    if let Some(error) = &scanned.error {
        refused(error)?;
    }
    one_line_each(&report.to_text())?;
    serde_json::to_string(&report).map_err(|error| error.to_string())?;
    // A scan finds every danger that loading finds.
    if let Ok(contents) = super::open(path)
        && !contents.dangers().is_empty()
        && scanned.verdict != ScanVerdict::Dangerous
    {
        return Err(format!("loading finds {:?}, a scan finds nothing", contents.dangers()));
    }
    Ok(())
}

/// Parses a pickle strictly and leniently. If the strict parser succeeds, both must return the same result.
pub(crate) fn pickle(bytes: &[u8]) -> Broken {
    let seen = parse_lenient(bytes);
    let findings = danger::examine(&seen.pickle);
    // Only checks that the text can be generated; callers escape it.
    findings.iter().for_each(|finding| drop(finding.to_text()));
    let Ok(parsed) = parse(bytes) else { return Ok(()) };
    if !seen.is_complete || seen.broken.is_some() {
        return Err("a valid pickle is invalid to a lenient parse".to_owned());
    }
    if parsed.bytes() != seen.pickle.bytes() || parsed.nodes().len() != seen.pickle.nodes().len() {
        return Err("a lenient parse ends at another place".to_owned());
    }
    let names = |pickle: &trinart_ckpt::formats::pickle::Pickle| {
        pickle.globals().iter().map(|global| (global.name.to_string(), global.offset)).collect::<Vec<_>>()
    };
    if names(&parsed) != names(&seen.pickle) {
        return Err("a lenient parse finds other names".to_owned());
    }
    let most = limits::PICKLE_NODES;
    if parsed.nodes().len() > most { Err(format!("more than {most} values")) } else { Ok(()) }
}
