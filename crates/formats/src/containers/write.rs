use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::containers::file_layout::FileLayout;
use crate::containers::payload::{self, Filled};
use crate::containers::structure::Structure;
use crate::containers::target::Target;
use crate::containers::write_options::{WriteOptions, Written};
use crate::containers::{copy, diffusers, safetensors, torch, verify};
use crate::error::{Error, Hint, Kind, Result};
use crate::io::{AtomicFile, AtomicFolder, Overwrite, Source, check_inner_path};
use crate::metadata::Metadata;
use crate::state_dict::StateDict;
use crate::tensor::non_finite;

/// The formats of a single file.
#[derive(Debug, Clone, Copy)]
enum FileFormat<'a> {
    /// A safetensors file.
    Safetensors,
    /// A torch zip of the tensors and their metadata.
    Torch(&'a Structure),
    /// A torch zip of the tensors alone: the `.bin` file of a diffusers folder.
    TorchBare,
}

impl<'a> FileFormat<'a> {
    /// Returns the format of a target. Fails for a folder.
    fn of(target: Target, structure: &'a Structure) -> Result<Self> {
        match target {
            Target::Safetensors => Ok(FileFormat::Safetensors),
            Target::Torch => Ok(FileFormat::Torch(structure)),
            Target::Diffusers => {
                Err(Error::usage("a diffusers folder is not a single file").with_hint(Hint::OutputFolder))
            }
        }
    }

    /// Returns the format of the weights at this path in a folder.
    fn of_weights(path: &str) -> Self {
        if path.ends_with(".bin") { FileFormat::TorchBare } else { FileFormat::Safetensors }
    }
}

/// Returns the length of the file that [`write()`] would write, without reading a tensor.
///
/// Fails if the target cannot hold the state dict.
pub fn check_target(state_dict: &StateDict, metadata: &Metadata, target: Target, structure: &Structure) -> Result<u64> {
    check_format(state_dict, metadata, FileFormat::of(target, structure)?)
}

fn check_format(state_dict: &StateDict, metadata: &Metadata, format: FileFormat<'_>) -> Result<u64> {
    let layout = layout(state_dict, metadata, format).map_err(|error| blame_input(state_dict, error))?;
    Ok(layout.bytes)
}

/// Returns the length of all files that [`write_folder`] would write, without reading a tensor.
///
/// Fails if two entries have the same path, if a path leads out of the folder, or if a file cannot hold its tensors or
/// metadata.
pub fn check_folder(entries: &[diffusers::Entry]) -> Result<u64> {
    check_paths(entries)?;
    entries.iter().try_fold(0_u64, |sum, entry| {
        let bytes = match entry {
            diffusers::Entry::Weights { path, state_dict, metadata } => {
                check_format(state_dict, metadata, FileFormat::of_weights(path))?
            }
            diffusers::Entry::Copy { source, .. } => source.len(),
            diffusers::Entry::Text { content, .. } => content.len() as u64,
        };
        add_bytes(sum, bytes)
    })
}

fn add_bytes(sum: u64, bytes: u64) -> Result<u64> {
    sum.checked_add(bytes).ok_or_else(|| Error::limit("the output would be larger than any disk can hold"))
}

/// Fails if a path is not within the folder, or if two entries have the same path.
pub(super) fn check_paths(entries: &[diffusers::Entry]) -> Result<()> {
    let mut paths = HashSet::new();
    for entry in entries {
        check_inner_path(entry.path())?;
        if !paths.insert(entry.path()) {
            return Err(Error::conflict(format!("two files of the folder have the path {:?}", entry.path())));
        }
    }
    Ok(())
}

/// Adds the file that a tensor comes from to an error about that tensor.
fn blame_input(state_dict: &StateDict, error: Error) -> Error {
    let tensor = error.tensor().and_then(|key| state_dict.get(key));
    match tensor.and_then(|tensor| tensor.storages().first().copied()) {
        Some(storage) if error.kind() != Kind::Unverified => {
            let path = storage.source().path().to_owned();
            error.in_file(path)
        }
        _ => error,
    }
}

fn layout(state_dict: &StateDict, metadata: &Metadata, format: FileFormat<'_>) -> Result<FileLayout> {
    match format {
        FileFormat::Safetensors => safetensors::layout(state_dict, metadata),
        FileFormat::Torch(structure) => torch::layout(state_dict, metadata, structure),
        FileFormat::TorchBare if metadata.is_empty() => torch::layout(state_dict, metadata, &Structure::Bare),
        FileFormat::TorchBare => Err(Error::unsupported("the .bin file of a folder cannot hold metadata")),
    }
}

