//! Records where the components of an output come from, in the metadata fields that WebUI's merger uses.

use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use crate::ledger::Origin;
use trinart_ckpt_formats::metadata::{MERGE_MODELS, MERGE_RECIPE, Metadata, PyValue};

/// The identity of the checkpoint that components are merged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseIdentity {
    /// The sha256 of the file, or its legacy hash if the file is too large to hash in passing. WebUI finds a model by
    /// either.
    pub hash: String,
    /// WebUI's legacy hash of the file.
    pub legacy: String,
}

/// The files that a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartIdentity {
    /// The component.
    pub origin: Origin,
    /// The name of the file or folder.
    pub name: String,
    /// The sha256 of each file.
    pub sha256: Vec<String>,
}

/// Records a merge: the recipe with the sha256 of each file, under `kind`, and the checkpoint's name by its hash, if there
/// is one. Keeps an earlier recipe and earlier models.
pub fn record(metadata: &mut Metadata, kind: &str, base: Option<(&Checkpoint, &BaseIdentity)>, parts: &[PartIdentity]) {
    let earlier = metadata.get(MERGE_RECIPE).map(PyValue::to_text);
    let mut recipe = Map::<String, Value>::new();
    recipe.insert("type".into(), kind.into());
    if let Some((_, identity)) = base {
        recipe.insert("primary_model_hash".into(), identity.hash.as_str().into());
    }
    for part in parts {
        let field = field(part.origin);
        let sha256 = match part.sha256.as_slice() {
            [only] => Value::String(only.clone()),
            several => several.iter().map(String::as_str).collect(),
        };
        recipe.insert(field.into(), part.name.as_str().into());
        recipe.insert(format!("{field}_sha256"), sha256);
    }
    if let Some(earlier) = &earlier {
        recipe.insert("earlier_recipe".into(), earlier.as_str().into());
    }
    metadata.insert(MERGE_RECIPE.into(), PyValue::Str(Value::Object(recipe).to_string()));
    if let Some((base, identity)) = base {
        record_base(metadata, base, identity, earlier);
    }
}

/// The field of a recipe for a component. WebUI has one for the VAE.
fn field(origin: Origin) -> &'static str {
    match origin {
        Origin::Vae => "bake_in_vae",
        Origin::Unet => "unet",
        Origin::TextEncoder => "text_encoder",
        Origin::TextEncoder2 => "text_encoder_2",
        Origin::ImageEncoder => "image_encoder",
        Origin::Checkpoint => "checkpoint",
        Origin::Program => "program",
    }
}

/// Adds the checkpoint to the models of the merge, before those of earlier merges. Leaves a field that is no JSON object
/// unchanged.
fn record_base(metadata: &mut Metadata, base: &Checkpoint, identity: &BaseIdentity, recipe: Option<String>) {
    let earlier = match metadata.get(MERGE_MODELS).map(|models| serde_json::from_str(&models.to_text())) {
        None => Map::new(),
        Some(Ok(Value::Object(models))) => models,
        Some(_) => return,
    };
    // WebUI keeps a recipe as an object, and null for a model that was not merged.
    let recipe = recipe.map(|recipe| serde_json::from_str(&recipe).unwrap_or(Value::String(recipe)));
    let mut model = Map::<String, Value>::new();
    model.insert("name".into(), base.file_name().into());
    model.insert("legacy_hash".into(), identity.legacy.as_str().into());
    model.insert("sd_merge_recipe".into(), recipe.unwrap_or(Value::Null));
    let mut models = Map::<String, Value>::new();
    models.insert(identity.hash.clone(), Value::Object(model));
    models.extend(earlier);
    metadata.insert(MERGE_MODELS.into(), PyValue::Str(Value::Object(models).to_string()));
}
