use serde_json::{Map, Value, json};

use super::{MODEL_INDEX, SEPARATOR, stems};
use crate::error::{Error, Result};
use crate::metadata::{MERGE_RECIPE, Metadata, Plain};
use crate::state_dict::StateDict;

/// What a folder holds beside its weights, and how those are cut into files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Paths in the folder, and contents.
    pub texts: &'a [(String, Vec<u8>)],
    /// Whether weights are written as `.bin`, which holds no metadata.
    pub bin: bool,
    /// `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
    pub variant: Option<&'a str>,
    /// Bytes of tensors that one file of weights has, at most; a larger tensor has a file for itself.
    pub shard_bytes: u64,
}

/// One file of a folder.
#[derive(Debug)]
pub enum Entry {
    /// Weights, in safetensors or, by the ending of the path, in a torch zip.
    Weights {
        /// Its path in the folder.
        path: String,
        /// Its tensors, by the keys in their component.
        state_dict: StateDict,
        /// Its metadata.
        metadata: Metadata,
    },
    /// Anything else.
    Text {
        /// Its path in the folder.
        path: String,
        /// Its content.
        content: Vec<u8>,
    },
}

impl Entry {
    /// Its path in the folder.
    pub fn path(&self) -> &str {
        match self {
            Entry::Weights { path, .. } | Entry::Text { path, .. } => path,
        }
    }
}

/// The files of a folder for these tensors, whose keys are as in `unet/conv_in.weight`.
///
/// A folder of one component, without a `model_index.json`, has its weights at the top. The metadata are noted in the
/// first component's files, all but what is known of a merged autoencoder, which is noted in its own.
pub fn entries(state_dict: &StateDict, metadata: &Metadata, files: &Files<'_>) -> Result<Vec<Entry>> {
    let text = |(path, content): &(String, Vec<u8>)| Entry::Text { path: path.clone(), content: content.clone() };
    let mut entries: Vec<Entry> = files.texts.iter().map(text).collect();
    let is_alone = !files.texts.iter().any(|(path, _)| path == MODEL_INDEX);
    let first = state_dict.keys().next().map(split).transpose()?.map(|(component, _)| component.to_owned());
    let mut rest = state_dict.iter().peekable();
    while let Some((component, _)) = rest.peek().map(|(key, _)| split(key)).transpose()? {
        let mut shards = vec![StateDict::new()];
        let (mut total, mut in_shard) = (0, 0);
        while let Some((key, tensor)) = rest.next_if(|(key, _)| split(key).is_ok_and(|(name, _)| name == component)) {
            let (_, name) = split(key)?;
            let is_full = in_shard > 0 && in_shard + tensor.bytes() > files.shard_bytes;
            if is_full {
                shards.push(StateDict::new());
                in_shard = 0;
            }
            in_shard += tensor.bytes();
            total += tensor.bytes();
            if let Some(shard) = shards.last_mut() {
                shard.insert(name, tensor.clone())?;
            }
        }
        let folder = if is_alone { String::new() } else { format!("{component}/") };
        let is_noted_in = |name: &str| match name {
            MERGE_RECIPE if !is_alone => component == "vae",
            _ => first.as_deref() == Some(component),
        };
        let noted = metadata.iter().filter(|(name, _)| is_noted_in(name));
        let mut noted: Metadata = noted.map(|(name, value)| (name.clone(), value.clone())).collect();
        let (safetensors, bin) = stems(component);
        let (stem, ending) = if files.bin { (bin, "bin") } else { (safetensors, "safetensors") };
        if files.bin {
            noted.clear();
        } else {
            // Without it the Python libraries do not open the file.
            noted.insert("format".into(), Plain::Str("pt".into()));
        }
        let weights = Weights { stem, ending, shards, total, metadata: noted };
        weights.push(&mut entries, &folder, files.variant);
    }
    Ok(entries)
}

fn split(key: &str) -> Result<(&str, &str)> {
    key.split_once(SEPARATOR).ok_or_else(|| Error::unsupported("a key of no component").in_tensor(key))
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
    /// Adds them: one file, or shards and their index.
    fn push(self, entries: &mut Vec<Entry>, folder: &str, variant: Option<&str>) {
        let Weights { stem, ending, shards, total, metadata } = self;
        let variant = variant.map(|variant| format!(".{variant}")).unwrap_or_default();
        let count = shards.len();
        let mut places = Map::new();
        for (index, state_dict) in shards.into_iter().enumerate() {
            let shard = if count > 1 { format!("-{:05}-of-{count:05}", index + 1) } else { String::new() };
            let name = format!("{stem}{variant}{shard}.{ending}");
            places.extend(state_dict.keys().map(|key| (key.to_owned(), Value::from(name.as_str()))));
            entries.push(Entry::Weights { path: format!("{folder}{name}"), state_dict, metadata: metadata.clone() });
        }
        if count > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
            let path = format!("{folder}{stem}.{ending}.index{variant}.json");
            entries.push(Entry::Text { path, content: format!("{index:#}\n").into_bytes() });
        }
    }
}
