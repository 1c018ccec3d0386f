use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::staging::{
    ATTEMPTS, check_in_use, check_name, check_parent, exists, recover, remove, replace_error, replace_in_two_steps,
    resolve, staging_name,
};
use crate::io::{Overwrite, sys};

/// A folder that replaces its destination in one step, or not at all; see [`AtomicFile`](super::AtomicFile).
///
/// It is filled under a hidden name beside the destination, then renamed. Dropping it before it is persisted
/// removes it. Only [`write_folder`](crate::containers::write_folder) creates one.
#[derive(Debug)]
pub struct AtomicFolder {
    /// Protects the folder from other processes, which would remove it as a leftover. `None` after it is removed.
    hold: Option<sys::Hold>,
    path: PathBuf,
    destination: PathBuf,
    overwrite: Overwrite,
    persisted: bool,
}

impl AtomicFolder {
    /// Creates an empty folder for `destination`, which must have passed [`AtomicFolder::check_destination`].
    ///
    /// Fails if the parent folder is not writable.
    pub(crate) fn create(destination: &Path, overwrite: Overwrite) -> Result<Self> {
        let (target, folder, name) = resolve(destination)?;
        recover(&folder, &name);
        for _ in 0..ATTEMPTS {
            let path = folder.join(staging_name(&name));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(Error::io("cannot create a temporary folder next to it", error).in_file(destination));
                }
            }
            // A concurrent process may have removed the folder as a leftover. Then retry.
            if let Some(hold) = sys::hold_folder(&path) {
                return Ok(AtomicFolder { hold: Some(hold), path, destination: target, overwrite, persisted: false });
            }
        }
        Err(Error::conflict("no free name for a temporary folder next to it").in_file(destination))
    }

    /// Fails if `destination` must not be written: it is not a folder; it is not empty and `overwrite` refuses to replace it,
    /// or holds an entry whose name does not pass `replaced` and which would be lost; it is a dangling symbolic link; its
    /// parent folder does not exist; or its name is not one of a folder.
    pub fn check_destination(destination: &Path, overwrite: Overwrite, replaced: &dyn Fn(&str) -> bool) -> Result<()> {
        let fail = |error| replace_error("cannot list the folder", error, destination);
        check_name(destination)?;
        match fs::metadata(destination) {
            Err(_) => return check_parent(destination),
            Ok(found) if !found.is_dir() => {
                return Err(Error::conflict("exists and is not a folder").in_file(destination));
            }
            Ok(_) => {}
        }
        let mut names: Vec<OsString> = Vec::new();
        for entry in fs::read_dir(destination).map_err(fail)? {
            names.push(entry.map_err(fail)?.file_name());
        }
        if !names.is_empty() && overwrite == Overwrite::Refuse {
            return Err(exists(destination));
        }
        match names.iter().map(|name| name.to_string_lossy()).find(|name| !replaced(name)) {
            Some(foreign) => {
                let found = format!(
                    "replacing the folder would delete {foreign:?}, which the new folder does not have; move it away first"
                );
                Err(Error::conflict(found).in_file(destination))
            }
            None => check_in_use(destination),
        }
    }

    /// Fails if an open input is in the folder that is replaced, and the system does not replace such folders.
    pub(crate) fn check_inputs(destination: &Path, inputs: &mut dyn Iterator<Item = &Path>) -> Result<()> {
        if sys::RENAMES_OPEN_FOLDERS {
            return Ok(());
        }
        let Ok(folder) = sys::plain_canonicalize(destination) else { return Ok(()) };
        // One input has many tensors.
        let mut last: Option<&Path> = None;
        for input in inputs.filter(|&input| last.replace(input) != Some(input)) {
            if sys::plain_canonicalize(input).is_ok_and(|input| input.starts_with(&folder)) {
                let found = "the output is a folder that an input is read from, and this system cannot replace it; \
                             write a new folder";
                return Err(Error::conflict(found).in_file(destination));
            }
        }
        Ok(())
    }

    /// The temporary path of the content.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small new file at `path` within the folder, creates missing parent folders, and flushes it to the disk.
    ///
    /// Fails as [`check_inner_path`] does, or if the file exists.
    pub(crate) fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let file = self.create_parent(path)?;
        let written = File::create_new(&file).and_then(|mut file| {
            io::Write::write_all(&mut file, content)?;
            file.sync_all()
        });
        written.map_err(|error| Error::io("cannot write", error).in_file(self.destination.join(path)))
    }

    /// Creates the parent folder of `path` within the folder, and returns the file's temporary path.
    ///
    /// Fails as [`check_inner_path`] does.
    pub(crate) fn create_parent(&self, path: &str) -> Result<PathBuf> {
        check_inner_path(path)?;
        let file = self.path.join(path);
        if let Some(folder) = file.parent() {
            let made = fs::create_dir_all(folder);
            made.map_err(|error| {
                Error::io("cannot create its parent folder", error).in_file(self.destination.join(path))
            })?;
        }
        Ok(file)
    }

    /// Replaces the temporary path in an error by the destination's path.
    pub(crate) fn error_at_destination(&self, error: Error) -> Error {
        error.relocated(&self.path, &self.destination)
    }

    /// Renames the folder to its destination. A folder it replaces is removed afterwards.
    ///
    /// Fails if the destination is not empty and must not be replaced.
    pub(crate) fn persist(mut self) -> Result<()> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => exists(&self.destination),
            _ => replace_error("cannot move the finished folder into place", error, &self.destination),
        };
        // As for a file: users who may not list the old folder may not list the new one.
        if let Ok(old) = fs::metadata(&self.destination) {
            let set = fs::set_permissions(&self.path, old.permissions());
            set.map_err(|error| Error::io("cannot set the permissions", error).in_file(&self.destination))?;
        }
        sys::sync_folder(&self.path);
        // A rename replaces an empty folder. Replacing one with entries takes an exchange.
        match self.rename() {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && self.overwrite == Overwrite::Replace => {
                self.exchange().map_err(fail)?;
            }
            renamed => renamed.map_err(fail)?,
        }
        self.persisted = true;
        if let Some(folder) = self.path.parent() {
            sys::sync_folder(folder);
        }
        Ok(())
    }

    fn rename(&self) -> io::Result<()> {
        sys::rename_folder(self.hold.as_ref(), &self.path, &self.destination)
    }

    /// Replaces a folder that has entries, and removes it.
    fn exchange(&self) -> io::Result<()> {
        match sys::exchange(&self.path, &self.destination) {
            Ok(()) => {
                // The new folder is in place; the old one is now a leftover.
                remove(&self.path);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                replace_in_two_steps(&self.destination, || self.rename())
            }
            Err(error) => Err(error),
        }
    }
}

