use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::compare::{Compare, CompareOptions};
use super::contents::Contents;
use super::inputs::Inputs;
use super::run_methods::run_methods;
use crate::report::{FileDifference, FileResult, FolderDifference};
use trinart_ckpt_formats::error::Kind;
use trinart_ckpt_formats::io::{NoProgress, Progress, parallel};
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::{Checkpoint, Component};

/// Compares the checkpoints in two folders: those with the same path below the folders, whatever their extension, and among the
/// others those with the same content.
#[derive(Clone)]
pub struct CompareFolders<'a> {
    a: PathBuf,
    b: PathBuf,
    options: CompareOptions,
    jobs: usize,
    progress: &'a dyn Progress,
}

run_methods!(CompareFolders, jobs, progress);

impl<'a> CompareFolders<'a> {
    /// Returns a comparison of two folders.
    pub fn new(a: impl Into<PathBuf>, b: impl Into<PathBuf>) -> Self {
        let (options, jobs) = (CompareOptions::default(), parallel::default_jobs());
        CompareFolders { a: a.into(), b: b.into(), options, jobs, progress: &NoProgress }
    }

    /// Sets what is compared of each pair.
    #[must_use]
    pub fn options(mut self, options: CompareOptions) -> Self {
        self.options = options;
        self
    }

    /// Compares the folders. A file that cannot be read is a part of the report.
    pub fn run(&self) -> Result<FolderDifference> {
        let (mut left, mut right) = (list(&self.a)?, list(&self.b)?);
        let mut files = Vec::new();
        for (a, b) in pairs(&mut left, &mut right) {
            let result = match self.pair(&a.1, &b.1) {
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => FileResult::failed(&error),
                Ok(result) => result,
            };
            files.push(FileDifference::new(Some(&a.0), Some(&b.0), result));
        }
        // What has no partner by its path can have one by its content.
        if !left.is_empty() && !right.is_empty() {
            let mut of_b: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
            for (below, path) in &right {
                if let Some(content) = self.content(path)? {
                    of_b.entry(content).or_default().push(below.clone());
                }
            }
            let mut taken = BTreeSet::new();
            for (below, path) in &left {
                let Some(content) = self.content(path)? else { continue };
                if let Some(other) = of_b.get_mut(&content).and_then(Vec::pop) {
                    files.push(FileDifference::new(Some(below), Some(&other), FileResult::Moved));
                    taken.insert(below.clone());
                    right.remove(&other);
                }
            }
            left.retain(|below, _| !taken.contains(below));
        }
        files.extend(left.keys().map(|below| FileDifference::new(Some(below), None, FileResult::OnlyInA)));
        files.extend(right.keys().map(|below| FileDifference::new(None, Some(below), FileResult::OnlyInB)));
        Ok(FolderDifference::new(&self.a, &self.b, files))
    }

    fn pair(&self, a: &Path, b: &Path) -> Result<FileResult> {
        let options = OpenOptions::new().keep_dangers();
        let (a, b) = (Checkpoint::open_with(a, &options)?, Checkpoint::open_with(b, &options)?);
        let compare = Compare::new(&a, &b).options(self.options.clone()).jobs(self.jobs).progress(self.progress);
        let difference = compare.run()?;
        let verdict = difference.verdict();
        Ok(if difference.equal { FileResult::Equal } else { FileResult::Different { verdict } })
    }

    /// The hash of the main components whatever their dtypes; `None` for a file that cannot be read.
    fn content(&self, path: &Path) -> Result<Option<String>> {
        self.progress.check()?;
        let Ok(checkpoint) = Checkpoint::open_with(path, &OpenOptions::new().keep_dangers()) else { return Ok(None) };
        let is_main = |it| !matches!(it, Component::Ema | Component::Schedule | Component::TrainingResidue);
        match Contents::read_only(&checkpoint, |component, _| is_main(component), self.jobs, self.progress) {
            Ok(contents) => {
                let parts = contents.components().filter_map(|it| Some((it.name(), contents.rounded(it)?)));
                Ok(Some(parts.map(|(name, hash)| format!("{name} {hash} ")).collect()))
            }
            Err(error) if error.kind() == Kind::Interrupted => Err(error),
            Err(_) => Ok(None),
        }
    }
}

/// The checkpoints in a folder, by their paths below it.
fn list(folder: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let inputs = Inputs::list([folder]);
    match inputs.errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(inputs.files.into_iter().map(|input| (input.relative, input.path)).collect()),
    }
}

type Found = (PathBuf, PathBuf);

/// Takes the pairs with the same path, and then those with the same path but for the extension, if it is the only such pair.
fn pairs(left: &mut BTreeMap<PathBuf, PathBuf>, right: &mut BTreeMap<PathBuf, PathBuf>) -> Vec<(Found, Found)> {
    let mut pairs = Vec::new();
    let same: Vec<PathBuf> = left.keys().filter(|below| right.contains_key(*below)).cloned().collect();
    for below in same {
        pairs.extend(left.remove_entry(&below).zip(right.remove_entry(&below)));
    }
    let stem = |below: &PathBuf| below.with_extension("");
    let by_stem = |files: &BTreeMap<PathBuf, PathBuf>| {
        let mut found: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        files.keys().for_each(|below| found.entry(stem(below)).or_default().push(below.clone()));
        found
    };
    let (of_a, of_b) = (by_stem(left), by_stem(right));
    for (stem, names) in &of_a {
        if let ([a], Some([b])) = (names.as_slice(), of_b.get(stem).map(Vec::as_slice)) {
            pairs.extend(left.remove_entry(a).zip(right.remove_entry(b)));
        }
    }
    pairs.sort();
    pairs
}