/// Writes a state dict and its metadata to a file. Replaces `path` in one step, or leaves it unchanged on failure.
///
/// A safetensors file stores metadata as text, a torch file as values beside `state_dict`. Uses a few megabytes of memory
/// per thread. Fails if `target` is a folder, if an input changes while it is read or does not match its own checksums, or
/// if the output differs from the plan when it is read back.
pub fn write(
    path: &Path,
    target: Target,
    state_dict: &StateDict,
    metadata: &Metadata,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let format = FileFormat::of(target, options.structure).map_err(|error| error.in_file(path))?;
    write_format(path, format, state_dict, metadata, options)
}

fn write_format(
    path: &Path,
    format: FileFormat<'_>,
    state_dict: &StateDict,
    metadata: &Metadata,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let written = write_file(path, format, state_dict, metadata, options);
    written.map_err(|error| blame_input(state_dict, error).in_file(path))
}

/// Writes a diffusers folder. Replaces `path` in one step, or leaves it unchanged on failure.
///
/// Fails as [`write()`] does, or if two entries have the same path or a path leads out of the folder.
pub fn write_folder(path: &Path, entries: &[diffusers::Entry], options: &WriteOptions<'_>) -> Result<Written> {
    check_folder_destination(path, entries, options.overwrite)?;
    let folder = AtomicFolder::create(path, options.overwrite)?;
    // The folder is new: an existing file in it would be one of its own.
    let new_file = options.overwrite(Overwrite::Refuse);
    let (mut bytes, mut non_finite) = (0, Vec::new());
    for entry in entries {
        match entry {
            diffusers::Entry::Text { path, content } => {
                folder.write(path, content)?;
                bytes = add_bytes(bytes, content.len() as u64)?;
            }
            diffusers::Entry::Copy { path, source } => {
                let copied = copy::copy(&folder.create_parent(path)?, source, &new_file);
                bytes = add_bytes(bytes, copied.map_err(|error| folder.error_at_destination(error))?)?;
            }
            diffusers::Entry::Weights { path, state_dict, metadata } => {
                let file = folder.create_parent(path)?;
                let written = write_format(&file, FileFormat::of_weights(path), state_dict, metadata, &new_file);
                let written = written.map_err(|error| folder.error_at_destination(error))?;
                bytes = add_bytes(bytes, written.bytes)?;
                let component = path.split_once('/').map_or("", |(component, _)| component);
                non_finite.extend(written.non_finite.into_iter().map(|found| found.within(component)));
            }
        }
    }
    options.progress.check()?;
    folder.persist()?;
    Ok(Written { bytes, verified: options.verify, sha256: None, non_finite })
}

/// Fails if the folder `path` must not be replaced by these files; see [`AtomicFolder::check_destination`]. Fails also if
/// two entries have the same path or a path leads out of the folder.
pub fn check_folder_destination(path: &Path, entries: &[diffusers::Entry], overwrite: Overwrite) -> Result<()> {
    check_paths(entries).map_err(|error| error.in_file(path))?;
    let first = |path: &'_ str| path.split('/').next().map(str::to_owned);
    let is_replaced = |name: &str| {
        diffusers::is_weights(name) || entries.iter().any(|entry| first(entry.path()).as_deref() == Some(name))
    };
    let mut inputs = entries.iter().flat_map(|entry| match entry {
        diffusers::Entry::Weights { state_dict, .. } => {
            let storages = state_dict.iter().flat_map(|(_, tensor)| tensor.storages());
            storages.map(|storage| storage.source().path()).collect()
        }
        diffusers::Entry::Copy { source, .. } => vec![source.path()],
        diffusers::Entry::Text { .. } => Vec::new(),
    });
    AtomicFolder::check_destination(path, overwrite, &is_replaced)?;
    AtomicFolder::check_inputs(path, &mut inputs)
}

