use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::Overwrite;
use crate::io::staging::{
    ATTEMPTS, check_parent, exists, is_at, remove, remove_leftovers, resolve, staging_name, sync_folder,
};

/// A folder that replaces its destination in one step, or not at all; see [`AtomicFile`](super::AtomicFile).
///
/// It is filled under a hidden name beside the destination, then renamed. Dropping it before it is persisted
/// removes it. Only [`write_folder`](crate::containers::write_folder) creates one.
#[derive(Debug)]
pub struct AtomicFolder {
    /// The open folder, locked so that other processes do not remove it as a leftover. `None` if it cannot be opened.
    _lock: Option<File>,
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
        remove_leftovers(&folder, &name);
        for _ in 0..ATTEMPTS {
            let path = folder.join(staging_name(&name));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(Error::io("cannot create a temporary folder next to it", error).in_file(destination));
                }
            }
            // As in `AtomicFile::create`: a concurrent process may remove the folder as a leftover.
            let lock = File::open(&path).ok();
            if let Some(Err(TryLockError::WouldBlock)) = lock.as_ref().map(File::try_lock) {
                continue;
            }
            if lock.as_ref().map_or_else(|| path.is_dir(), |lock| is_at(lock, &path)) {
                return Ok(AtomicFolder { _lock: lock, path, destination: target, overwrite, persisted: false });
            }
        }
        Err(Error::conflict("no free name for a temporary folder next to it").in_file(destination))
    }

    /// Fails if `destination` must not be written: it is not a folder; it is not empty and `overwrite` refuses to replace it,
    /// or holds an entry whose name does not pass `replaced` and which would be lost; it is a dangling symbolic link; or its
    /// parent folder does not exist.
    pub fn check_destination(destination: &Path, overwrite: Overwrite, replaced: &dyn Fn(&str) -> bool) -> Result<()> {
        let fail = |error| Error::io("cannot list the folder", error).in_file(destination);
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
            None => Ok(()),
        }
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
            _ => Error::io("cannot move the finished folder into place", error).in_file(&self.destination),
        };
        // As for a file: users who may not list the old folder may not list the new one.
        if let Ok(old) = fs::metadata(&self.destination) {
            let set = fs::set_permissions(&self.path, old.permissions());
            set.map_err(|error| Error::io("cannot set the permissions", error).in_file(&self.destination))?;
        }
        sync_folder(&self.path);
        // A rename replaces an empty folder. Replacing one with entries takes an exchange.
        let renamed = fs::rename(&self.path, &self.destination);
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && self.overwrite == Overwrite::Replace => {
                self.exchange().map_err(fail)?;
                // The new folder is in place; the old one is now a leftover.
                remove(&self.path);
            }
            Err(error) => return Err(fail(error)),
        }
        self.persisted = true;
        if let Some(folder) = self.path.parent() {
            sync_folder(folder);
        }
        Ok(())
    }

    fn exchange(&self) -> io::Result<()> {
        let here = rustix::fs::CWD;
        match rustix::fs::renameat_with(here, &self.path, here, &self.destination, RenameFlags::EXCHANGE) {
            // The file system lacks the flag: move the old folder aside first.
            Err(Errno::INVAL | Errno::NOSYS) => {
                let mut aside = self.path.clone().into_os_string();
                aside.push(".old");
                fs::rename(&self.destination, &aside)?;
                if let Err(error) = fs::rename(&self.path, &self.destination) {
                    fs::rename(&aside, &self.destination)?;
                    return Err(error);
                }
                fs::rename(&aside, &self.path)
            }
            other => other.map_err(io::Error::from),
        }
    }
}

/// Fails if `path` may lead out of the folder that it is relative to: it is empty or absolute, or has an empty component,
/// `.` or `..`.
pub(crate) fn check_inner_path(path: &str) -> Result<()> {
    let is_plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    if path.split('/').all(is_plain) {
        return Ok(());
    }
    Err(Error::usage(format!("{path:?} is not a path within the folder")))
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if !self.persisted {
            remove(&self.path);
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
        assert!(names(staged.path()).is_empty());
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
