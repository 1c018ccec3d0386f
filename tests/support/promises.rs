//! What every reader promises of any bytes at all: it takes them or refuses them by name, and never panics.
//!
//! Shared by `tests/fuzz.rs` and by the targets in `fuzz/`, so it uses the library and nothing else. Each function
//! returns in words the promise that was broken.
#![allow(dead_code)]

use std::fs;
use std::path::Path;

use trinart_ckpt::checkpoint::Checkpoint;
use trinart_ckpt::checkpoint::hash::content_hash;
use trinart_ckpt::danger::{self, Level};
use trinart_ckpt::format::{self, Contents, Target, WriteOptions};
use trinart_ckpt::io::{NoProgress, Overwrite};
use trinart_ckpt::pickle::{parse, survey};
use trinart_ckpt::plan::{convert, translate};
use trinart_ckpt::report::{Inspection, Scanned, components};
use trinart_ckpt::tensor::LazyTensor;
use trinart_ckpt::{Error, Metadata, StateDict, limits, scan};

/// Elements of a tensor that are looked at from either end, in bytes. Four bytes may be seen as a gigabyte.
const PIECE: u64 = 1 << 16;

/// Bytes of all tensors of a file that is written again, and hashed.
const MOST_WRITTEN: u64 = 4 << 20;

type Broken = Result<(), String>;

/// A refusal is one line that names the file; it is never a promise of the output that was broken.
fn refused(error: &Error) -> Broken {
    let line = error.to_string();
    if error.file().is_none() {
        return Err(format!("an error that names no file: {line}"));
    }
    if line.chars().any(char::is_control) {
        return Err(format!("an error that is not one line of text: {line:?}"));
    }
    Ok(())
}

/// Opens a file or a folder, reads its tensors, says what it is, hashes it, writes it to `outputs` and reads it again.
pub(crate) fn open(path: &Path, outputs: &Path) -> Broken {
    let checkpoint = match Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return refused(&error),
    };
    let contents = checkpoint.contents();
    for (key, tensor) in contents.state_dict.iter() {
        if let Err(error) = ends(tensor) {
            return refused(&error).map_err(|broken| format!("tensor {key:?}: {broken}"));
        }
    }
    inspect(&checkpoint)?;
    let total: u64 = contents.state_dict.iter().map(|(_, tensor)| tensor.bytes()).sum();
    if total > MOST_WRITTEN {
        return Ok(());
    }
    let hashed = content_hash(contents.state_dict.iter(), 1, &NoProgress).map_err(|error| error.in_file(path));
    let Ok(hash) = hashed.map_err(|error| refused(&error)) else { return Ok(()) };
    if !path.is_dir()
        && let Err(error) = checkpoint.file_hashes(1, &NoProgress)
    {
        refused(&error)?;
    }
    for (name, target) in [("again.safetensors", Target::Safetensors), ("again.ckpt", Target::Torch)] {
        write_and_read(contents, &hash, &outputs.join(name), target)?;
    }
    Ok(())
}

/// What `inspect` and a dry run of `convert` say.
fn inspect(checkpoint: &Checkpoint) -> Broken {
    let detection = translate::detect_checkpoint(checkpoint);
    let components = components(&checkpoint.contents().state_dict, detection.architecture());
    let inspection = Inspection::new(checkpoint, components, &detection, None, true);
    one_line_each(&inspection.to_text())?;
    serde_json::to_string(&inspection).map_err(|error| error.to_string())?;
    if let Err(error) = translate::to_ldm(checkpoint.clone()) {
        refused(&error)?;
    }
    match convert::plan(&checkpoint.clone().sanitized(), &convert::Options::default()) {
        Ok(_) => Ok(()),
        Err(error) => refused(&error.in_file(checkpoint.path())),
    }
}

fn one_line_each(text: &str) -> Broken {
    let control = text.chars().find(|character| character.is_control() && *character != '\n');
    control.map_or(Ok(()), |character| Err(format!("text from the file that a terminal would obey: {character:?}")))
}

