use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::listing::{components, json, names, text};
use super::write::check_variant;
use super::{COMPONENTS, MODEL_INDEX, SEPARATOR, parts, stems};
use crate::containers::{Container, OpaqueValue, StoredCheckpoint, UnreadableTensor, open_file};
use crate::error::{Error, OrInternal, Result, printable};
use crate::io::{is_dir, is_file, remote};
use crate::limits;
use crate::tensor::LazyTensor;

/// Opens a diffusers folder, or the folder of one component. Reads the configurations and the headers of the weights.
///
/// Fails if the folder has no component, or a component has no weights.
pub(crate) fn read(path: &Path) -> Result<StoredCheckpoint> {
    let mut contents = StoredCheckpoint::new(path, Container::Diffusers);
    if is_file(&path.join(MODEL_INDEX)) {
        let index = json(&path.join(MODEL_INDEX))?;
        let components = components(path, Some(&index));
        contents.configs.insert("model_index".into(), index);
        for component in components {
            let folder = path.join(component);
            if is_dir(&folder) {
                read_component(&mut contents, component, &folder)?;
            }
        }
        parts::read(&mut contents, path)?;
        let scheduler = path.join("scheduler/scheduler_config.json");
        if is_file(&scheduler) {
            contents.configs.insert("scheduler".into(), json(&scheduler)?);
        }
        if contents.state_dict.is_empty() {
            let found = format!("the folder has none of the component folders {}", COMPONENTS.join(", "));
            return Err(Error::missing(found).in_file(path));
        }
        return Ok(contents);
    }
    if is_file(&path.join("config.json")) {
        let component = component_of(&json(&path.join("config.json"))?).map_err(|error| error.in_file(path))?;
        read_component(&mut contents, component, path)?;
        return Ok(contents);
    }
    Err(Error::unsupported(
        "a folder without model_index.json or config.json; expected a checkpoint or a diffusers folder",
    )
    .in_file(path))
}

/// Returns whether a folder is opened as one checkpoint: it is a diffusers folder, or that of one of its components.
pub fn is_model(path: &Path) -> bool {
    // A file has nothing below it, and each look would be a request.
    if remote::address(path).is_some() && !is_dir(path) {
        return false;
    }
    let config = path.join("config.json");
    if is_file(&path.join(MODEL_INDEX)) {
        return true;
    }
    // Opening the folder tells what is wrong with a configuration that is broken.
    is_file(&config) && json(&config).map_or(true, |config| component_of(&config).is_ok())
}

/// Returns the component that a configuration's class belongs to.
fn component_of(config: &Value) -> Result<&'static str> {
    let class = config.get("_class_name").and_then(Value::as_str);
    let architecture = config.pointer("/architectures/0").and_then(Value::as_str);
    match class.or(architecture) {
        Some("UNet2DConditionModel" | "UNetSpatioTemporalConditionModel") => Ok("unet"),
        Some("AutoencoderKL" | "AutoencoderKLTemporalDecoder") => Ok("vae"),
        Some("CLIPTextModel") => Ok("text_encoder"),
        Some("CLIPTextModelWithProjection") => Ok("text_encoder_2"),
        Some("CLIPVisionModelWithProjection") => Ok("image_encoder"),
        Some("ControlNetModel") => Ok("controlnet"),
        Some(other) => {
            let found = format!("the folder of a {}, which no Stable Diffusion has", printable(other));
            Err(Error::unsupported(format!("{found}; its weights can be given as a file")))
        }
        None => Err(Error::unsupported("config.json names no class; expected the folder of a component")),
    }
}

/// Reads the configuration and the weights of a component.
fn read_component(contents: &mut StoredCheckpoint, component: &str, folder: &Path) -> Result<()> {
    let config = folder.join("config.json");
    if is_file(&config) {
        contents.configs.insert(component.to_owned(), json(&config)?);
    }
    match find_weights(component, folder)? {
        Weights::File(path) => {
            let found = open_weights(contents, &path)?;
            for (key, tensor) in found.tensors {
                insert(contents, component, &key, tensor, &path)?;
            }
            let unreadable = found.unreadable.into_iter();
            contents.unreadable.extend(unreadable.map(|tensor| UnreadableTensor {
                key: format!("{component}{SEPARATOR}{}", tensor.key),
                reason: tensor.reason,
            }));
            Ok(())
        }
        Weights::Shards(index) => read_shards(contents, component, folder, &index),
    }
}

/// The tensors of one weights file.
struct WeightsFile {
    tensors: IndexMap<String, LazyTensor>,
    unreadable: Vec<UnreadableTensor>,
}

/// Opens a weights file, and adds its source, metadata, dangers and global names to those of the folder.
fn open_weights(contents: &mut StoredCheckpoint, path: &Path) -> Result<WeightsFile> {
    let opened = open_file(path)?;
    contents.sources.extend(opened.sources);
    contents.dangers.extend(opened.dangers);
    contents.trailing.extend(opened.trailing);
    contents.globals.extend(opened.globals);
    for (name, value) in opened.metadata {
        // The format belongs to the file. Shards repeat their metadata.
        if name != "format" {
            contents.metadata.entry(name).or_insert(value);
        }
    }
    let tensors = opened.state_dict.iter().map(|(key, tensor)| (key.to_owned(), tensor.clone())).collect();
    Ok(WeightsFile { tensors, unreadable: opened.unreadable })
}

