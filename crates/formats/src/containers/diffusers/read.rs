use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::json::{parse_json, write_json};
use super::{COMPONENTS, MODEL_INDEX, SEPARATOR, is_weights, stems};
use crate::containers::{Container, OpaqueValue, StoredCheckpoint, UnreadableTensor, open_file};
use crate::error::{Error, OrInternal, Result, printable};
use crate::limits;
use crate::tensor::LazyTensor;

/// Opens a diffusers folder, or the folder of one component. Reads the configurations and the headers of the weights.
///
/// Fails if the folder has no component, or a component has no weights.
pub(crate) fn read(path: &Path) -> Result<StoredCheckpoint> {
    let mut contents = StoredCheckpoint::new(path, Container::Diffusers);
    if path.join(MODEL_INDEX).is_file() {
        contents.configs.insert("model_index".into(), json(&path.join(MODEL_INDEX))?);
        for component in COMPONENTS {
            let folder = path.join(component);
            if folder.is_dir() {
                read_component(&mut contents, component, &folder)?;
            }
        }
        let scheduler = path.join("scheduler/scheduler_config.json");
        if scheduler.is_file() {
            contents.configs.insert("scheduler".into(), json(&scheduler)?);
        }
        if contents.state_dict.is_empty() {
            let found = format!("the folder has none of the component folders {}", COMPONENTS.join(", "));
            return Err(Error::missing(found).in_file(path));
        }
        return Ok(contents);
    }
    if path.join("config.json").is_file() {
        let component = component_of(&json(&path.join("config.json"))?).map_err(|error| error.in_file(path))?;
        read_component(&mut contents, component, path)?;
        return Ok(contents);
    }
    Err(Error::unsupported(
        "a folder without model_index.json or config.json; expected a checkpoint or a diffusers folder",
    )
    .in_file(path))
}

/// Returns the component that a configuration's class belongs to.
fn component_of(config: &Value) -> Result<&'static str> {
    let class = config.get("_class_name").and_then(Value::as_str);
    let architecture = config.pointer("/architectures/0").and_then(Value::as_str);
    match class.or(architecture) {
        Some("UNet2DConditionModel") => Ok("unet"),
        Some("AutoencoderKL") => Ok("vae"),
        Some("CLIPTextModel") => Ok("text_encoder"),
        Some("CLIPTextModelWithProjection") => Ok("text_encoder_2"),
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
    if config.is_file() {
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

/// Prefers safetensors over `.bin`, and full weights over the fp16 variant, as diffusers does by default.
fn find_weights(component: &str, folder: &Path) -> Result<Weights> {
    let (safetensors, bin) = stems(component);
    for variant in ["", ".fp16"] {
        for (stem, ending) in [(safetensors, "safetensors"), (bin, "bin")] {
            let file = folder.join(format!("{stem}{variant}.{ending}"));
            if file.is_file() {
                return Ok(Weights::File(file));
            }
            let index = folder.join(format!("{stem}.{ending}.index{variant}.json"));
            if index.is_file() {
                return Ok(Weights::Shards(index));
            }
        }
    }
    let looked = format!("{safetensors}.safetensors, {bin}.bin, their fp16 variants and shards");
    Err(Error::missing(format!("no weights found; looked for {looked}")).in_file(folder))
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

/// The files of a folder besides weights.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Companions {
    /// Configurations and tokenizers: the path within the folder, and the content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Unknown parts of the pipeline, such as a safety checker. They are left out.
    pub unknown: Vec<String>,
}

/// The parts of a pipeline without weights.
const WEIGHTLESS: &[&str] = &["scheduler", "tokenizer", "tokenizer_2", "feature_extractor"];

/// Reads the files of a folder besides weights. Unknown parts are set to null in `model_index.json`, so that the pipeline
/// loads without them.
pub fn companions(path: &Path) -> Result<Companions> {
    let mut found = Companions::default();
    let index_path = path.join(MODEL_INDEX);
    if !index_path.is_file() {
        take_texts(&mut found, path, "")?;
        return Ok(found);
    }
    let Value::Object(mut index) = json(&index_path)? else {
        return Err(Error::malformed("not a JSON object").in_file(index_path));
    };
    for (name, part) in &mut index {
        let is_part = part.as_array().is_some_and(|part| part.iter().any(|it| !it.is_null()));
        if !is_part {
            continue;
        }
        if COMPONENTS.contains(&name.as_str()) || WEIGHTLESS.contains(&name.as_str()) {
            take_texts(&mut found, &path.join(name), &format!("{name}/"))?;
        } else {
            *part = Value::Array(vec![Value::Null, Value::Null]);
            found.unknown.push(name.clone());
        }
    }
    let text = if found.unknown.is_empty() {
        text(&index_path, limits::CONFIG_FILE)?
    } else {
        write_json(&Value::Object(index)).into_bytes()
    };
    found.files.insert(0, (MODEL_INDEX.to_owned(), text));
    Ok(found)
}

/// Reads the JSON and text files of one folder, except an index of shards.
fn take_texts(found: &mut Companions, folder: &Path, prefix: &str) -> Result<()> {
    let fail = |error| Error::io("cannot list the folder", error).in_file(folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        // The files wanted below have UTF-8 names.
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let is_text = name.ends_with(".json") || name.ends_with(".txt");
        if is_text && !is_weights(&name) && path.is_file() {
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

/// Reads a file of at most `most` bytes.
fn text(path: &Path, most: u64) -> Result<Vec<u8>> {
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > most {
        return Err(Error::limit(format!("{bytes} bytes of JSON or text, the limit is {most}")).in_file(path));
    }
    let mut content = Vec::new();
    // The file may grow meanwhile.
    fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut content)).map_err(fail)?;
    Ok(content)
}

/// Reads a configuration.
fn json(path: &Path) -> Result<Value> {
    parse_json(&text(path, limits::CONFIG_FILE)?).map_err(|error| error.in_file(path))
}
