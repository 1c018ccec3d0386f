//! What a zip is, by the names of its records; and which of its records are storages of tensors.

use std::collections::HashMap;

use super::directory::Record;
use super::keras::KERAS_CONFIGURATION;
use crate::containers::{Container, StorageSize};
use crate::danger::{Finding, Level, Usage};
use crate::scan::scanned_format::ScannedFormat;
use crate::scan::scanner::{LocatedFinding, Scanner};

/// Returns the format of a zip with these records.
pub(super) fn kind(records: &[Record]) -> ScannedFormat {
    let has = |ending: &str| {
        let mut names = records.iter().map(|record| record.name.as_str());
        names.any(|name| name.strip_suffix(ending).is_some_and(|folder| !folder.trim_end_matches('/').contains('/')))
    };
    let is_listed = |name: &str| records.iter().any(|record| record.name == name);
    let is_array = |record: &Record| record.name.to_ascii_lowercase().ends_with(".npy");
    if has(".data/extern_modules") || has(".data/python_version") {
        ScannedFormat::TorchPackage
    } else if has("/archive_format") || is_listed("serialized_exported_program.json") {
        ScannedFormat::TorchExport
    } else if is_listed(KERAS_CONFIGURATION) && is_listed("metadata.json") {
        ScannedFormat::Keras
    } else if has("/data.pkl") && has("/constants.pkl") {
        ScannedFormat::TorchScript
    } else if has("/data.pkl") {
        ScannedFormat::Container(Container::TorchZip)
    } else if !records.is_empty() && records.iter().all(is_array) {
        ScannedFormat::NumpyArchive
    } else {
        ScannedFormat::Zip
    }
}

/// Whether Python can import a module from a zip with these records, or run the zip.
pub(super) fn holds_modules(records: &[Record]) -> bool {
    records.iter().any(|record| [".py", ".pyc"].iter().any(|ending| record.name.to_ascii_lowercase().ends_with(ending)))
}

/// Adds the records that a pickle refers to as its storages, by name, with their sizes. The folder of the storages has
/// the name of the pickle; torch.package gives all pickles one folder.
pub(super) fn add_storages(pickle: &str, found: &[StorageSize], storages: &mut HashMap<String, u64>) {
    let Some(stem) = pickle.strip_suffix(".pkl") else { return };
    let root = stem.split('/').next().unwrap_or_default();
    for StorageSize { key, bytes } in found {
        storages.insert(format!("{stem}/{key}"), *bytes);
        if stem != root {
            storages.insert(format!("{root}/.data/{key}.storage"), *bytes);
        }
    }
}

impl Scanner<'_> {
    /// Adds a finding for a format that holds code besides its pickles.
    pub(super) fn add_code(&mut self, format: ScannedFormat, place: &str) {
        let (name, reason) = match format {
            ScannedFormat::TorchScript => ("a TorchScript program", "runs when its methods are called"),
            ScannedFormat::TorchPackage => ("Python modules", "torch.package runs when it loads their objects"),
            ScannedFormat::TorchExport => {
                ("an exported program", "torch.export rebuilds by evaluating its expressions")
            }
            _ => return,
        };
        self.add_content(name, Level::Unknown, reason, place);
    }

    /// Adds a finding for something that is not a pickle.
    pub(in super::super) fn add_content(&mut self, name: &str, level: Level, reason: &'static str, place: &str) {
        let finding = Finding {
            name: name.to_owned(),
            level,
            reason,
            usage: Usage::Contains,
            arguments: None,
            offset: 0,
            count: 1,
            allowed_by: None,
        };
        self.findings.push(LocatedFinding { place: place.to_owned(), finding });
    }
}
