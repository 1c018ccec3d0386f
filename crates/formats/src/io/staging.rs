//! Shared parts of [`AtomicFile`](super::AtomicFile) and [`AtomicFolder`](super::AtomicFolder): hidden names next to the
//! destination, replacing in two renames, and the repair of what killed processes left behind.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

use super::sys;
use crate::error::{Error, Hint, Result};

/// Names to try: other processes may have taken some, or remove a file of that name as a leftover before it is locked.
pub(super) const ATTEMPTS: u32 = 1000;

/// The end of the name of a new file or folder that is not complete yet.
const PARTIAL: &str = ".trinart-partial";

/// The end of the name of an old file or folder between two renames, see [`replace_in_two_steps`].
const REPLACED: &str = ".trinart-replaced";

/// How often, and after which time, to try again if a file is in use: virus scanners open new files for a moment.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Resolves a destination, following symbolic links. Returns its path, its parent folder and its file name.
///
/// Fails if the destination has no name, or one that the system does not allow.
pub(super) fn resolve(destination: &Path) -> Result<(PathBuf, PathBuf, OsString)> {
    // A destination that does not exist yet cannot be canonicalized; its path is used unchanged.
    let target = sys::plain_canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
    let name = target.file_name().ok_or_else(|| Error::usage("the output has no file name").in_file(destination))?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = name.to_owned();
    Ok((target, folder, name))
}

/// Fails if the system would not write to a file of the destination's name, but to a device or under another name.
pub(super) fn check_name(destination: &Path) -> Result<()> {
    let Some(name) = destination.file_name() else { return Ok(()) };
    let checked = sys::check_name(&name.to_string_lossy());
    checked.map_err(|why| Error::usage(format!("the name of the output {why}")).in_file(destination))
}

/// Fails if a program has an existing destination open in a way that prevents its replacement.
pub(super) fn check_in_use(destination: &Path) -> Result<()> {
    match retry(|| sys::check_replaceable(destination)) {
        // Another process is between its two renames, see `replace_in_two_steps`.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        checked => checked.map_err(|error| replace_error("cannot replace it", error, destination)),
    }
}

/// Tries again for a second while a file is in use or a name is taken.
fn retry(attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    retry_while(|error| sys::is_in_use(error) || is_taken(error), attempt)
}

/// Tries again for a second while the error is one that passes.
fn retry_while(passes: impl Fn(&io::Error) -> bool, attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let mut result = attempt();
    for _ in 0..RETRIES {
        match &result {
            Err(error) if passes(error) => {}
            _ => break,
        }
        thread::sleep(RETRY_AFTER);
        result = attempt();
    }
    result
}

/// An error about replacing `destination`, which may be in use.
pub(super) fn replace_error(action: &str, error: io::Error, destination: &Path) -> Error {
    let error = if sys::is_in_use(&error) {
        let action = format!("{action}: another program, such as WebUI, has it open or protects it; close it there");
        Error::io(&action, error)
    } else {
        Error::io(action, error)
    };
    error.in_file(destination)
}

/// Fails if a destination that does not exist cannot be created: it is a dangling symbolic link, or its parent folder does
/// not exist or is not a folder.
pub(super) fn check_parent(destination: &Path) -> Result<()> {
    // Creating the target would be a guess, and replacing the link would lose it.
    if fs::symlink_metadata(destination).is_ok_and(|found| found.is_symlink()) {
        return Err(Error::conflict("a symbolic link whose target does not exist").in_file(destination));
    }
    let (_, folder, _) = resolve(destination)?;
    let shown = folder.display();
    let error = match fs::metadata(&folder) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => Error::conflict(format!("{shown} is not a folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Error::missing(format!("the folder {shown} does not exist"))
        }
        Err(error) => Error::io(&format!("cannot access the folder {shown}"), error),
    };
    Err(error.in_file(destination))
}

/// Returns `.NAME.PID-N.trinart-partial`, with NAME cut so that the result fits in 255 bytes. No two calls in a process
/// return the same.
pub(super) fn staging_name(name: &OsStr) -> OsString {
    let mut staging = prefix(name);
    staging.push(unique());
    staging.push(PARTIAL);
    staging
}

fn unique() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed))
}

fn prefix(name: &OsStr) -> OsString {
    let name: String = name.to_string_lossy().chars().take(48).collect();
    OsString::from(format!(".{name}."))
}