/// The first and the last elements, as bytes.
fn ends(tensor: &LazyTensor) -> trinart_ckpt::Result<(Vec<u8>, Vec<u8>)> {
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

/// What is written holds the same tensors, and nothing that its reader has to be warned of.
fn write_and_read(contents: &Contents, hash: &str, output: &Path, target: Target) -> Broken {
    let options = WriteOptions::default().overwrite(Overwrite::Replace).jobs(1);
    let nothing = Metadata::new();
    // As the program does it: beside dangerous names nothing is trusted but the tensors.
    let metadata = if contents.dangers.is_empty() { &contents.metadata } else { &nothing };
    let state_dict: &StateDict = &contents.state_dict;
    if let Err(error) = format::write(output, target, state_dict, metadata, &options) {
        return refused(&error);
    }
    let again = format::open(output).map_err(|error| format!("it wrote what it cannot read: {error}"))?;
    let keys = |contents: &Contents| contents.state_dict.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    let (mut before, mut after) = (keys(contents), keys(&again));
    before.sort();
    after.sort();
    if before != after {
        return Err(format!("{before:?} was written, {after:?} is read"));
    }
    match content_hash(again.state_dict.iter(), 1, &NoProgress) {
        Ok(found) if found == hash => {}
        Ok(_) => return Err("the tensors written are not those read before".to_owned()),
        Err(error) => return Err(format!("it wrote what it cannot read: {error}")),
    }
    if !again.dangers.is_empty() || !again.opaque.is_empty() {
        return Err(format!("something opaque was written: {:?} {:?}", again.dangers, again.opaque));
    }
    fs::remove_file(output).map_err(|error| error.to_string())
}

/// Scans a file, and puts into words what was found.
pub(crate) fn scan(path: &Path) -> Broken {
    let scan = match scan::scan(path) {
        Ok(Some(scan)) => scan,
        Ok(None) => return refused(&scan::not_a_checkpoint(path)),
        Err(error) => return refused(&error),
    };
    if let Some(error) = &scan.problem {
        refused(error)?;
    }
    let scanned = Scanned::new(&scan);
    one_line_each(&scanned.to_text())?;
    serde_json::to_string(&scanned).map_err(|error| error.to_string())?;
    // What loading warns of, a scan finds too.
    if let Ok(contents) = format::open(path)
        && !contents.dangers.is_empty()
        && scan.level() < Level::Dangerous
    {
        return Err(format!("loading finds {:?}, a scan nothing", contents.dangers));
    }
    Ok(())
}

/// Parses a pickle and surveys it: a survey sees all that a reader does.
pub(crate) fn pickle(bytes: &[u8]) -> Broken {
    let seen = survey(bytes);
    let findings = danger::examine(&seen.pickle);
    // Whoever prints it makes it printable; here it only has to be made.
    findings.iter().for_each(|finding| drop(finding.to_text()));
    let Ok(parsed) = parse(bytes) else { return Ok(()) };
    if !seen.complete || seen.broken.is_some() {
        return Err("a pickle that is read whole, and broken to a survey".to_owned());
    }
    if parsed.bytes() != seen.pickle.bytes() || parsed.nodes().len() != seen.pickle.nodes().len() {
        return Err("a survey ends elsewhere than a reader".to_owned());
    }
    let names = |pickle: &trinart_ckpt::pickle::Pickle| {
        pickle.globals().iter().map(|global| (global.name.to_string(), global.offset)).collect::<Vec<_>>()
    };
    if names(&parsed) != names(&seen.pickle) {
        return Err("a survey sees other names than a reader".to_owned());
    }
    let most = limits::PICKLE_NODES;
    if parsed.nodes().len() > most { Err(format!("more than {most} values")) } else { Ok(()) }
}

/// A safetensors file of this header, and of as many bytes behind it as it can do with.
pub(crate) fn safetensors(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}