fn insert(contents: &mut StoredCheckpoint, component: &str, key: &str, tensor: LazyTensor, file: &Path) -> Result<()> {
    let inserted = contents.state_dict.insert(format!("{component}{SEPARATOR}{key}"), tensor);
    inserted.map_err(|error| error.in_file(file))
}

/// The weights of a component folder.
enum Weights {
    File(PathBuf),
    /// The index of several files.
    Shards(PathBuf),
}

/// Prefers safetensors over `.bin`, and full weights over the fp16 variant, as diffusers does by default, and that over
/// another variant. Fails if there are several others.
fn find_weights(component: &str, folder: &Path) -> Result<Weights> {
    let (safetensors, bin) = stems(component);
    let of_variant = |variant: &str| {
        let kinds = [(safetensors, "safetensors"), (bin, "bin")].into_iter();
        let mut found = kinds.flat_map(|(stem, ending)| {
            let file = folder.join(format!("{stem}{variant}.{ending}"));
            let index = folder.join(format!("{stem}.{ending}.index{variant}.json"));
            let file = is_file(&file).then_some(Weights::File(file));
            [file, is_file(&index).then_some(Weights::Shards(index))]
        });
        found.find_map(|found| found)
    };
    if let Some(found) = of_variant("").or_else(|| of_variant(".fp16")) {
        return Ok(found);
    }
    match variants(component, folder)?.as_slice() {
        [] => {}
        [only] => return of_variant(&format!(".{only}")).or_internal("a variant that was listed has no weights"),
        several => {
            let found = format!("weights of several variants ({}), expected one or those without", several.join(", "));
            return Err(Error::conflict(found).in_file(folder));
        }
    }
    let looked = format!("{safetensors}.safetensors, {bin}.bin, their variants and shards");
    Err(Error::missing(format!("no weights found; looked for {looked}")).in_file(folder))
}

/// Lists the variants of the weights in a folder: `ema` for `diffusion_pytorch_model.ema.safetensors`.
fn variants(component: &str, folder: &Path) -> Result<Vec<String>> {
    let (safetensors, bin) = stems(component);
    let mut variants = BTreeSet::new();
    for name in names(folder)? {
        for (stem, ending) in [(safetensors, "safetensors"), (bin, "bin")] {
            let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.'));
            let file = rest.and_then(|rest| rest.strip_suffix(ending)?.strip_suffix('.'));
            let index = rest.and_then(|rest| rest.strip_prefix(ending)?.strip_prefix(".index.")?.strip_suffix(".json"));
            let is_variant = |variant: &&str| check_variant(variant).is_ok();
            variants.extend([file, index].into_iter().flatten().filter(is_variant).map(str::to_owned));
        }
    }
    Ok(variants.into_iter().collect())
}

#[derive(Deserialize)]
struct Index {
    #[serde(deserialize_with = "weight_map")]
    weight_map: IndexMap<String, String>,
}

/// Reads the shard of each tensor, of at most [`limits::TENSORS`]. As in Python, the last of equal keys counts.
fn weight_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IndexMap<String, String>, D::Error> {
    struct WeightMap;
    impl<'de> Visitor<'de> for WeightMap {
        type Value = IndexMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of the file names of shards")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = IndexMap::new();
            while let Some((key, name)) = entries.next_entry()? {
                map.insert(key, name);
                if map.len() > limits::TENSORS {
                    return Err(A::Error::custom(format!("more than {} tensors", limits::TENSORS)));
                }
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(WeightMap)
}

fn read_shards(contents: &mut StoredCheckpoint, component: &str, folder: &Path, index_path: &Path) -> Result<()> {
    let index: Index = serde_json::from_slice(&text(index_path, limits::JSON_FILE)?)
        .map_err(|error| Error::malformed(format!("not an index of shards: {error}")).in_file(index_path))?;
    let mut shards: HashMap<&str, WeightsFile> = HashMap::new();
    for (key, name) in &index.weight_map {
        // The path of a shard must not lead out of the folder.
        let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        if !is_plain {
            let found = format!("the shard {name:?} is not the name of a file in the folder");
            return Err(Error::malformed(found).in_tensor(key.as_str()).in_file(index_path));
        }
        if !shards.contains_key(name.as_str()) {
            let found = open_weights(contents, &folder.join(name))?;
            shards.insert(name, found);
        }
        let shard = shards.get_mut(name.as_str()).or_internal("an opened shard is missing")?;
        let Some(tensor) = shard.tensors.shift_remove(key) else {
            return Err(Error::missing(format!("listed in the shard {name}, which does not contain it"))
                .in_tensor(key.as_str())
                .in_file(index_path));
        };
        insert(contents, component, key, tensor, index_path)?;
    }
    for key in index
        .weight_map
        .values()
        .filter_map(|name| shards.remove(name.as_str()))
        .flat_map(|shard| shard.tensors.into_keys())
    {
        let what = "a tensor of a shard that the index does not list".to_owned();
        contents.opaque.push(OpaqueValue { path: format!("{component}{SEPARATOR}{key}"), what });
    }
    Ok(())
}
