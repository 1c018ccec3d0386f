use serde_json::{Map, Value, json};

use super::{MODEL_INDEX, SEPARATOR, stems};
use crate::error::{Error, OrInternal, Result};
use crate::metadata::{MERGE_RECIPE, Metadata, PyValue};
use crate::state_dict::StateDict;

/// The files of a folder besides weights, and how the weights are split into files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Configurations and tokenizers: the path within the folder, and the content.
    pub texts: &'a [(String, Vec<u8>)],
    /// Whether to write the weights as `.bin`, which holds no metadata, instead of safetensors.
    pub bin: bool,
    /// The variant in file names: `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
    pub variant: Option<&'a str>,
    /// The maximum bytes of tensors per weights file. A larger tensor gets its own file.
    pub shard_bytes: u64,
}

/// A file of a folder.
#[derive(Debug)]
#[non_exhaustive]
pub enum Entry {
    /// Weights: a torch zip if the path ends in `.bin`, else safetensors.
    Weights {
        /// The path within the folder.
        path: String,
        /// The tensors, by their keys within the component.
        state_dict: StateDict,
        /// The metadata.
        metadata: Metadata,
    },
    /// Anything else.
    Text {
        /// The path within the folder.
        path: String,
        /// The content.
        content: Vec<u8>,
    },
}

impl Entry {
    /// The path within the folder.
    pub fn path(&self) -> &str {
        match self {
            Entry::Weights { path, .. } | Entry::Text { path, .. } => path,
        }
    }
}

/// Returns the files of a folder for a state dict with keys such as `unet/conv_in.weight`.
///
/// Without a `model_index.json`, the weights of the single component go to the top of the folder. Metadata goes into the
/// weights of the first component, except the recipe of a merged VAE, which goes into those of the VAE.
///
/// Fails if a key has no component.
pub fn entries(state_dict: &StateDict, metadata: &Metadata, files: &Files<'_>) -> Result<Vec<Entry>> {
    let text = |(path, content): &(String, Vec<u8>)| Entry::Text { path: path.clone(), content: content.clone() };
    let mut entries: Vec<Entry> = files.texts.iter().map(text).collect();
    let is_alone = !files.texts.iter().any(|(path, _)| path == MODEL_INDEX);
    let first = state_dict.keys().next().map(split).transpose()?.map(|(component, _)| component.to_owned());
    let mut rest = state_dict.iter().peekable();
    while let Some((component, _)) = rest.peek().map(|(key, _)| split(key)).transpose()? {
        let mut shards = vec![StateDict::new()];
        let (mut total, mut in_shard) = (0_u64, 0_u64);
        while let Some((key, tensor)) = rest.next_if(|(key, _)| split(key).is_ok_and(|(name, _)| name == component)) {
            let (_, name) = split(key)?;
            // Views of one storage can add up to more than any file holds.
            let add = |sum: u64| sum.checked_add(tensor.bytes());
            let is_full = in_shard > 0 && add(in_shard).is_none_or(|bytes| bytes > files.shard_bytes);
            if is_full {
                shards.push(StateDict::new());
                in_shard = 0;
            }
            let too_large = || Error::limit("the output would be larger than any file can be").in_tensor(key);
            in_shard = add(in_shard).ok_or_else(too_large)?;
            total = add(total).ok_or_else(too_large)?;
            let shard = shards.last_mut().or_internal("a component has no shard")?;
            shard.insert(name, tensor.clone())?;
        }
        let folder = if is_alone { String::new() } else { format!("{component}/") };
        let belongs_here = |name: &str| match name {
            MERGE_RECIPE if !is_alone => component == "vae",
            _ => first.as_deref() == Some(component),
        };
        let fields = metadata.iter().filter(|(name, _)| belongs_here(name));
        let mut fields: Metadata = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        let (safetensors, bin) = stems(component);
        let (stem, ending) = if files.bin { (bin, "bin") } else { (safetensors, "safetensors") };
        if files.bin {
            fields.clear();
        } else {
            // The Python libraries do not open a file without this field.
            fields.insert("format".into(), PyValue::Str("pt".into()));
        }
        let weights = Weights { stem, ending, shards, total, metadata: fields };
        weights.push(&mut entries, &folder, files.variant);
    }
    Ok(entries)
}

/// Splits a key into component and name.
fn split(key: &str) -> Result<(&str, &str)> {
    key.split_once(SEPARATOR).ok_or_else(|| Error::unsupported("a key without a component").in_tensor(key))
}

/// The weights of a component.
struct Weights {
    stem: &'static str,
    ending: &'static str,
    shards: Vec<StateDict>,
    total: u64,
    metadata: Metadata,
}

impl Weights {
    /// Appends the entries: one file, or shards and their index.
    fn push(self, entries: &mut Vec<Entry>, folder: &str, variant: Option<&str>) {
        let Weights { stem, ending, shards, total, metadata } = self;
        let variant = variant.map_or_else(String::new, |variant| format!(".{variant}"));
        let count = shards.len();
        let mut weight_map = Map::new();
        for (index, state_dict) in shards.into_iter().enumerate() {
            let shard = if count > 1 { format!("-{:05}-of-{count:05}", index + 1) } else { String::new() };
            let name = format!("{stem}{variant}{shard}.{ending}");
            weight_map.extend(state_dict.keys().map(|key| (key.to_owned(), Value::from(name.as_str()))));
            entries.push(Entry::Weights { path: format!("{folder}{name}"), state_dict, metadata: metadata.clone() });
        }
        if count > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            let path = format!("{folder}{stem}.{ending}.index{variant}.json");
            entries.push(Entry::Text { path, content: format!("{index:#}\n").into_bytes() });
        }
    }
}
