//! Walks folders: lists every file, or every checkpoint, in a folder and its subfolders.
//!
//! Symbolic links are followed, unless they lead to a folder above the one that is walked. A file is listed once, whatever
//! number of links lead to it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::containers::{Container, diffusers, sniff};
use crate::error::{Error, Result};
use crate::io::{Identity, Source, identity, is_dir, remote};
use crate::limits;

/// The files below a path, each once.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// Files, and diffusers folders where they count as one. Sorted by path.
    pub files: Vec<PathBuf>,
    /// Number of sockets, pipes and devices.
    pub special: usize,
    /// Errors of folders that could not be read, and of links that lead nowhere.
    pub errors: Vec<Error>,
}

/// What was listed so far.
#[derive(Default)]
struct Lister {
    listing: Listing,
    /// The path by which each file is listed.
    files: HashMap<Identity, PathBuf>,
    folders: HashSet<Identity>,
    /// The folder that is listed, without links.
    root: PathBuf,
    /// Folders to list.
    pending: Vec<PathBuf>,
    /// Whether a diffusers folder counts as one file.
    keeps_models: bool,
}

/// Lists every file below a folder. A path that is not a folder is listed itself.
pub fn list_files(path: &Path) -> Listing {
    list(path, false)
}

/// Lists every file below a folder as [`list_files`], but a diffusers folder counts as one file.
pub fn list_models(path: &Path) -> Listing {
    list(path, true)
}

/// Lists the checkpoints below a folder: files with the extension of one, files of other names whose content is one, and
/// diffusers folders. Leaves out hidden files and those in hidden folders. A path that is not a folder, or a diffusers
/// folder, is listed itself.
pub fn list_checkpoints(path: &Path) -> Listing {
    let mut listing = list_models(path);
    listing.files = only_checkpoints(path, &listing.files);
    listing
}

/// Returns those of the files that [`list_models`] lists below a path which [`list_checkpoints`] does.
pub fn only_checkpoints(path: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let is_hidden = |file: &Path| {
        let below = file.strip_prefix(path).unwrap_or(file);
        below.iter().any(|part| part.as_encoded_bytes().starts_with(b"."))
    };
    let is_listed = |file: &&PathBuf| *file == path || (!is_hidden(file) && is_checkpoint(file));
    files.iter().filter(is_listed).cloned().collect()
}

/// The extensions that checkpoints have.
const EXTENSIONS: [&str; 5] = ["safetensors", "sft", "ckpt", "pt", "pth"];

/// How a torch zip begins, within these bytes: with the pickle.
const TORCH_HEAD: u64 = 256;

/// Returns whether a path is a checkpoint by its extension, or else by its content: many other files are zips.
fn is_checkpoint(path: &Path) -> bool {
    let has_extension = path.extension().is_some_and(|it| EXTENSIONS.iter().any(|one| it.eq_ignore_ascii_case(one)));
    if has_extension || is_dir(path) {
        return true;
    }
    let Ok(source) = Source::open(path) else { return false };
    match sniff(&source) {
        Ok(Container::TorchZip) => {
            let head = source.read(0, source.len().min(TORCH_HEAD)).unwrap_or_default();
            head.windows(8).any(|bytes| bytes == b"data.pkl")
        }
        found => found.is_ok(),
    }
}

/// Returns whether a path or an address leads to a folder that is no diffusers folder, and so stands for the files in it.
pub fn is_folder_of_files(path: &Path) -> bool {
    is_dir(path) && !diffusers::is_model(path)
}

fn list(path: &Path, keeps_models: bool) -> Listing {
    if !is_dir(path) || (keeps_models && diffusers::is_model(path)) {
        return Listing { files: vec![path.to_owned()], ..Listing::default() };
    }
    if let Some(address) = remote::address(path) {
        return match remote::files_below(&address) {
            Ok(files) => Listing { files: whole_models(files, keeps_models), ..Listing::default() },
            Err(error) => Listing { errors: vec![error.in_file(path)], ..Listing::default() },
        };
    }
    // A folder that cannot be resolved cannot be listed, either.
    let mut lister = Lister { root: path.canonicalize().unwrap_or_default(), keeps_models, ..Lister::default() };
    if let Err(error) = lister.add(path.to_owned()) {
        lister.listing.errors.push(error.in_file(path));
    }
    while let Some(folder) = lister.pending.pop() {
        if let Err(error) = lister.list(&folder) {
            lister.listing.errors.push(error.in_file(&folder));
        }
    }
    let Lister { mut listing, files, .. } = lister;
    listing.files = files.into_values().collect();
    listing.files.sort();
    listing
}