/// Fails if `path` may lead out of the folder that it is relative to: it is empty or absolute, or has an empty component,
/// `.` or `..`, or a name that the system does not allow.
pub(crate) fn check_inner_path(path: &str) -> Result<()> {
    let is_plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    if !path.split('/').all(is_plain) {
        return Err(Error::usage(format!("{path:?} is not a path within the folder")));
    }
    let checked = path.split('/').try_for_each(sys::check_name);
    checked.map_err(|why| Error::usage(format!("{path:?} is not a path within the folder: a name {why}")))
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if !self.persisted {
            // Best effort: the next run for this destination tries again.
            let _ = sys::discard_folder(self.hold.take(), &self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn filled(destination: &Path, overwrite: Overwrite, content: &str) -> AtomicFolder {
        let staged = AtomicFolder::create(destination, overwrite).unwrap();
        staged.write("unet/config.json", content.as_bytes()).unwrap();
        staged
    }

    #[test]
    fn the_destination_appears_only_when_complete_even_over_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        drop(filled(&destination, Overwrite::Refuse, "half"));
        assert!(names(folder.path()).is_empty());
        fs::create_dir(&destination).unwrap();
        filled(&destination, Overwrite::Refuse, "new").persist().unwrap();
        assert_eq!(fs::read(destination.join("unet/config.json")).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn replaces_an_existing_folder_only_when_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        filled(&destination, Overwrite::Refuse, "old").persist().unwrap();
        assert!(filled(&destination, Overwrite::Refuse, "new").persist().is_err());
        assert_eq!(fs::read(destination.join("unet/config.json")).unwrap(), b"old");
        filled(&destination, Overwrite::Replace, "new").persist().unwrap();
        assert_eq!(fs::read(destination.join("unet/config.json")).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[cfg(windows)]
    #[test]
    fn keeps_a_folder_with_a_file_that_another_program_holds_open() {
        use std::os::windows::fs::OpenOptionsExt;

        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        filled(&destination, Overwrite::Refuse, "old").persist().unwrap();
        let staged = filled(&destination, Overwrite::Replace, "new");
        // Others may read and write the file, and not delete it, as with Python's `open`.
        let held = fs::OpenOptions::new().read(true).share_mode(3).open(destination.join("unet/config.json")).unwrap();
        let checked = AtomicFolder::check_destination(&destination, Overwrite::Replace, &|_| true);
        for error in [checked.unwrap_err(), staged.persist().unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("another program") && !error.contains('\n'), "{error}");
        }
        assert_eq!(fs::read(destination.join("unet/config.json")).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out"]);
        drop(held);
        filled(&destination, Overwrite::Replace, "new").persist().unwrap();
        assert_eq!(fs::read(destination.join("unet/config.json")).unwrap(), b"new");
    }

    #[test]
    fn refuses_to_delete_an_entry_that_the_new_folder_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        filled(&destination, Overwrite::Refuse, "old").persist().unwrap();
        let check = |overwrite| {
            AtomicFolder::check_destination(&destination, overwrite, &|name| name == "unet").map_err(|e| e.to_string())
        };
        assert!(check(Overwrite::Refuse).unwrap_err().contains("already exists"));
        check(Overwrite::Replace).unwrap();
        fs::write(destination.join("notes.txt"), "mine").unwrap();
        assert!(check(Overwrite::Replace).unwrap_err().contains("notes.txt"));
    }

    #[test]
    fn writes_nothing_outside_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let staged = AtomicFolder::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
        let before = names(folder.path());
        let absolute = folder.path().join("absolute/x").to_str().unwrap().to_owned();
        for path in ["../x", "a/../../x", "..", "./x", "a/./x", "/x", "a//x", "a/", "", "a\0", &absolute] {
            assert!(staged.write(path, b"x").unwrap_err().to_string().contains("not a path within"), "{path}");
            assert!(staged.create_parent(path).is_err(), "{path}");
        }
        assert_eq!(names(folder.path()), before);
        // Wine does not list a folder that no other process may delete.
        assert!(cfg!(windows) || names(staged.path()).is_empty());
        staged.write("a/..b", b"x").unwrap();
        assert!(staged.write("a/..b", b"y").is_err(), "the file exists");
    }

    #[test]
    fn rejects_a_destination_whose_parent_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let check =
            |name: &str| AtomicFolder::check_destination(&folder.path().join(name), Overwrite::Refuse, &|_| true);
        assert!(check("nodir/out/").unwrap_err().to_string().ends_with("nodir does not exist"));
        check("out/").unwrap();
        check("out").unwrap();
    }

    #[test]
    fn removes_leftovers_of_killed_processes_only() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        let staged = filled(&destination, Overwrite::Refuse, "half");
        let left = folder.path().join(".out.1-0.trinart-partial");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("weights"), "half").unwrap();
        filled(&destination, Overwrite::Refuse, "new").persist().unwrap();
        assert!(!left.exists());
        assert!(staged.path().exists(), "the folder of a running process is kept");
    }
}
