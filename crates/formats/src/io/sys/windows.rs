//! Windows: files in use, names that mean devices, and renames by handle.
//!
//! An open file can be replaced only if the program that opened it allows its deletion. Python's `open` does not. Temporary
//! files are opened so that no other process can delete them. After the process ends, every process can.

use std::ffi::{OsStr, c_void};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Component, Path, PathBuf, Prefix};
use std::{iter, mem};

use memmap2::Mmap;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_DIR_NOT_EMPTY, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION, ERROR_USER_MAPPED_FILE,
    GENERIC_READ, GENERIC_WRITE,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, DELETE, FILE_ATTRIBUTE_TEMPORARY, FILE_DISPOSITION_INFO, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_DELETE_ON_CLOSE, FILE_FLAG_OPEN_REPARSE_POINT, FILE_INFO_BY_HANDLE_CLASS, FILE_RENAME_INFO,
    FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_TYPE_DISK, FileDispositionInfo, FileRenameInfo, FileRenameInfoEx,
    GetDiskFreeSpaceExW, GetFileInformationByHandle, GetFileType, SetFileInformationByHandle,
};

/// Whether a folder can be renamed while files in it are open.
pub(crate) const RENAMES_OPEN_FOLDERS: bool = false;

/// Flags of a rename, `FILE_RENAME_FLAG_…` in the documentation of `FILE_RENAME_INFO`. `windows-sys` lacks them here.
const REPLACE_IF_EXISTS: u32 = 0x1;
const POSIX_SEMANTICS: u32 = 0x2;
const IGNORE_READONLY_ATTRIBUTE: u32 = 0x40;

pub(crate) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    file.seek_read(out, offset)
}

pub(crate) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// Opens a file for reading. Other programs may replace it meanwhile.
pub(crate) fn open_input(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Returns whether an open file is one on a disk: not a pipe, and no device such as `CON`.
pub(crate) fn is_regular(file: &File) -> io::Result<bool> {
    // SAFETY: the handle is open as long as `file` is borrowed.
    let is_on_disk = unsafe { GetFileType(file.as_raw_handle()) } == FILE_TYPE_DISK;
    Ok(is_on_disk && file.metadata()?.is_file())
}

/// The identity of a file or folder: the serial number of its volume, and its index there. Names do not tell, because the
/// case of their letters has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u32, u32, u32);

/// Returns the identity of the file or folder that a path leads to. Follows symbolic links.
pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    let file = OpenOptions::new().access_mode(0).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)?;
    let mut found = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and `found` is a valid place for the result.
    succeeded(unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut found) })?;
    Ok(Identity(found.dwVolumeSerialNumber, found.nFileIndexHigh, found.nFileIndexLow))
}

/// Does nothing: the system takes the pages of a mapping back when it needs them.
pub(crate) fn release_pages(_: &Mmap) {}

/// Does nothing: the system reads ahead by itself.
pub(crate) fn prefetch(_: &File, _: u64, _: u64) {}

/// `None`: all I/O goes through the page cache.
pub(crate) fn open_uncached(_: &Path) -> Option<File> {
    None
}

/// Sets the length of a new file, which allocates the space. `len` is not 0. Fails if the disk has too little.
pub(crate) fn reserve(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)
}

/// Does nothing: the space is free once the file is closed.
pub(crate) fn unreserve(_: &File, _: u64, _: u64) {}

/// `None`: a file needs a name.
pub(crate) fn create_nameless(_: &Path) -> Option<(File, PathBuf)> {
    None
}

/// Fails: [`create_nameless`] makes no file that needs a name.
pub(crate) fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The folder for temporary files, unless the user names one.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