/// Returns `.NAME.PID-N.trinart-replaced`. NAME is not cut: [`recover`] must not mistake it for another.
fn aside_name(name: &OsStr) -> OsString {
    let mut aside = OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}{REPLACED}", unique()));
    aside
}

/// Whether `found` is a result of [`aside_name`] for `name`, in any process.
fn is_aside_of(found: &OsStr, name: &OsStr) -> bool {
    let rest = found.as_encoded_bytes().strip_prefix(b".").and_then(|rest| rest.strip_prefix(name.as_encoded_bytes()));
    let unique = rest.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(REPLACED.as_bytes()));
    unique.is_some_and(|unique| unique.iter().all(|&byte| byte.is_ascii_digit() || byte == b'-'))
}

/// Repairs what killed processes left for this destination: puts an old file or folder back if nothing has replaced it, and
/// removes those that are not needed.
///
/// Best effort: a leftover that cannot be removed costs disk space, not correctness.
pub(super) fn recover(folder: &Path, name: &OsStr) {
    let prefix = prefix(name).to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (found, path) = (entry.file_name(), entry.path());
        if is_aside_of(&found, name) {
            // If another process is between its two renames, it replaces what is put back here.
            if sys::move_to_free(&path, &folder.join(name)).is_err_and(|error| is_taken(&error)) {
                remove(&path);
            }
            continue;
        }
        let found = found.to_string_lossy();
        if found.starts_with(&prefix)
            && found.ends_with(PARTIAL)
            && fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() || found.is_dir())
            && let Some(_lock) = sys::lock_abandoned(&path)
        {
            remove(&path);
        }
    }
}

/// Removes a file or folder. Best effort, see [`recover`]. A concurrent process may have it open for a moment.
pub(super) fn remove(path: &Path) {
    let _ = retry(|| if path.is_dir() { fs::remove_dir_all(path) } else { sys::remove_file(path) });
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Replaces a destination where the system cannot do that in one step: moves the old file or folder aside, calls `rename`,
/// which moves the new one into place, and removes the old one. If that fails, puts the old one back.
///
/// If the process is killed in between, [`recover`] puts the old one back in the next run.
pub(super) fn replace_in_two_steps(destination: &Path, rename: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let (folder, name) = match (destination.parent(), destination.file_name()) {
        (Some(folder), Some(name)) => (folder, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    retry(|| {
        let aside = folder.join(aside_name(name));
        match sys::check_replaceable(destination).and_then(|()| sys::move_to_free(destination, &aside)) {
            // Another process is between its two renames.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return rename(),
            moved => moved?,
        }
        if let Err(error) = rename() {
            // A concurrent process that looks for leftovers may have it open for a moment.
            match retry_while(sys::is_in_use, || sys::move_to_free(&aside, destination)) {
                // If a concurrent process has taken the name, its file is the one that counts.
                Err(error) if is_taken(&error) => remove(&aside),
                // That process has put it back, or has removed it because the name was taken.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                put_back => put_back?,
            }
            return Err(error);
        }
        remove(&aside);
        Ok(())
    })
}

/// The error for a destination that exists and must not be replaced.
pub(super) fn exists(destination: &Path) -> Error {
    Error::conflict("already exists").with_hint(Hint::Overwrite).in_file(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_an_old_file_or_folder_back_after_a_kill_between_two_renames() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["out", "out.safetensors"] {
            let (old, aside) = (folder.path().join(name), folder.path().join(aside_name(OsStr::new(name))));
            let other = folder.path().join(aside_name(OsStr::new(&format!("{name}.other"))));
            for make in [|path: &Path| fs::write(path, "old").unwrap(), |path: &Path| fs::create_dir(path).unwrap()] {
                make(&aside);
                make(&other);
                recover(folder.path(), OsStr::new(name));
                assert!(old.exists() && !aside.exists() && other.exists());
                // It is in place: what is aside is not needed.
                make(&aside);
                recover(folder.path(), OsStr::new(name));
                assert!(old.exists() && !aside.exists() && other.exists());
                remove(&old);
                remove(&other);
            }
        }
    }

    #[test]
    fn replaces_in_two_steps_or_puts_the_old_one_back() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("out"), folder.path().join("new"));
        fs::write(&old, "old").unwrap();
        let failed = replace_in_two_steps(&old, || Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&old).unwrap(), b"old");
        fs::write(&new, "new").unwrap();
        replace_in_two_steps(&old, || sys::move_to_free(&new, &old)).unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
