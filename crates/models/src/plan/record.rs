use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use trinart_ckpt_formats::metadata::{MERGE_MODELS, MERGE_RECIPE, Metadata, PyValue};

/// The identity of the checkpoint that a VAE is merged into, for the record of the merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseIdentity {
    /// The sha256 of the file, or its legacy hash if the file is too large to hash in passing. WebUI finds a model by
    /// either.
    pub hash: String,
    /// WebUI's legacy hash of the file.
    pub legacy: String,
}

/// Records the merge in the metadata fields that WebUI's merger uses: the recipe with the sha256 of the VAE file, and the
/// checkpoint's name by its hash, if `base` is given. Keeps an earlier recipe and earlier models.
pub fn record(
    metadata: &mut Metadata,
    base: &Checkpoint,
    identity: Option<&BaseIdentity>,
    vae: &Checkpoint,
    sha256: &str,
) {
    let earlier = metadata.get(MERGE_RECIPE).map(PyValue::to_text);
    let mut recipe = Map::<String, Value>::new();
    recipe.insert("type".into(), "trinart-ckpt merge-vae".into());
    if let Some(identity) = identity {
        recipe.insert("primary_model_hash".into(), identity.hash.as_str().into());
    }
    recipe.insert("bake_in_vae".into(), vae.file_name().into());
    recipe.insert("bake_in_vae_sha256".into(), sha256.into());
    if let Some(earlier) = &earlier {
        recipe.insert("earlier_recipe".into(), earlier.as_str().into());
    }
    metadata.insert(MERGE_RECIPE.into(), PyValue::Str(Value::Object(recipe).to_string()));
    if let Some(identity) = identity {
        record_base(metadata, base, identity, earlier);
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
