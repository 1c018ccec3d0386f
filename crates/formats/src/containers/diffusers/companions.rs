//! The small files of a folder: its index, and the configurations beside the weights.

use std::path::Path;

use serde_json::Value;

use super::json::write_json;
use super::listing::{components, json, names, text};
use super::{MODEL_INDEX, is_weights};
use crate::containers::StoredCheckpoint;
use crate::error::{Error, Result};
use crate::io::{is_dir, is_file};
use crate::limits;

/// The configuration of the noise schedule is a part of a pipeline without weights.
pub(super) const SCHEDULER: &str = "scheduler";

/// The small files of a folder.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Companions {
    /// The index and the configurations: the path within the folder, and the content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Parts of the pipeline that the index names and the folder lacks.
    pub missing: Vec<String>,
}

/// Reads the index and the configurations of a folder. Parts that the folder lacks are set to null in
/// `model_index.json`, so that the pipeline loads without them.
pub fn companions(stored: &StoredCheckpoint) -> Result<Companions> {
    let (mut found, path) = (Companions::default(), stored.path());
    let index_path = path.join(MODEL_INDEX);
    if !is_file(&index_path) {
        take_texts(&mut found, path, "")?;
        return Ok(found);
    }
    let Value::Object(mut index) = json(&index_path)? else {
        return Err(Error::malformed("not a JSON object").in_file(index_path));
    };
    let read: Vec<&str> = components(path, stored.configs().get("model_index")).chain([SCHEDULER]).collect();
    for (name, part) in &mut index {
        if !is_part(part) {
            continue;
        }
        if read.contains(&name.as_str()) && is_dir(&path.join(name.as_str())) {
            take_texts(&mut found, &path.join(name.as_str()), &format!("{name}/"))?;
        } else if !stored.parts().iter().any(|part| part.name == *name) {
            *part = Value::Array(vec![Value::Null, Value::Null]);
            found.missing.push(name.clone());
        }
    }
    let text = if found.missing.is_empty() {
        text(&index_path, limits::CONFIG_FILE)?
    } else {
        write_json(&Value::Object(index)).into_bytes()
    };
    found.files.insert(0, (MODEL_INDEX.to_owned(), text));
    Ok(found)
}

/// Returns whether an entry of the index is a part: a library and a class, not null.
pub(super) fn is_part(entry: &Value) -> bool {
    entry.as_array().is_some_and(|entry| entry.iter().any(|it| !it.is_null()))
}

/// Reads the JSON and text files of one folder, except an index of shards.
fn take_texts(found: &mut Companions, folder: &Path, prefix: &str) -> Result<()> {
    for name in names(folder)? {
        let path = folder.join(&name);
        let is_text = name.ends_with(".json") || name.ends_with(".txt");
        if is_text && !is_weights(&name) && is_file(&path) {
            let content = text(&path, limits::JSON_FILE)?;
            let bytes: usize = found.files.iter().map(|(_, content)| content.len()).sum();
            if bytes + content.len() > limits::COMPANION_BYTES {
                let found = format!("more than {} bytes of JSON and text beside the weights", limits::COMPANION_BYTES);
                return Err(Error::limit(found).in_file(path));
            }
            found.files.push((format!("{prefix}{name}"), content));
        }
    }
    Ok(())
}
