//! Carries the configurations of a folder through a single file, in a field of its metadata: the number of attention
//! heads, the class of the scheduler and others, which no tensor shows.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use trinart_ckpt_formats::containers::diffusers::{MODEL_INDEX, parse_json, write_json};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::metadata::PyValue;
use trinart_ckpt_formats::{Metadata, StateDict, limits};

use crate::Component;
use crate::layout::Folder;

/// The metadata field: a JSON object of the configurations by part, as `unet`, `scheduler` or `model_index`.
pub(crate) const FIELD: &str = "trinart_ckpt.folder";

/// Fields of configurations that the shapes of the tensors show. If one differs, the file was changed since, and the
/// recorded configuration does not apply.
const OF_SHAPES: &[&str] = &[
    "_class_name",
    "block_out_channels",
    "conditioning_channels",
    "conditioning_embedding_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "hidden_size",
    "image_size",
    "in_channels",
    "intermediate_size",
    "latent_channels",
    "max_position_embeddings",
    "num_hidden_layers",
    "out_channels",
    "patch_size",
    "projection_class_embeddings_input_dim",
    "up_block_types",
    "vocab_size",
];

/// The pipelines that consist of a UNet, a VAE, text encoders with tokenizers or an image encoder, and a scheduler.
const PIPELINES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableVideoDiffusionPipeline",
];

/// Returns whether the configuration with this name applies to a file that has these components.
pub(super) fn applies(name: &str, has: &dyn Fn(Component) -> bool) -> bool {
    let has_encoder = || has(Component::TextEncoder) || has(Component::ImageEncoder);
    match Folder::from_name(name) {
        Some(Folder::Unet) => has(Component::Unet),
        Some(Folder::Vae) => has(Component::Vae),
        Some(Folder::ControlNet) => has(Component::ControlNet),
        Some(Folder::TextEncoder | Folder::TextEncoder2) => has(Component::TextEncoder),
        Some(Folder::ImageEncoder) => has(Component::ImageEncoder),
        None => has_encoder() && [Component::Unet, Component::Vae].into_iter().all(has),
    }
}

/// Records the configurations of a folder in the metadata of a file with these tensors. The paths of machines are left
/// out.
pub fn record(metadata: &mut Metadata, configs: &IndexMap<String, Value>, state_dict: &StateDict) {
    let has = |component| state_dict.keys().any(|key| Component::from_key(key) == component);
    let mut recorded = Map::new();
    for (name, config) in configs {
        let Value::Object(fields) = config else { continue };
        let mut fields = fields.clone();
        let is_index = name == "model_index";
        fields.retain(|field, value| field != "_name_or_path" && !(is_index && value.is_array()));
        if applies(name, &has) {
            recorded.insert(name.clone(), Value::Object(fields));
        }
    }
    if !recorded.is_empty() {
        metadata.insert(FIELD.to_owned(), PyValue::Str(Value::Object(recorded).to_string()));
    }
}

/// Returns the recorded configurations by part; none if the field is missing or is no such record.
pub(super) fn recorded(metadata: &Metadata) -> Map<String, Value> {
    let text = metadata.get(FIELD).map(PyValue::to_text);
    let text = text.filter(|text| text.len() as u64 <= limits::CONFIG_FILE);
    match text.map(|text| parse_json(text.as_bytes())) {
        Some(Ok(Value::Object(recorded))) => recorded,
        _ => Map::new(),
    }
}

/// Returns whether the configuration of a component is recorded.
pub(super) fn has(metadata: &Metadata, folder: Folder) -> bool {
    recorded(metadata).contains_key(folder.name())
}

/// Returns the recorded configurations that fit the generated ones, by path. Changes the generated index accordingly.
pub(super) fn fitting(
    recorded: &Map<String, Value>,
    folders: &[Folder],
    made: &mut [(String, String)],
) -> Result<Vec<(String, Vec<u8>)>> {
    let name_of = |path: &str| match (path, folders) {
        ("config.json", [only]) => Some(only.name().to_owned()),
        ("scheduler/scheduler_config.json", _) => Some("scheduler".to_owned()),
        (path, _) => path.strip_suffix("/config.json").map(str::to_owned),
    };
    let mut fitting = Vec::new();
    let mut scheduler = None;
    for (path, text) in made.iter() {
        let Some((name, config)) = name_of(path).and_then(|name| Some((name.clone(), recorded.get(&name)?))) else {
            continue;
        };
        let class = config.get("_class_name").and_then(Value::as_str);
        if name == "scheduler" {
            let is_class =
                |class: &&str| class.ends_with("Scheduler") && class.bytes().all(|it| it.is_ascii_alphanumeric());
            let Some(class) = class.filter(is_class) else { continue };
            scheduler = Some(class);
        } else if !fits(config, &parse_json(text.as_bytes())?) {
            continue;
        }
        fitting.push((path.clone(), write_json(config).into_bytes()));
    }
    if let Some((_, text)) = made.iter_mut().find(|(path, _)| path == MODEL_INDEX) {
        let mut index = parse_json(text.as_bytes())?;
        restore_index(&mut index, recorded.get("model_index"), scheduler);
        *text = write_json(&index);
    }
    Ok(fitting)
}

/// Returns whether a recorded configuration agrees with the generated one in all that shapes show.
fn fits(recorded: &Value, made: &Value) -> bool {
    let agrees = |field: &str| match (recorded.get(field), made.get(field)) {
        (Some(recorded), Some(made)) => recorded == made,
        _ => true,
    };
    recorded.is_object() && OF_SHAPES.iter().all(|field| agrees(field))
}

/// Sets the class of the pipeline and of its scheduler, and the plain values of the index.
fn restore_index(index: &mut Value, recorded: Option<&Value>, scheduler: Option<&str>) {
    let Value::Object(index) = index else { return };
    if let Some(class) = scheduler {
        index.insert("scheduler".to_owned(), json!(["diffusers", class]));
    }
    let Some(Value::Object(recorded)) = recorded else { return };
    index.retain(|field, value| value.is_array() || field.starts_with('_') || recorded.contains_key(field));
    for (field, value) in recorded {
        let is_plain = value.is_boolean() || value.is_number() || value.is_string();
        let is_class = field == "_class_name";
        if is_plain && (!is_class || value.as_str().is_some_and(|class| PIPELINES.contains(&class))) {
            index.insert(field.clone(), value.clone());
        }
    }
}