fn write_file(
    path: &Path,
    format: FileFormat<'_>,
    state_dict: &StateDict,
    metadata: &Metadata,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let FileLayout { records, locations, bytes, headers } = layout(state_dict, metadata, format)?;
    let file = AtomicFile::create(path, options.overwrite)?;
    file.reserve(bytes)?;
    options.progress.begin("writing", bytes);
    let Filled { sums, non_finite } = payload::fill(&file, bytes, &records, options.jobs, options.progress)?;
    if options.strict {
        non_finite::refuse(&non_finite)?;
    }
    for (offset, bytes) in headers(&sums)? {
        file.write_at(offset, &bytes)?;
    }
    check_inputs(state_dict)?;
    // The sync keeps the disk busy while the comparison keeps the CPU busy.
    let sha256 = thread::scope(|scope| {
        let sync = thread::Builder::new().spawn_scoped(scope, || file.sync());
        let sha256 = if options.verify {
            options.progress.begin("verifying", bytes);
            let plan =
                verify::Plan { state_dict, metadata, records: &records, locations: &locations, sums: &sums, bytes };
            Some(verify::verify(&file, &plan, options.jobs, options.progress)?)
        } else {
            None
        };
        let synced = match sync {
            Ok(sync) => {
                sync.join().unwrap_or_else(|_| Err(Error::internal("the thread that syncs the output panicked")))
            }
            // The system allows no further thread.
            Err(_) => file.sync(),
        };
        synced.map(|()| sha256)
    })?;
    options.progress.check()?;
    file.persist()?;
    Ok(Written { bytes, verified: options.verify, sha256, non_finite })
}

/// Fails if a file that tensors came from has changed since it was opened.
fn check_inputs(state_dict: &StateDict) -> Result<()> {
    let mut sources: Vec<&Arc<Source>> =
        state_dict.iter().flat_map(|(_, tensor)| tensor.storages()).map(|storage| storage.source()).collect();
    sources.sort_by_key(|source| Arc::as_ptr(source));
    sources.dedup_by_key(|source| Arc::as_ptr(source));
    sources.into_iter().try_for_each(|source| source.check_unchanged())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::metadata::PyValue;
    use crate::tensor::{Dtype, LazyTensor, Shape};

    fn weights(path: &str, metadata: Metadata) -> diffusers::Entry {
        let mut state_dict = StateDict::new();
        let tensor = LazyTensor::owned(Dtype::U8, Shape::new([1]).unwrap(), [7]).unwrap();
        state_dict.insert("a", tensor).unwrap();
        diffusers::Entry::Weights { path: path.to_owned(), state_dict, metadata }
    }

    fn text(path: &str) -> diffusers::Entry {
        diffusers::Entry::Text { path: path.to_owned(), content: b"text".to_vec() }
    }

    /// Fails to write and to plan the folder, and creates nothing.
    #[track_caller]
    fn assert_refused(entries: &[diffusers::Entry], word: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/out");
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
            let options = WriteOptions::default().overwrite(overwrite);
            let error = write_folder(&path, entries, &options).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(check_folder(entries).unwrap_err().to_string().contains(word));
        let found = |path: &Path| std::fs::read_dir(path).unwrap().count();
        assert_eq!((found(folder.path()), found(&folder.path().join("a"))), (1, 1));
        assert_eq!(found(&folder.path().join("a/b")), 0);
    }

    #[test]
    fn rejects_entries_that_lead_out_of_the_folder() {
        for path in ["../x.safetensors", "../../x.bin", "/tmp/x.json", "unet/../../x", "./x", "", "unet/"] {
            assert_refused(&[text("good"), text(path)], "not a path within");
            assert_refused(&[text("good"), weights(path, Metadata::new())], "not a path within");
        }
    }

    #[test]
    fn rejects_entries_with_the_same_path() {
        let twice = || weights("unet/x.safetensors", Metadata::new());
        assert_refused(&[twice(), twice()], "have the path");
        assert_refused(&[text("unet/x.safetensors"), twice()], "have the path");
    }

    #[test]
    fn a_bin_file_holds_no_metadata() {
        let metadata = Metadata::from([("epoch".to_owned(), PyValue::Int(3))]);
        assert_refused(&[weights("x.bin", metadata)], "cannot hold metadata");
        let folder = tempfile::tempdir().unwrap();
        let entries = [weights("x.bin", Metadata::new())];
        let written = write_folder(&folder.path().join("out"), &entries, &WriteOptions::default()).unwrap();
        assert_eq!((written.bytes, written.verified), (check_folder(&entries).unwrap(), true));
    }
}
