use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::{COMPONENTS, SEPARATOR};
use crate::error::{Error, Result};
use crate::format::{Container, Contents, Opaque, Unreadable, open_file};
use crate::limits;
use crate::tensor::LazyTensor;

/// Reads a diffusers folder, or the folder of one component. Costs the headers of its weights.
pub fn read(path: &Path) -> Result<Contents> {
    let mut contents = Contents::new(path, Container::Diffusers);
    if path.join("model_index.json").is_file() {
        contents.configs.insert("model_index".into(), json(&path.join("model_index.json"))?);
        for component in COMPONENTS {
            let folder = path.join(component);
            if folder.is_dir() {
                read_component(&mut contents, component, &folder)?;
            }
        }
        if contents.state_dict.is_empty() {
            let found = format!("none of the component folders {} in it", COMPONENTS.join(", "));
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

/// The component that a configuration's class makes.
fn component_of(config: &Value) -> Result<&'static str> {
    let class = config.get("_class_name").and_then(Value::as_str);
    let architecture = config.pointer("/architectures/0").and_then(Value::as_str);
    match class.or(architecture) {
        Some("UNet2DConditionModel") => Ok("unet"),
        Some("AutoencoderKL") => Ok("vae"),
        Some("CLIPTextModel") => Ok("text_encoder"),
        Some("CLIPTextModelWithProjection") => Ok("text_encoder_2"),
        Some(other) => {
            Err(Error::unsupported(format!("a component of the class {other}, which this program does not know")))
        }
        None => Err(Error::unsupported("config.json names no class; not the folder of a component")),
    }
}

fn read_component(contents: &mut Contents, component: &str, folder: &Path) -> Result<()> {
    let config = folder.join("config.json");
    if config.is_file() {
        contents.configs.insert(component.to_owned(), json(&config)?);
    }
    match find_weights(component, folder)? {
        Weights::File(path) => {
            let found = take(contents, &path)?;
            for (key, tensor) in found.tensors {
                insert(contents, component, &key, tensor, &path)?;
            }
            let unreadable = found.unreadable.into_iter();
            contents.unreadable.extend(unreadable.map(|tensor| Unreadable {
                key: format!("{component}{SEPARATOR}{}", tensor.key),
                reason: tensor.reason,
            }));
            Ok(())
        }
        Weights::Shards(index) => read_shards(contents, component, folder, &index),
    }
}

/// What is taken out of a weights file.
struct Found {
    tensors: IndexMap<String, LazyTensor>,
    unreadable: Vec<Unreadable>,
}

/// Opens a weights file; its dangers and source become those of the folder.
fn take(contents: &mut Contents, path: &Path) -> Result<Found> {
    let opened = open_file(path)?;
    contents.sources.extend(opened.sources);
    contents.dangers.extend(opened.dangers);
    contents.globals.extend(opened.globals);
    let tensors = opened.state_dict.iter().map(|(key, tensor)| (key.to_owned(), tensor.clone())).collect();
    Ok(Found { tensors, unreadable: opened.unreadable })
}

fn insert(contents: &mut Contents, component: &str, key: &str, tensor: LazyTensor, file: &Path) -> Result<()> {
    let inserted = contents.state_dict.insert(format!("{component}{SEPARATOR}{key}"), tensor);
    inserted.map_err(|error| error.in_file(file))
}

/// Which weights a component folder has.
enum Weights {
    File(PathBuf),
    Shards(PathBuf),
}

/// Chooses safetensors before pickles, and full weights before the fp16 variant, as diffusers does by default.
fn find_weights(component: &str, folder: &Path) -> Result<Weights> {
    let is_text = component.starts_with("text_encoder");
    let (safetensors, bin) =
        if is_text { ("model", "pytorch_model") } else { ("diffusion_pytorch_model", "diffusion_pytorch_model") };
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
    Err(Error::missing(format!("no weights in it (looked for {looked})")).in_file(folder))
}

#[derive(Deserialize)]
struct Index {
    weight_map: IndexMap<String, String>,
}

fn read_shards(contents: &mut Contents, component: &str, folder: &Path, index_path: &Path) -> Result<()> {
    let index: Index = serde_json::from_value(json(index_path)?)
        .map_err(|error| Error::malformed(format!("not an index of shards: {error}")).in_file(index_path))?;
    let mut shards: HashMap<&str, Found> = HashMap::new();
    for (key, name) in &index.weight_map {
        // A name in a file may only mean a file beside it.
        let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        if !is_plain {
            let found = format!("the shard {name:?} is not the plain name of a file beside the index");
            return Err(Error::malformed(found).in_tensor(key.as_str()).in_file(index_path));
        }
        if !shards.contains_key(name.as_str()) {
            let found = take(contents, &folder.join(name))?;
            shards.insert(name, found);
        }
        let tensor = shards.get_mut(name.as_str()).and_then(|shard| shard.tensors.shift_remove(key));
        let Some(tensor) = tensor else {
            return Err(Error::missing(format!("the index puts it into {name}, where it is not"))
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
        let what = "a tensor in a shard that the index does not name".to_owned();
        contents.opaque.push(Opaque { path: format!("{component}{SEPARATOR}{key}"), what });
    }
    Ok(())
}

/// A small JSON file.
fn json(path: &Path) -> Result<Value> {
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > limits::JSON_FILE {
        let found = format!("{bytes} bytes of JSON, the limit is {}", limits::JSON_FILE);
        return Err(Error::limit(found).in_file(path));
    }
    let text = fs::read_to_string(path).map_err(fail)?;
    serde_json::from_str(&text).map_err(|error| Error::malformed(format!("not valid JSON: {error}")).in_file(path))
}
