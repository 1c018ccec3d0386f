use std::path::{Path, PathBuf};

use trinart_ckpt_formats::Error;
use trinart_ckpt_formats::io::{file_bytes, remote};
use trinart_ckpt_formats::walk::{self, Listing};

/// A file or diffusers folder to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Input {
    /// The path.
    pub path: PathBuf,
    /// The path below the folder in which it was found; the name of a file that was given itself.
    pub relative: PathBuf,
    /// Whether it was found in a folder, rather than given itself.
    pub is_found: bool,
}

/// The files and diffusers folders that paths stand for.
///
/// A path to a file or a diffusers folder stands for itself, one to any other folder for all checkpoints in it and its
/// subfolders, by the rules of [`walk::list_checkpoints`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Inputs {
    /// The files, in the order of the paths; those of a folder are sorted.
    pub files: Vec<Input>,
    /// Errors of folders that could not be read or have no checkpoint, and of links that lead nowhere.
    pub errors: Vec<Error>,
}

impl Inputs {
    /// Lists the files that paths stand for.
    pub fn list<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let mut inputs = Inputs::default();
        for path in paths {
            inputs.add(path.as_ref());
        }
        inputs
    }

    fn add(&mut self, path: &Path) {
        let Listing { files, errors, .. } = walk::list_checkpoints(path);
        if files.is_empty() && errors.is_empty() {
            let found = "the folder has no checkpoints; expected a checkpoint, a diffusers folder, or a folder of such";
            self.errors.push(Error::missing(found).in_file(path));
        }
        self.errors.extend(errors);
        self.files.extend(files.into_iter().map(|file| {
            let below = file.strip_prefix(path).ok().filter(|below| !below.as_os_str().is_empty()).map(Path::to_owned);
            let is_found = below.is_some();
            let name = || file.file_name().map_or_else(|| file.clone(), PathBuf::from);
            Input { relative: below.unwrap_or_else(name), path: file, is_found }
        }));
    }

    /// Leaves out what was found below a folder, such as the outputs of an earlier run. Files that were given themselves stay.
    #[must_use]
    pub fn without_below(mut self, folder: &Path) -> Self {
        if remote::address(folder).is_some() {
            self.files.retain(|input| !input.is_found || !input.path.starts_with(folder));
        } else if let Ok(folder) = folder.canonicalize() {
            let is_below = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&folder));
            self.files.retain(|input| !input.is_found || !is_below(&input.path));
        }
        self
    }

    /// Whether the paths stand for anything but one file that was given itself.
    pub fn are_several(&self) -> bool {
        match self.files.as_slice() {
            [] => self.errors.len() != 1,
            [only] => only.is_found || !self.errors.is_empty(),
            _ => true,
        }
    }

    /// The size of all files together, in bytes. That of a diffusers folder counts as 0.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|input| file_bytes(&input.path)).fold(0, u64::saturating_add)
    }
}