/// Creates a file that is gone when it is closed, however the process ends, and that no other process may open.
pub(crate) fn create_temporary(_: Option<File>, folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).share_mode(0).attributes(FILE_ATTRIBUTE_TEMPORARY);
    options.custom_flags(FILE_FLAG_DELETE_ON_CLOSE);
    for attempt in 0..100_u32 {
        let path = folder.join(format!(".trinart-spill-{}-{attempt}", std::process::id()));
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Returns the free bytes on the disk of a folder, within the user's quota. `_file` is a file in it.
pub(crate) fn free_space(_file: &File, folder: &Path) -> io::Result<u64> {
    let (folder, mut free) = (wide(folder), 0);
    let (all, total) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the path ends with a zero, `free` is a valid place for the result, and the other results are not wanted.
    succeeded(unsafe { GetDiskFreeSpaceExW(folder.as_ptr(), &raw mut free, all, total) })?;
    Ok(free)
}

/// Resolves symbolic links. The result has the form that users write (`C:\…`, not `\\?\C:\…`) where both mean the same.
pub(crate) fn plain_canonicalize(path: &Path) -> io::Result<PathBuf> {
    dunce::canonicalize(path)
}

/// Fails if the system would not create a file of this name: it would write to a device or another file.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.ends_with(['.', ' ']) {
        return Err("ends with a dot or a space, which Windows removes");
    }
    if name.contains(|found: char| found.is_ascii_control() || r#"<>:"/\|?*"#.contains(found)) {
        return Err(r#"contains a character that Windows does not allow in names (< > : " / \ | ? *)"#);
    }
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_uppercase();
    let is_numbered = |stem: &str| {
        let digit = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
        digit.is_some_and(|digit| {
            matches!(digit, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
        })
    };
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || is_numbered(&stem) {
        return Err("is the name of a device in Windows, whatever its extension");
    }
    Ok(())
}

/// Fails if an existing destination cannot be replaced at present, because a program has it open, or something in the
/// folder that it is.
pub(crate) fn check_replaceable(destination: &Path) -> io::Result<()> {
    drop(open_to_delete(destination, FILE_FLAG_BACKUP_SEMANTICS)?);
    let mut folders = Vec::new();
    folders.extend(fs::metadata(destination)?.is_dir().then(|| destination.to_owned()));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            drop(open_to_delete(&entry.path(), FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)?);
            // Links are replaced, and not what they lead to.
            folders.extend(entry.file_type()?.is_dir().then(|| entry.path()));
        }
    }
    Ok(())
}

/// Returns whether an operation has failed because another program has a file open and shares it with no other.
pub(crate) fn is_held(error: &io::Error) -> bool {
    is_one_of(error, &[ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION])
}

/// Returns whether an operation may have failed because a file is open: here, in another program, or for a moment in a
/// virus scanner.
pub(crate) fn is_in_use(error: &io::Error) -> bool {
    is_held(error) || is_one_of(error, &[ERROR_USER_MAPPED_FILE, ERROR_ACCESS_DENIED])
}

fn is_one_of(error: &io::Error, codes: &[u32]) -> bool {
    error.raw_os_error().is_some_and(|found| codes.contains(&found.cast_unsigned()))
}

/// The permissions that a new file takes over from the one that it replaces: whether it is read-only.
pub(crate) fn permissions_to_keep(replaced: &Metadata) -> Permissions {
    replaced.permissions()
}

/// `None`: a file has the access rights that its folder passes on, while it is written and later.
pub(crate) fn permissions_while_written(_: &Permissions) -> Option<Permissions> {
    None
}

/// Creates a file under a temporary name. [`lock_abandoned`] fails for it while it is open. `None` if the name is taken:
/// then try another one.
pub(crate) fn create_staged(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).access_mode(GENERIC_READ | GENERIC_WRITE | DELETE);
    match options.share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        other => other.map(Some),
    }
}

/// An open folder that no other process can delete.
#[derive(Debug)]
pub(crate) struct Hold(File);

/// Opens a new folder so that other processes cannot delete it. `None` if one does so already: then try another name.
pub(crate) fn hold_folder(path: &Path) -> Option<Hold> {
    let mut options = OpenOptions::new();
    options.access_mode(GENERIC_READ | DELETE).custom_flags(FILE_FLAG_BACKUP_SEMANTICS);
    options.share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE).open(path).ok().map(Hold)
}

/// Opens a temporary file or folder that another process has left. Returns `None` if the process runs.
pub(crate) fn lock_abandoned(path: &Path) -> Option<File> {
    open_to_delete(path, FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT).ok()
}

fn open_to_delete(path: &Path, flags: u32) -> io::Result<File> {
    OpenOptions::new().access_mode(DELETE).custom_flags(flags).open(path)
}

/// Removes an open temporary file.
pub(crate) fn discard(file: &File, _: &Path) -> io::Result<()> {
    make_writable(&file.metadata()?, |permissions| file.set_permissions(permissions))?;
    let disposition = FILE_DISPOSITION_INFO { DeleteFile: true };
    set_information(file, FileDispositionInfo, (&raw const disposition).cast(), size_of::<FILE_DISPOSITION_INFO>())
}

/// Removes a temporary folder with all that is in it.
pub(crate) fn discard_folder(hold: Option<Hold>, path: &Path) -> io::Result<()> {
    // While it is held, this process cannot delete it by its path either.
    drop(hold.map(|Hold(file)| file));
    fs::remove_dir_all(path)
}

/// Removes a file, also if it is read-only.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    make_writable(&fs::metadata(path)?, |permissions| fs::set_permissions(path, permissions))?;
    fs::remove_file(path)
}

fn make_writable(found: &Metadata, set: impl FnOnce(Permissions) -> io::Result<()>) -> io::Result<()> {
    let mut permissions = found.permissions();
    if !permissions.readonly() {
        return Ok(());
    }
    #[expect(clippy::permissions_set_readonly_false, reason = "on Windows, this clears the attribute of one file")]
    permissions.set_readonly(false);
    set(permissions)
}

