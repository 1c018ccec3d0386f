use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::Overwrite;
use crate::io::beside::{exists, remove_leftovers, resolve, scratch_name, sync_folder};

/// A folder on its way to its destination: filled beside it, renamed in one step; removed if it is dropped before.
///
/// What [`Scratch`](super::Scratch) is for a file. The destination is always what it was or the whole new folder.
#[derive(Debug)]
pub struct ScratchFolder {
    /// Locked while the program lives.
    _lock: Option<File>,
    path: PathBuf,
    destination: PathBuf,
    overwrite: Overwrite,
    persisted: bool,
}

impl ScratchFolder {
    /// An empty scratch folder for `destination`, which has passed [`ScratchFolder::check_destination`].
    pub fn create(destination: &Path, overwrite: Overwrite) -> Result<Self> {
        let (target, folder, name) = resolve(destination)?;
        remove_leftovers(&folder, &name);
        for attempt in 0..100_u32 {
            let path = folder.join(scratch_name(&name, attempt));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(Error::io("cannot create a scratch folder beside it", error).in_file(destination));
                }
            }
            let lock = File::open(&path).ok().filter(|folder| folder.try_lock().is_ok());
            if path.is_dir() {
                return Ok(ScratchFolder { _lock: lock, path, destination: target, overwrite, persisted: false });
            }
        }
        Err(Error::conflict("no free name for a scratch folder beside it").in_file(destination))
    }

    /// An error if `destination` may not be written: it is no folder; or it is not empty, and must not be replaced or
    /// has something in it that would be lost, not being `replaced` by name.
    pub fn check_destination(destination: &Path, overwrite: Overwrite, replaced: &dyn Fn(&str) -> bool) -> Result<()> {
        let fail = |error| Error::io("cannot look into the folder", error).in_file(destination);
        match fs::metadata(destination) {
            Err(_) => return Ok(()),
            Ok(found) if !found.is_dir() => {
                return Err(Error::conflict("exists and is not a folder; it is left as it is").in_file(destination));
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
                let found = format!("{foreign:?} in it would be lost, the new folder has no such thing; move it away");
                Err(Error::conflict(found).in_file(destination))
            }
            None => Ok(()),
        }
    }

    /// Where the content is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small file at a path inside, with the folders on the way, and forces it to the disk.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let file = self.inside(path)?;
        let written = File::create(&file).and_then(|mut file| {
            io::Write::write_all(&mut file, content)?;
            file.sync_all()
        });
        written.map_err(|error| Error::io("cannot write", error).in_file(self.destination.join(path)))
    }

    /// The place of a file inside, its folder made.
    pub fn inside(&self, path: &str) -> Result<PathBuf> {
        let file = self.path.join(path);
        if let Some(folder) = file.parent() {
            let made = fs::create_dir_all(folder);
            made.map_err(|error| Error::io("cannot create its folder", error).in_file(self.destination.join(path)))?;
        }
        Ok(file)
    }

    /// An error that speaks of the place a file will have, rather than of the one it has for now.
    pub fn as_destination(&self, error: Error) -> Error {
        error.moved(&self.path, &self.destination)
    }

    /// Puts the folder in its place, in one step; one that was there is removed afterwards.
    pub fn persist(mut self) -> Result<()> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => exists(&self.destination),
            _ => Error::io("cannot put the finished folder in its place", error).in_file(&self.destination),
        };
        sync_folder(&self.path);
        // An empty folder gives way to a plain rename; a full one only to an exchange.
        let renamed = fs::rename(&self.path, &self.destination);
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && self.overwrite == Overwrite::Replace => {
                self.exchange().map_err(fail)?;
                let _ = fs::remove_dir_all(&self.path);
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
            // File systems without the flag: the old one steps aside.
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

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if !self.persisted {
            let _ = fs::remove_dir_all(&self.path);
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

    fn filled(destination: &Path, overwrite: Overwrite, content: &str) -> ScratchFolder {
        let scratch = ScratchFolder::create(destination, overwrite).unwrap();
        scratch.write("unet/config.json", content.as_bytes()).unwrap();
        scratch
    }

    #[test]
    fn appears_whole_or_not_at_all_also_in_an_empty_folder() {
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
    fn a_folder_that_is_there_is_exchanged_with_force_and_else_stays() {
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
    fn nothing_is_replaced_that_the_new_folder_does_not_have() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        filled(&destination, Overwrite::Refuse, "old").persist().unwrap();
        let check = |overwrite| {
            ScratchFolder::check_destination(&destination, overwrite, &|name| name == "unet").map_err(|e| e.to_string())
        };
        assert!(check(Overwrite::Refuse).unwrap_err().contains("--force"));
        check(Overwrite::Replace).unwrap();
        fs::write(destination.join("notes.txt"), "mine").unwrap();
        assert!(check(Overwrite::Replace).unwrap_err().contains("notes.txt"));
    }

    #[test]
    fn what_a_killed_program_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("out");
        let scratch = filled(&destination, Overwrite::Refuse, "half");
        let left = folder.path().join(".out.1-0.trinart-partial");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("weights"), "half").unwrap();
        filled(&destination, Overwrite::Refuse, "new").persist().unwrap();
        assert!(!left.exists());
        assert!(scratch.path().exists(), "a living one is left alone");
    }
}