/// Puts the folder of a pipeline in place of its files, among the sorted addresses of files.
fn whole_models(files: Vec<PathBuf>, keeps_models: bool) -> Vec<PathBuf> {
    let is_index = |file: &&PathBuf| file.file_name().is_some_and(|name| name == diffusers::MODEL_INDEX);
    let models: Vec<PathBuf> = match keeps_models {
        true => files.iter().filter(is_index).filter_map(|file| file.parent().map(Path::to_owned)).collect(),
        false => Vec::new(),
    };
    let is_within = |file: &PathBuf| models.iter().any(|model| file.starts_with(model));
    let mut kept: Vec<PathBuf> = files.into_iter().filter(|file| !is_within(file)).collect();
    kept.extend(models);
    kept.sort();
    kept
}

impl Lister {
    fn list(&mut self, folder: &Path) -> Result<()> {
        let fail = |error| Error::io("cannot list the folder", error);
        for entry in fs::read_dir(folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if self.files.len() == limits::FOLDER_FILES {
                let found = format!("more files than the limit of {}; the rest was left out", limits::FOLDER_FILES);
                self.pending.clear();
                return Err(Error::limit(found));
            }
            if let Err(error) = self.add(path.clone()) {
                self.listing.errors.push(error.in_file(&path));
            }
        }
        Ok(())
    }

    /// Whether a link leads out of the folder that is listed, to one that contains it.
    fn is_above(&self, link: &Path) -> bool {
        link.canonicalize().is_ok_and(|target| target != self.root && self.root.starts_with(target))
    }

    /// Adds a file, or a folder to list, unless it was added before by another path.
    fn add(&mut self, path: PathBuf) -> Result<()> {
        let is_link = path.is_symlink();
        let what = if is_link { "cannot follow the link" } else { "cannot read" };
        let fail = |error| Error::io(what, error);
        let metadata = fs::metadata(&path).map_err(fail)?;
        let identity = identity(&path).map_err(fail)?;
        if metadata.is_dir() {
            if is_link && self.is_above(&path) {
                return Err(Error::unsupported(
                    "the link leads to a folder that contains the one being read; it was not followed",
                ));
            }
            if !self.folders.insert(identity) {
                return Ok(());
            }
            match self.keeps_models && diffusers::is_model(&path) {
                true => drop(self.files.insert(identity, path)),
                false => self.pending.push(path),
            }
        } else if !metadata.is_file() {
            self.listing.special += 1;
        } else {
            match self.files.entry(identity) {
                Entry::Vacant(entry) => drop(entry.insert(path)),
                // The name that tells most: caches link names to files that are named by hash.
                Entry::Occupied(mut entry) => {
                    let rank = |path: &PathBuf| (path.extension().is_none(), path.clone());
                    if rank(&path) < rank(entry.get()) {
                        entry.insert(path);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_checkpoints_by_extension_and_content_and_folders_as_one() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let put = |from: &str, to: &str| {
            let to = root.join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(fixtures.join(from), to).unwrap();
        };
        put("tiny-vae.ckpt", "sub/deeper/a.ckpt");
        put("tiny-vae.ckpt", "renamed.bak");
        put("tiny-sd1.safetensors", "download (1)");
        put("tiny-sd1.safetensors", ".hidden.safetensors");
        put("tiny-sd1.safetensors", ".cache/b.safetensors");
        put("diffusers/sd1/model_index.json", "model/model_index.json");
        put("tiny-vae.ckpt", "model/vae/diffusion_pytorch_model.bin");
        fs::write(root.join("notes.txt"), "not a checkpoint").unwrap();
        fs::write(root.join("broken.safetensors"), "not one either").unwrap();
        fs::write(root.join("other.zip"), b"PK\x03\x04 and more").unwrap();
        let names = |listing: Listing| -> Vec<String> {
            let name = |file: &PathBuf| file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            listing.files.iter().map(name).collect()
        };
        let expected = ["broken.safetensors", "download (1)", "model", "renamed.bak", "sub/deeper/a.ckpt"];
        assert_eq!(names(list_checkpoints(root)), expected);
        assert_eq!(names(list_files(root)).len(), 10);
        assert_eq!(list_checkpoints(&root.join("model")).files, [root.join("model")]);
        assert_eq!(list_checkpoints(&root.join("notes.txt")).files, [root.join("notes.txt")]);
    }
}
