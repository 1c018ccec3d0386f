//! Test helpers: running the program, and the shared helpers of `crates/formats/tests/support`.

#[cfg(feature = "remote")]
pub(crate) mod cloud;
#[path = "../../../crates/formats/tests/support/mod.rs"]
mod files;
#[cfg(feature = "remote")]
pub(crate) mod hub;
pub(crate) mod narrow;
pub(crate) mod peers;
pub(crate) mod promises;
#[cfg(feature = "remote")]
pub(crate) mod proxy;
#[cfg(feature = "remote")]
pub(crate) mod server;

pub(crate) use files::*;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_trinart-ckpt");

// --- The program ---------------------------------------------------------------------------------------------------

/// Runs the program: `run!["convert", &input, "-o", &output]`.
macro_rules! run {
    ($($argument:expr),* $(,)?) => { $crate::support::run(&[$(std::ffi::OsString::from($argument)),*]) };
}

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(arguments: &[OsString]) -> Ran {
    Command::new(PROGRAM).args(arguments).output().unwrap().into()
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Asserts exit code 0 and an empty stderr. Returns stdout.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
        self.stdout
    }

    /// Like [`Ran::done`], for `--json`.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.done();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Asserts exit code 1 and an empty stderr. Returns stdout.
    #[track_caller]
    pub(crate) fn no(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(1), ""), "{}", self.stdout);
        self.stdout
    }

    /// Like [`Ran::no`], for `--json`.
    #[track_caller]
    pub(crate) fn json_of_no(self) -> Value {
        let text = self.no();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Asserts exit code 2, an empty stdout, and one line on stderr that contains these words.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        assert_one_line(&self.stderr, words);
    }
}

/// Asserts that stderr is one line that starts with the name of the program and contains these words. Either separator of
/// paths will do.
#[track_caller]
pub(crate) fn assert_one_line(stderr: &str, words: &[&str]) {
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "not one line: {stderr:?}");
    assert!(stderr.starts_with("trinart-ckpt: "), "{stderr}");
    let plain = |text: &str| if cfg!(windows) { text.replace('\\', "/") } else { text.to_owned() };
    for word in words {
        assert!(plain(stderr).contains(&plain(word)), "no {word:?} in {stderr}");
    }
}

// --- Generated files -----------------------------------------------------------------------------------------------

/// Correct position_ids: 0, 1, 2 and so on.
pub(crate) fn position_ids(count: u64) -> LazyTensor {
    tensor(Dtype::I64, &[1, count], (0..count).flat_map(u64::to_le_bytes).collect())
}

/// Returns the tensors of a file, to change and save them. Does not read their data.
pub(crate) fn tensors(path: &Path) -> Vec<(String, LazyTensor)> {
    let contents = open(path).unwrap();
    contents.state_dict().iter().map(|(key, tensor)| (key.to_owned(), tensor.clone())).collect()
}

/// Returns the names of the records of a zip, without their folder.
pub(crate) fn records(path: &Path) -> Vec<String> {
    let archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    archive.file_names().map(|name| name.unwrap().split_once('/').unwrap().1.to_owned()).collect()
}

/// The content hashes that `fixtures/make_hashes.py` computed, by file and component.
pub(crate) fn content_hashes() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("content-hashes.json")).unwrap()).unwrap()
}

/// The content hash of a component of a fixture.
pub(crate) fn content_hash(file: &str, component: &str) -> String {
    content_hashes()[file][component]["exact"].as_str().unwrap().to_owned()
}
