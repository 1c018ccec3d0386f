//! Helpers of the tests about files: fixtures, temporary folders, and files as PyTorch writes them. The tests of the
//! program include this folder, too, so every crate that does so uses only a part of it.
#![allow(dead_code)]

pub(crate) mod hostile;
pub(crate) mod mutate;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use trinart_ckpt_formats::containers::{self, Target, WriteOptions};
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::pickle::Encoder;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};
use trinart_ckpt_formats::{OpenOptions, StoredCheckpoint};

/// The committed checkpoints.
pub(crate) const FIXTURES: &[&str] = &[
    "tiny-sd1.ckpt",
    "tiny-sd1-legacy.ckpt",
    "tiny-sd1.safetensors",
    "tiny-vae.ckpt",
    "tiny-vae.vae.pt",
    "dtypes.ckpt",
    "views.ckpt",
    "views-legacy.ckpt",
];

// --- Fixtures and their tensors ------------------------------------------------------------------------------------

/// `(key, dtype, shape, sha256 of the elements)`.
pub(crate) type Row = (String, String, Vec<u64>, String);

/// The root of the repository, above or at the package whose tests include this file.
pub(crate) fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("fixtures").is_dir()).expect("a folder with the fixtures")
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    repository().join("fixtures").join(name)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The facts that PyTorch recorded about a fixture.
pub(crate) fn facts(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(&format!("{name}.json"))).unwrap()).unwrap()
}

/// The tensors of a fixture as PyTorch read them.
pub(crate) fn expected(name: &str) -> Vec<Row> {
    serde_json::from_value(facts(name)["tensors"].clone()).unwrap()
}

/// Opens a file under the names it stores, even if its pickle is dangerous.
pub(crate) fn open(path: impl AsRef<Path>) -> trinart_ckpt_formats::Result<StoredCheckpoint> {
    StoredCheckpoint::open_with(path, &OpenOptions::new().keep_dangers())
}

/// Reads all tensors of an opened file.
pub(crate) fn rows(contents: &StoredCheckpoint) -> trinart_ckpt_formats::error::Result<Vec<Row>> {
    let row = |(key, tensor): (&str, &LazyTensor)| {
        let hash = sha256(&tensor.to_bytes()?);
        Ok((key.to_owned(), tensor.dtype().to_string(), tensor.shape().dims().to_vec(), hash))
    };
    contents.state_dict().iter().map(row).collect()
}

/// Opens a file and reads all its tensors.
pub(crate) fn read(path: &Path) -> Vec<Row> {
    rows(&open(path).unwrap()).unwrap()
}

/// Compares row by row, so that a failure prints one row instead of two lists of a thousand.
#[track_caller]
pub(crate) fn assert_rows(found: &[Row], expected: &[Row]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

// --- A folder for each test ----------------------------------------------------------------------------------------

pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Copies a fixture into the folder.
    pub(crate) fn copy_fixture(&self, fixture_name: &str, name: &str) -> PathBuf {
        self.write(name, fs::read(fixture(fixture_name)).unwrap())
    }

    /// The sha256 of every file in the folder by name, hidden files included.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.path()).unwrap().map(Result::unwrap);
        let entry = |entry: fs::DirEntry| {
            let is_file = entry.file_type().unwrap().is_file();
            let content = if is_file { sha256(&fs::read(entry.path()).unwrap()) } else { "not a file".to_owned() };
            (entry.file_name().into_string().unwrap(), content)
        };
        entries.map(entry).collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.snapshot().into_keys().collect()
    }
}

/// Copies a folder and returns the path of the copy.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let copy = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &copy);
        } else {
            fs::copy(entry.path(), &copy).unwrap();
        }
    }
    to.to_owned()
}

// --- Generated files -----------------------------------------------------------------------------------------------

pub(crate) fn tensor(dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> LazyTensor {
    let shape = Shape::new(shape).unwrap();
    LazyTensor::owned(dtype, shape, bytes).unwrap()
}

pub(crate) fn f32s(values: &[f32]) -> LazyTensor {
    tensor(Dtype::F32, &[values.len() as u64], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Saves tensors in the format of the path's extension.
pub(crate) fn save(path: &Path, tensors: impl IntoIterator<Item = (String, LazyTensor)>) {
    let mut state_dict = StateDict::new();
    for (key, tensor) in tensors {
        state_dict.insert(key, tensor).unwrap();
    }
    let options = WriteOptions::default().verify(false).jobs(2);
    containers::write(path, Target::from_path(path).unwrap(), &state_dict, &Metadata::new(), &options).unwrap();
}

/// Pickles a tensor as torch does: a call with a reference to a storage of `elements` elements.
pub(crate) fn pickle_tensor(encoder: &mut Encoder, class: (&'static str, &'static str), record: &str, elements: u64) {
    encoder.global("torch._utils", "_rebuild_tensor_v2");
    let storage = |encoder: &mut Encoder| {
        encoder.str("storage")?;
        encoder.global(class.0, class.1);
        encoder.str(record)?;
        encoder.str("cpu")?;
        encoder.int(elements);
        Ok(())
    };
    let arguments = |encoder: &mut Encoder| {
        encoder.tuple(5, storage)?;
        encoder.persistent();
        encoder.int(0);
        encoder.int_tuple(&[elements]);
        encoder.int_tuple(&[1]);
        encoder.bool(false);
        encoder.global("collections", "OrderedDict");
        encoder.tuple(0, |_| Ok(()))?;
        encoder.reduce();
        Ok(())
    };
    encoder.tuple(6, arguments).unwrap();
    encoder.reduce();
}

/// Writes a torch zip of these records, stored in the folder `archive`, and a `version` record.
pub(crate) fn zip(path: &Path, records: &[(&str, &[u8])]) {
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut writer = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in records.iter().chain(&[("version", &b"3\n"[..])]) {
        writer.start_file(format!("archive/{name}"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// Writes `bytes` at `offset` of an open file.
pub(crate) fn overwrite(mut file: &File, offset: u64, bytes: &[u8]) {
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}