/// Renames an open file in one step, and replaces the file of that name if `replace` allows it.
///
/// An open file is replaced only on NTFS, and only if it may be deleted while it is open.
pub(crate) fn rename(file: &File, _: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if !replace {
        return rename_by_handle(file, to, FileRenameInfo, 0);
    }
    let flags = REPLACE_IF_EXISTS | POSIX_SEMANTICS | IGNORE_READONLY_ATTRIBUTE;
    match rename_by_handle(file, to, FileRenameInfoEx, flags) {
        Err(error) if !is_one_of(&error, &[ERROR_SHARING_VIOLATION]) => {
            rename_by_handle(file, to, FileRenameInfo, REPLACE_IF_EXISTS)
        }
        other => other,
    }
}

/// Renames a file or folder. Fails if the new name is taken.
pub(crate) fn move_to_free(from: &Path, to: &Path) -> io::Result<()> {
    let file = open_to_delete(from, FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)?;
    rename_by_handle(&file, to, FileRenameInfo, 0)
}

/// Renames a folder in one step, and replaces an empty folder of that name. Fails if it is not empty.
pub(crate) fn rename_folder(hold: Option<&Hold>, from: &Path, to: &Path) -> io::Result<()> {
    let rename = || match hold {
        Some(Hold(file)) => rename_by_handle(file, to, FileRenameInfo, 0),
        None => move_to_free(from, to),
    };
    if fs::symlink_metadata(to).is_ok_and(|found| found.is_dir()) {
        match fs::remove_dir(to) {
            Err(error) if is_one_of(&error, &[ERROR_DIR_NOT_EMPTY]) => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            removed => removed?,
        }
    }
    rename()
}

/// Fails: no single step exchanges two folders.
pub(crate) fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing: the file systems write their own changes in order, and folders cannot be flushed.
pub(crate) fn sync_folder(_: &Path) {}

/// Renames the file or folder of a handle that was opened with the right to delete.
fn rename_by_handle(file: &File, to: &Path, class: FILE_INFO_BY_HANDLE_CLASS, flags: u32) -> io::Result<()> {
    let name: Vec<u16> = verbatim(to)?.encode_wide().collect();
    let name_bytes = mem::size_of_val(name.as_slice());
    // The name is followed by a zero, which does not count.
    let size = mem::offset_of!(FILE_RENAME_INFO, FileName) + name_bytes + 2;
    // In units of 8 bytes, so that it is aligned. The structure itself is longer than the part before the name.
    let mut buffer = vec![0_u64; size.max(size_of::<FILE_RENAME_INFO>()).div_ceil(8)];
    let info = buffer.as_mut_ptr().cast::<FILE_RENAME_INFO>();
    let length = u32::try_from(name_bytes).map_err(|_| io::ErrorKind::InvalidFilename)?;
    // SAFETY: the buffer is aligned, and long enough for the structure with the whole name; it is zero elsewhere.
    unsafe {
        (&raw mut (*info).Anonymous.Flags).write(flags);
        (&raw mut (*info).FileNameLength).write(length);
        let start = (&raw mut (*info).FileName).cast::<u16>();
        start.copy_from_nonoverlapping(name.as_ptr(), name.len());
    }
    set_information(file, class, info.cast(), size)
}

fn set_information(file: &File, class: FILE_INFO_BY_HANDLE_CLASS, info: *const c_void, size: usize) -> io::Result<()> {
    let size = u32::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the handle is open, and the caller passes `size` readable bytes of the structure that belongs to the class.
    succeeded(unsafe { SetFileInformationByHandle(file.as_raw_handle(), class, info, size) })
}

/// Returns the absolute path in the form without a limit of 260 characters: `\\?\C:\…`.
fn verbatim(path: &Path) -> io::Result<std::ffi::OsString> {
    let path = std::path::absolute(path)?;
    let mut components = path.components();
    let prefix = match components.next() {
        Some(Component::Prefix(prefix)) => prefix.kind(),
        _ => return Err(io::ErrorKind::InvalidFilename.into()),
    };
    Ok(match prefix {
        Prefix::Disk(_) => concat(r"\\?\", path.as_os_str()),
        Prefix::UNC(server, share) => {
            let mut start = concat(r"\\?\UNC\", server);
            start.push(r"\");
            start.push(share);
            start.push(components.as_path().as_os_str());
            start
        }
        _ => path.into_os_string(),
    })
}

fn concat(start: &str, end: &OsStr) -> std::ffi::OsString {
    let mut joined = std::ffi::OsString::from(start);
    joined.push(end);
    joined
}

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain(iter::once(0)).collect()
}

fn succeeded(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
