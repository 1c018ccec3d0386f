//! What the fuzz targets share: each reads its input as a file, and everything in that file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use trinart_ckpt_formats::{Error, OpenOptions, StoredCheckpoint};

/// Bytes of tensors that are read. A view can expand a few bytes to half a gigabyte.
const MOST_READ: u64 = 4 << 20;

/// A folder for the input, in memory if the system has such a file system.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
});

/// Returns a path in the temporary folder.
pub fn path(name: &str) -> PathBuf {
    FOLDER.path().join(name)
}

/// Writes a file in the temporary folder, and its parent folders.
pub fn write(name: &str, content: &[u8]) -> PathBuf {
    let path = path(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(&path, content).expect("a written file");
    path
}

/// Opens a checkpoint and reads its tensors, in one piece and in two.
pub fn open(path: &Path) {
    let contents = match StoredCheckpoint::open_with(path, &OpenOptions::new().sanitize()) {
        Ok(contents) => contents,
        Err(error) => return check(&error),
    };
    let mut left = MOST_READ;
    for (key, tensor) in contents.state_dict().iter() {
        let Some(rest) = left.checked_sub(tensor.bytes()) else { continue };
        left = rest;
        let whole = match tensor.to_bytes() {
            Ok(whole) => whole,
            Err(error) => return check(&error),
        };
        let size = tensor.dtype().size();
        let half = tensor.shape().elements() / 2;
        let mut pieces = vec![0; whole.len()];
        let (first, second) = pieces.split_at_mut(half as usize * size);
        let held = tensor.hold().expect("a readable tensor can be held");
        tensor.read(0, first, None).expect("a readable tensor");
        tensor.read(half, second, None).expect("a readable tensor");
        drop(held);
        assert!(pieces == whole, "{key} differs if it is read in pieces");
    }
}

/// Checks that an error is one printable line and no internal error.
pub fn check(error: &Error) {
    let line = error.to_string();
    assert!(!line.chars().any(char::is_control), "not one printable line: {line:?}");
    assert!(error.kind() != trinart_ckpt_formats::Kind::Internal, "{line}");
}

/// Returns a torch zip of a pickle and four storages of 64 bytes.
pub fn torch_zip(pickle: &[u8]) -> Vec<u8> {
    let data: Vec<u8> = (0..64).collect();
    let mut records = vec![("a/data.pkl".to_owned(), pickle), ("a/version".to_owned(), b"3\n")];
    records.extend((0..4).map(|index| (format!("a/data/{index}"), &*data)));
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in &records {
        let offset = file.len() as u32;
        let mut fields = Vec::new();
        // Flags, method, time, date, checksum, sizes, and the lengths of the name and of the extra fields.
        fields.extend([0; 8]);
        fields.extend(crc32fast::hash(content).to_le_bytes());
        fields.extend([(content.len() as u32).to_le_bytes(), (content.len() as u32).to_le_bytes()].concat());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        file.extend([b"PK\x03\x04\x14\0", &*fields, name.as_bytes(), content].concat());
        directory
            .extend([b"PK\x01\x02\x14\0\x14\0", &*fields, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let begin = file.len() as u32;
    let count = (records.len() as u16).to_le_bytes();
    file.extend(&directory);
    file.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count].concat());
    file.extend([(directory.len() as u32).to_le_bytes(), begin.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zip_opens() {
        let tensor =
            b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
            X\x01\0\0\x001X\x03\0\0\0cpuK\x10tQK\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.";
        let contents = StoredCheckpoint::open(write("a.ckpt", &torch_zip(tensor))).unwrap();
        assert_eq!(contents.state_dict().len(), 1);
        open(&path("a.ckpt"));
    }
}
