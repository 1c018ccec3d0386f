//! The file of a LoRA.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::change::Change;
use trinart_ckpt_formats::containers::{Container, safetensors};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_formats::{PyValue, StoredCheckpoint};
use trinart_ckpt_models::hash::FileHashes;
use trinart_ckpt_models::lora::split_key;

/// The metadata field with the hash that a trainer recorded.
const RECORDED_HASH: &str = "sshs_model_hash";

/// Digits of a hash in a picture's parameters.
const HASH_DIGITS: usize = 12;

/// The changes of a LoRA, by the name of the changed module.
#[derive(Debug)]
pub(super) struct LoraFile {
    path: PathBuf,
    hash: String,
    /// In the order of the file. The names are those of kohya's trainer.
    pub(super) changes: IndexMap<String, Change>,
    /// Embeddings that the file contains.
    pub(super) has_embeddings: bool,
}

impl LoraFile {
    /// Opens a LoRA. Hashes the file, but reads no weights.
    ///
    /// Fails if the file is not readable, or if it has changes of a kind that is not supported.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let stored = StoredCheckpoint::open(path)?;
        let mut parts: IndexMap<String, IndexMap<String, LazyTensor>> = IndexMap::new();
        let mut has_embeddings = false;
        for (key, tensor) in stored.state_dict().iter() {
            if key.starts_with("bundle_emb.") {
                has_embeddings = true;
                continue;
            }
            let (module, part) = split_key(key);
            parts.entry(module).or_default().insert(part, tensor.clone());
        }
        let change = |(module, parts): (String, IndexMap<String, LazyTensor>)| {
            let change = Change::new(&parts).map_err(|error: Error| error.in_tensor(&module).in_file(path))?;
            Ok((module, change))
        };
        let changes = parts.into_iter().map(change).collect::<Result<_>>()?;
        Ok(LoraFile { path: path.to_owned(), hash: hash(path, &stored)?, changes, has_embeddings })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The hash as in WebUI's `Lora hashes`.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// Returns the recorded hash, or else that of the data after a safetensors header, or else that of the file.
fn hash(path: &Path, stored: &StoredCheckpoint) -> Result<String> {
    let digits = |hash: &str| hash.chars().take(HASH_DIGITS).collect();
    let is_safetensors = stored.container() == Container::Safetensors;
    if let Some(PyValue::Str(recorded)) = stored.metadata().get(RECORDED_HASH).filter(|_| is_safetensors) {
        return Ok(digits(recorded));
    }
    let [source] = stored.sources() else {
        return Err(Error::unsupported("expected a LoRA in a single file").in_file(path));
    };
    let data = if is_safetensors { Some(safetensors::data_offset(source)?) } else { None };
    let FileHashes { sha256, autov3, .. } = FileHashes::new(source, data, 1, &NoProgress)?;
    Ok(autov3.unwrap_or_else(|| digits(&sha256)))
}
