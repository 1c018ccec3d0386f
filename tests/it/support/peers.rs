//! Runs torch, safetensors and picklescan on files, through `tests/peers/describe.py`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Row;

/// Environment variable: the path of the Python environment, by default `target/peers`.
const PLACE: &str = "TRINART_PEERS";

/// Environment variable: if 1, a missing Python environment fails the tests.
const REQUIRED: &str = "TRINART_PEERS_REQUIRED";

/// The Python interpreter with the libraries.
pub(crate) struct Peers {
    python: PathBuf,
}

impl Peers {
    /// Finds the environment that `tests/peers/install.py` creates. Prints a message and returns `None` if it is
    /// missing.
    pub(crate) fn find() -> Option<Self> {
        let default = || repository().join("target/peers");
        let folder = env::var_os(PLACE).map_or_else(default, PathBuf::from);
        let python = folder.join("bin/python");
        if python.is_file() {
            return Some(Peers { python });
        }
        let is_required = env::var_os(REQUIRED).is_some_and(|value| value == "1");
        assert!(!is_required, "no Python environment in {}; run python3 tests/peers/install.py", folder.display());
        eprintln!("skipped: the Python environment is missing; run python3 tests/peers/install.py");
        None
    }

    /// Finds the environment as [`Self::find`], if it has this package. Environments of before the package was required
    /// lack it.
    pub(crate) fn find_with(package: &str) -> Option<Self> {
        let peers = Self::find()?;
        let imported = Command::new(&peers.python).args(["-B", "-c", &format!("import {package}")]).output().unwrap();
        if imported.status.success() {
            return Some(peers);
        }
        let is_required = env::var_os(REQUIRED).is_some_and(|value| value == "1");
        assert!(!is_required, "no {package} in the Python environment; run python3 tests/peers/install.py");
        eprintln!("skipped: the Python environment has no {package}; run python3 tests/peers/install.py");
        None
    }

    /// Describes files as the libraries read them, in order. Takes all files in one call, because importing torch takes
    /// seconds.
    pub(crate) fn describe<P: AsRef<Path>>(&self, flags: &[&str], files: impl IntoIterator<Item = P>) -> Vec<Facts> {
        let files: Vec<PathBuf> = files.into_iter().map(|file| file.as_ref().to_owned()).collect();
        let script = repository().join("tests/peers/describe.py");
        // Without -B, Python would write a `__pycache__` folder next to the sources.
        let output = Command::new(&self.python).arg("-B").arg(script).args(flags).args(&files).output().unwrap();
        let parsed: Result<Vec<Value>, _> = serde_json::from_slice(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let described = parsed.unwrap_or_else(|error| panic!("describe.py: {error}: {stderr}"));
        assert_eq!(described.len(), files.len());
        described.into_iter().map(Facts).collect()
    }

    /// Writes files to scan; see `tests/peers/scan_files.py`. Returns what the script prints.
    pub(crate) fn write_scan_files(&self, kind: &str, folder: &Path, arguments: &[&str]) -> String {
        let script = repository().join("tests/peers/scan_files.py");
        let working = tempfile::tempdir().unwrap();
        let mut command = Command::new(&self.python);
        let output =
            command.arg("-B").arg(script).arg(kind).arg(folder).args(arguments).current_dir(&working).output().unwrap();
        assert!(output.status.success(), "scan_files.py: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The results of picklescan, and its lists of names; see `tests/peers/scanners.py`.
    pub(crate) fn scan<P: AsRef<Path>>(&self, files: impl IntoIterator<Item = P>) -> Value {
        let files: Vec<PathBuf> = files.into_iter().map(|file| file.as_ref().to_owned()).collect();
        let script = repository().join("tests/peers/scanners.py");
        let output = Command::new(&self.python).arg("-B").arg(script).args(&files).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("scanners.py: {error}: {stderr}"))
    }

    /// Writes the inputs and the expected outputs of casts and of scaled fp8 to a folder; see `tests/peers/quantized.py`.
    pub(crate) fn quantize(&self, folder: &Path) {
        let script = repository().join("tests/peers/quantized.py");
        let output = Command::new(&self.python).arg("-B").arg(script).arg(folder).output().unwrap();
        assert!(output.status.success(), "quantized.py: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a script of `tests/peers` that prints JSON.
    pub(crate) fn script(&self, name: &str, arguments: &[&Path]) -> Value {
        let script = repository().join("tests/peers").join(name);
        let output = Command::new(&self.python).arg("-B").arg(script).args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{name}: {error}: {stderr}"))
    }

    /// Like `describe`, with the rules of WebUI and picklescan.
    pub(crate) fn judge<P: AsRef<Path>>(&self, files: impl IntoIterator<Item = P>) -> Vec<Facts> {
        self.describe(&["--webui", "--picklescan"], files)
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contents of one file as the libraries read it.
pub(crate) struct Facts(Value);

impl Facts {
    pub(crate) fn file(&self) -> &Path {
        Path::new(self.0["file"].as_str().unwrap())
    }

    pub(crate) fn field(&self, name: &str) -> &Value {
        &self.0[name]
    }

    /// The tensors in order, or the error of the library.
    pub(crate) fn tensors(&self) -> Result<Vec<Row>, String> {
        match &self.0["error"] {
            Value::Null => Ok(serde_json::from_value(self.0["tensors"].clone()).unwrap()),
            error => Err(error.to_string()),
        }
    }

    /// Describes the first difference from the expected tensors.
    pub(crate) fn difference(&self, expected: &[Row]) -> Option<String> {
        let found = match self.tensors() {
            Ok(found) => found,
            Err(error) => return Some(error),
        };
        if let Some((found, expected)) = found.iter().zip(expected).find(|(found, expected)| found != expected) {
            return Some(format!("{found:?}, expected {expected:?}"));
        }
        let (found, expected) = (found.len(), expected.len());
        (found != expected).then(|| format!("{found} tensors, expected {expected}"))
    }

    #[track_caller]
    pub(crate) fn assert_tensors(&self, expected: &[Row]) {
        assert_eq!(self.difference(expected), None, "{}", self.file().display());
    }

    /// Asserts that the file loads with `weights_only` and memory-mapped, and that WebUI and picklescan accept it.
    #[track_caller]
    pub(crate) fn assert_welcome(&self) {
        let file = self.file().display();
        let tensors = self.tensors().unwrap_or_else(|error| panic!("{file}: {error}"));
        let loader = self.0["loader"].as_str().unwrap();
        if self.file().extension().is_some_and(|extension| extension == "safetensors") {
            assert!(loader.starts_with("safetensors ") && loader.ends_with(" safe_open"), "{file}: {loader}");
            return;
        }
        assert!(loader.starts_with("torch ") && loader.ends_with(" weights_only mmap"), "{file}: {loader}");
        assert_eq!(self.0["root"], "state_dict", "{file}");
        assert_eq!(self.0["picklescan"].to_string(), r#"{"dangerous":0,"suspicious":0,"error":false}"#, "{file}");
        let webui = &self.0["webui"];
        assert_eq!(webui["1.10.1"], "ok", "{file}");
        // WebUI of October 2022 does not accept bfloat16 in any file.
        let has_bf16 = tensors.iter().any(|(_, dtype, ..)| dtype == "BF16");
        let in_2022 = if has_bf16 { "global 'torch/BFloat16Storage' is forbidden" } else { "ok" };
        assert_eq!(webui["2022-10"], in_2022, "{file}");
    }
}
