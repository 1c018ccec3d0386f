//! The parts of a pipeline that are copied as they are, such as a tokenizer or a safety checker.

use std::collections::BTreeSet;
use std::path::Path;

use super::companions::{SCHEDULER, is_part};
use super::listing::{components, names};
use super::part::Part;
use crate::containers::{OpaqueValue, StoredCheckpoint, open_file};
use crate::error::Result;
use crate::io::{Source, is_dir, is_file};

/// Endings of files with weights. They are copied only if they can be read, and if their pickles are safe.
const WEIGHTS: &[&str] = &["safetensors", "bin", "pt", "pth", "ckpt"];

/// Endings of other files that parts consist of: configurations, vocabularies, models of sentencepiece, notes.
const OTHERS: &[&str] = &["json", "txt", "model", "jinja", "md"];

/// Reads the parts of a pipeline besides its components: the subfolders that the index names, and others that have a
/// configuration. Lists subfolders and files that are left out among the opaque values.
pub(super) fn read(contents: &mut StoredCheckpoint, path: &Path) -> Result<()> {
    let index = contents.configs.get("model_index");
    let is_read: BTreeSet<&str> = components(path, index).chain([SCHEDULER]).collect();
    let index = index.and_then(|index| index.as_object()).cloned().unwrap_or_default();
    for name in names(path)?.into_iter().filter(|name| !name.starts_with('.') && !is_read.contains(name.as_str())) {
        let folder = path.join(&name);
        if !is_dir(&folder) {
            continue;
        }
        if index.get(&name).is_some_and(is_part) || is_file(&folder.join("config.json")) {
            let part = read_part(contents, name, &folder)?;
            contents.parts.push(part);
        } else {
            let what = "a subfolder that is no part of the pipeline".to_owned();
            contents.opaque.push(OpaqueValue { path: name, what });
        }
    }
    Ok(())
}

fn read_part(contents: &mut StoredCheckpoint, name: String, folder: &Path) -> Result<Part> {
    let (mut files, mut has_weights) = (Vec::new(), false);
    for file in names(folder)? {
        let (path, inner) = (folder.join(&file), format!("{name}/{file}"));
        let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
        let mut leave = |what: &str| contents.opaque.push(OpaqueValue { path: inner.clone(), what: what.to_owned() });
        if !is_file(&path) {
            leave("a subfolder of a part");
        } else if WEIGHTS.contains(&ending) {
            has_weights = true;
            match open_file(&path) {
                Ok(opened) if opened.dangers.is_empty() => files.push((inner, Source::open(&path)?)),
                Ok(opened) => {
                    leave("weights with a dangerous pickle");
                    contents.dangers.extend(opened.dangers);
                }
                Err(_) => leave("weights that cannot be read"),
            }
        } else if OTHERS.contains(&ending) {
            files.push((inner, Source::open(&path)?));
        } else {
            leave("a file of a part that is neither weights nor text");
        }
    }
    Ok(Part { name, files, has_weights })
}
