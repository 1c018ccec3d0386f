use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::error::{Error, Kind, Result};
use crate::format::frame::Frame;
use crate::format::{diffusers, payload, safetensors, torch, verify};
use crate::io::{Overwrite, Progress, Scratch, ScratchFolder, Source};
use crate::metadata::Metadata;
use crate::state_dict::StateDict;

/// The containers this program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// safetensors.
    Safetensors,
    /// The zip that PyTorch and WebUI load.
    Torch,
    /// The same of tensors alone, without metadata: the `.bin` of a diffusers folder.
    TorchBare,
    /// A diffusers folder.
    Diffusers,
}

impl Target {
    /// The container that a path asks for: a folder, or what ends in `/`, that of diffusers; else by its extension.
    pub fn of_path(path: &Path) -> Result<Self> {
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Ok(Target::Diffusers);
        }
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("safetensors") => Ok(Target::Safetensors),
            Some("ckpt" | "pt" | "pth" | "bin") => Ok(Target::Torch),
            _ => Err(Error::usage("cannot tell the output's format; end it in .safetensors, .ckpt or /, or give --to")
                .in_file(path)),
        }
    }

    /// Its name for people and for `--to`.
    pub fn name(self) -> &'static str {
        match self {
            Target::Safetensors => "safetensors",
            Target::Torch => "ckpt",
            Target::TorchBare => "bin",
            Target::Diffusers => "diffusers",
        }
    }
}

/// How to write.
#[derive(Clone, Copy)]
pub struct WriteOptions<'a> {
    /// What becomes of a file that is there already.
    pub overwrite: Overwrite,
    /// Whether the output is read again and held against the plan.
    pub verify: bool,
    /// Threads.
    pub jobs: usize,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether it was read again and found as planned.
    pub verified: bool,
}

/// Whether the target can hold this state dict; returns the bytes of the file. Reads no tensor, writes nothing.
pub fn check_target(state_dict: &StateDict, metadata: &Metadata, target: Target) -> Result<u64> {
    let frame = frame(state_dict, metadata, target).map_err(|error| blame_input(state_dict, error))?;
    Ok(frame.bytes)
}

/// As [`check_target`], for the files of a folder.
pub fn check_folder(entries: &[diffusers::Entry]) -> Result<u64> {
    let bytes = entries.iter().map(|entry| match entry {
        diffusers::Entry::Weights { path, state_dict, metadata } => {
            check_target(state_dict, metadata, target_of_weights(path))
        }
        diffusers::Entry::Text { content, .. } => Ok(content.len() as u64),
    });
    bytes.sum()
}

/// An error of a tensor is one of the file the tensor comes from.
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

fn frame(state_dict: &StateDict, metadata: &Metadata, target: Target) -> Result<Frame> {
    match target {
        // The weights of a folder are safetensors.
        Target::Safetensors | Target::Diffusers => safetensors::frame(state_dict, metadata),
        Target::Torch => torch::frame(state_dict, metadata),
        Target::TorchBare => torch::bare_frame(state_dict),
    }
}

/// Writes a state dict and its metadata to `path`, which afterwards is the whole new file or what it was before.
///
/// Metadata goes into a safetensors file as text and into a torch file as values beside `state_dict`. Memory is a few
/// megabytes per thread. An input that changed while it was read, or whose own checksums are wrong, is an error.
pub fn write(
    path: &Path,
    target: Target,
    state_dict: &StateDict,
    metadata: &Metadata,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let written = write_frame(path, target, state_dict, metadata, options);
    written.map_err(|error| blame_input(state_dict, error).in_file(path))
}

/// Writes the files of a diffusers folder to `path`, which afterwards is the whole new folder or what it was before.
/// As [`write()`] in all else.
pub fn write_folder(path: &Path, entries: &[diffusers::Entry], options: &WriteOptions<'_>) -> Result<Written> {
    check_folder_destination(path, entries, options.overwrite)?;
    let folder = ScratchFolder::create(path, options.overwrite)?;
    let mut bytes = 0;
    for entry in entries {
        match entry {
            diffusers::Entry::Text { path, content } => {
                folder.write(path, content)?;
                bytes += content.len() as u64;
            }
            diffusers::Entry::Weights { path, state_dict, metadata } => {
                let file = folder.inside(path)?;
                let written = write(&file, target_of_weights(path), state_dict, metadata, options);
                bytes += written.map_err(|error| folder.as_destination(error))?.bytes;
            }
        }
    }
    options.progress.check()?;
    folder.persist()?;
    Ok(Written { bytes, verified: options.verify })
}

fn target_of_weights(path: &str) -> Target {
    if path.ends_with(".bin") { Target::TorchBare } else { Target::Safetensors }
}

/// An error if these files may not be written to the folder `path`; see [`ScratchFolder::check_destination`].
pub fn check_folder_destination(path: &Path, entries: &[diffusers::Entry], overwrite: Overwrite) -> Result<()> {
    let first = |path: &'_ str| path.split('/').next().map(str::to_owned);
    let is_replaced = |name: &str| {
        diffusers::is_weights(name) || entries.iter().any(|entry| first(entry.path()).as_deref() == Some(name))
    };
    ScratchFolder::check_destination(path, overwrite, &is_replaced)
}

fn write_frame(
    path: &Path,
    target: Target,
    state_dict: &StateDict,
    metadata: &Metadata,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let Frame { records, places, bytes, surround } = frame(state_dict, metadata, target)?;
    let scratch = Scratch::create(path, options.overwrite)?;
    scratch.reserve(bytes)?;
    options.progress.begin("writing", bytes);
    let sums = payload::fill(&scratch, bytes, &records, options.jobs, options.progress)?;
    for (offset, bytes) in surround(&sums) {
        scratch.write_at(offset, &bytes)?;
    }
    check_inputs(state_dict)?;
    // The disk is busy with the sync while the processor is busy with the comparison.
    thread::scope(|scope| {
        let sync = scope.spawn(|| scratch.sync());
        if options.verify {
            options.progress.begin("verifying", bytes);
            let plan = verify::Plan { state_dict, metadata, records: &records, places: &places, sums: &sums, bytes };
            verify::verify(&scratch, &plan, options.jobs, options.progress)?;
        }
        sync.join().unwrap_or_else(|_| Err(Error::new(Kind::Io, "the sync of the output failed")))
    })?;
    options.progress.check()?;
    scratch.persist()?;
    Ok(Written { bytes, verified: options.verify })
}

/// Every file that tensors came from is still what it was when it was opened.
fn check_inputs(state_dict: &StateDict) -> Result<()> {
    let mut sources: Vec<&Arc<Source>> =
        state_dict.iter().flat_map(|(_, tensor)| tensor.storages()).map(|storage| storage.source()).collect();
    sources.sort_by_key(|source| Arc::as_ptr(source));
    sources.dedup_by_key(|source| Arc::as_ptr(source));
    sources.into_iter().try_for_each(|source| source.check_unchanged())
}
