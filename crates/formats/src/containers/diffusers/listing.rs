//! Lists folders, and reads the small files in them.

use std::path::Path;

use serde_json::Value;

use super::json::parse_json;
use super::{COMPONENTS, OTHER_COMPONENTS, VIDEO_COMPONENTS, VIDEO_PIPELINE};
use crate::error::Result;
use crate::io::{self, is_dir};
use crate::limits;

/// Returns the components of a pipeline whose tensors are read: those of a UNet, or else those of a transformer. `index` is
/// its `model_index.json`.
pub(super) fn components(path: &Path, index: Option<&Value>) -> impl Iterator<Item = &'static str> + use<> {
    let others: &[&str] = if is_dir(&path.join("unet")) { &[] } else { OTHER_COMPONENTS };
    let class = index.and_then(|index| index.get("_class_name")?.as_str());
    let of_video: &[&str] = if class == Some(VIDEO_PIPELINE) { VIDEO_COMPONENTS } else { &[] };
    COMPONENTS.iter().chain(others).chain(of_video).copied()
}

/// Lists the entries of a folder with UTF-8 names, sorted.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = io::names(folder)?;
    names.sort();
    Ok(names)
}

/// Reads a file of at most `most` bytes.
pub(super) fn text(path: &Path, most: u64) -> Result<Vec<u8>> {
    io::read_small(path, "JSON or text", most)
}

/// Reads a configuration.
pub(super) fn json(path: &Path) -> Result<Value> {
    parse_json(&text(path, limits::CONFIG_FILE)?).map_err(|error| error.in_file(path))
}
