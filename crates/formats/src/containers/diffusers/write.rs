use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::{COMPONENTS, MODEL_INDEX, Part, SEPARATOR, is_component, stems};
use crate::containers::write::check_paths;
use crate::error::{Error, OrInternal, Result};
use crate::io::Source;
use crate::metadata::{MERGE_RECIPE, Metadata, PyValue};
use crate::state_dict::StateDict;
use crate::tensor::LazyTensor;

/// The files of a folder besides weights, and how the weights are split into files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Configurations and tokenizers: the path within the folder, and the content.
    pub texts: &'a [(String, Vec<u8>)],
    /// The parts that are copied as they are.
    pub parts: &'a [Part],
    /// Whether to write the weights as `.bin`, which holds no metadata, instead of safetensors.
    pub bin: bool,
    /// The variant in file names: `fp16` for `diffusion_pytorch_model.fp16.safetensors`. See [`check_variant`].
    pub variant: Option<&'a str>,
    /// The maximum bytes of tensors per weights file, above 0. A larger tensor gets its own file.
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
    /// A copy of a file of a part.
    Copy {
        /// The path within the folder.
        path: String,
        /// The file.
        source: Arc<Source>,
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
            Entry::Weights { path, .. } | Entry::Copy { path, .. } | Entry::Text { path, .. } => path,
        }
    }
}

/// Fails unless a variant, which becomes part of file names, consists of ASCII letters, digits and underscores.
pub fn check_variant(variant: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !variant.is_empty() && variant.bytes().all(is_plain) {
        return Ok(());
    }
    Err(Error::usage(format!("the variant {variant:?} may have letters, digits and _ only")))
}

/// Returns the files of a folder for a state dict with keys such as `unet/conv_in.weight`.
///
/// Without a `model_index.json`, the weights of the single component go to the top of the folder. Metadata goes into the
/// weights of the first component, except the recipe of a merged VAE, which goes into those of the VAE. The order of the
/// components is that of their first tensors.
///
/// Fails if a key does not begin with a component (see [`is_component`]), if several components lack a `model_index.json`, if
/// two files have the same path or a path leads out of the folder, if the variant is invalid, or if the bytes per file are 0.
pub fn entries(state_dict: &StateDict, metadata: &Metadata, files: &Files<'_>) -> Result<Vec<Entry>> {
    if let Some(variant) = files.variant {
        check_variant(variant)?;
    }
    if files.shard_bytes == 0 {
        return Err(Error::usage("weights cannot be split into files of 0 bytes"));
    }
    let text = |(path, content): &(String, Vec<u8>)| Entry::Text { path: path.clone(), content: content.clone() };
    let mut entries: Vec<Entry> = files.texts.iter().map(text).collect();
    let files_of_parts = files.parts.iter().flat_map(|part| &part.files);
    entries.extend(files_of_parts.map(|(path, source)| Entry::Copy { path: path.clone(), source: Arc::clone(source) }));
    let is_alone = !files.texts.iter().any(|(path, _)| path == MODEL_INDEX);
    let mut components: IndexMap<&str, Vec<(&str, &LazyTensor)>> = IndexMap::new();
    for (key, tensor) in state_dict.iter() {
        let (component, name) = split(key)?;
        components.entry(component).or_default().push((name, tensor));
    }
    if is_alone && components.len() > 1 {
        let names = components.keys().copied().collect::<Vec<_>>().join(", ");
        return Err(Error::missing(format!("a folder of several components ({names}) needs a {MODEL_INDEX}")));
    }
    for (position, (component, tensors)) in components.into_iter().enumerate() {
        let mut shards = vec![StateDict::new()];
        let (mut total, mut in_shard) = (0_u64, 0_u64);
        for (name, tensor) in tensors {
            // Views of one storage can add up to more than any file holds.
            let add = |sum: u64| sum.checked_add(tensor.bytes());
            let is_full = in_shard > 0 && add(in_shard).is_none_or(|bytes| bytes > files.shard_bytes);
            if is_full {
                shards.push(StateDict::new());
                in_shard = 0;
            }
            let too_large = || {
                let key = format!("{component}{SEPARATOR}{name}");
                Error::limit("the output would be larger than any file can be").in_tensor(key)
            };
            in_shard = add(in_shard).ok_or_else(too_large)?;
            total = add(total).ok_or_else(too_large)?;
            let shard = shards.last_mut().or_internal("a component has no shard")?;
            shard.insert(name, tensor.clone())?;
        }
        let folder = if is_alone { String::new() } else { format!("{component}/") };
        let belongs_here = |name: &str| match name {
            MERGE_RECIPE if !is_alone => component == "vae",
            _ => position == 0,
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
    check_paths(&entries)?;
    Ok(entries)
}

/// Splits a key into component and name. Fails if the component is unknown.
fn split(key: &str) -> Result<(&str, &str)> {
    key.split_once(SEPARATOR).filter(|(component, _)| is_component(component)).ok_or_else(|| {
        let found = format!("the key does not begin with a component: {}", COMPONENTS.join(", "));
        Error::unsupported(found).in_tensor(key)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    use crate::tensor::{Dtype, Shape};

    fn state_dict(keys: &[&str]) -> StateDict {
        let mut state_dict = StateDict::new();
        for (value, &key) in keys.iter().enumerate() {
            let tensor = LazyTensor::owned(Dtype::U8, Shape::new([1]).unwrap(), [value as u8]).unwrap();
            state_dict.insert(key, tensor).unwrap();
        }
        state_dict
    }

    /// The paths of the files, each with its keys.
    fn planned(keys: &[&str], texts: &[&str], change: impl Fn(&mut Files<'_>)) -> Result<Vec<(String, Vec<String>)>> {
        let texts: Vec<_> = texts.iter().map(|path| ((*path).to_owned(), Vec::new())).collect();
        let mut files = Files { texts: &texts, parts: &[], bin: false, variant: None, shard_bytes: 1 << 40 };
        change(&mut files);
        let entries = entries(&state_dict(keys), &Metadata::new(), &files)?;
        let planned = entries.into_iter().map(|entry| match entry {
            Entry::Weights { path, state_dict, .. } => (path, state_dict.keys().map(str::to_owned).collect()),
            Entry::Copy { path, .. } | Entry::Text { path, .. } => (path, Vec::new()),
        });
        Ok(planned.collect())
    }

    #[track_caller]
    fn assert_error(found: Result<Vec<(String, Vec<String>)>>, word: &str) {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn groups_tensors_by_component_in_any_order() {
        let found = planned(&["unet/a", "vae/b", "unet/c", "vae/a"], &[MODEL_INDEX], |_| {}).unwrap();
        let file = |folder: &str, keys: &[&str]| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            (format!("{folder}/diffusion_pytorch_model.safetensors"), keys)
        };
        let index = (MODEL_INDEX.to_owned(), Vec::new());
        assert_eq!(found, [index, file("unet", &["a", "c"]), file("vae", &["b", "a"])]);
    }

    #[test]
    fn rejects_keys_of_unknown_components() {
        for key in ["../x", "/x", "foo/x", "x", "/abs/x", "..//tmp/x", "UNET/x", "unet\\x"] {
            assert_error(planned(&["unet/a", key], &[MODEL_INDEX], |_| {}), "does not begin with a component");
        }
    }

    #[test]
    fn rejects_variants_that_are_not_plain_words() {
        for variant in ["", ".", "../x", "/../../../escaped", "fp16.", "a b", "x\0y", "é"] {
            assert_error(planned(&["unet/a"], &[], |files| files.variant = Some(variant)), "letters, digits and _");
        }
        let found = planned(&["unet/a"], &[], |files| files.variant = Some("fp16_x")).unwrap();
        assert_eq!(found[0].0, "diffusion_pytorch_model.fp16_x.safetensors");
    }

    #[test]
    fn rejects_files_of_0_bytes() {
        assert_error(planned(&["unet/a"], &[], |files| files.shard_bytes = 0), "0 bytes");
        assert_eq!(planned(&["unet/a", "unet/b"], &[], |files| files.shard_bytes = 1).unwrap().len(), 3);
    }

    #[test]
    fn rejects_files_with_the_same_path() {
        assert_error(planned(&["unet/a"], &[MODEL_INDEX, "a.json", "a.json"], |_| {}), "have the path");
        let weights = "unet/diffusion_pytorch_model.safetensors";
        assert_error(planned(&["unet/a"], &[MODEL_INDEX, weights], |_| {}), "have the path");
        assert_error(planned(&["unet/a"], &[MODEL_INDEX, "../a.json"], |_| {}), "not a path within");
    }

    #[test]
    fn several_components_need_an_index() {
        assert_error(planned(&["unet/a", "text_encoder/b"], &[], |_| {}), "needs a model_index.json");
    }
}
