use serde_json::{Value, json};

use super::config::{Dims, dim, heads};
use crate::family::Architecture;
use crate::layout::Folder;

/// Returns the transformers class.
pub(super) fn class(folder: Folder) -> &'static str {
    match folder {
        Folder::TextEncoder2 => "CLIPTextModelWithProjection",
        _ => "CLIPTextModel",
    }
}

/// Returns `config.json` of a text encoder.
pub(super) fn config(architecture: Architecture, folder: Folder, dims: Dims<'_>) -> Value {
    let is_open_clip = folder == Folder::TextEncoder2 || architecture == Architecture::Sd2;
    let width = dim(dims, "text_model.final_layer_norm.weight", 0, 768);
    let has_layer = |layer: &u64| dims(&format!("text_model.encoder.layers.{layer}.layer_norm1.weight")).is_some();
    let layers = (0..).take_while(has_layer).count();
    json!({
        "architectures": [class(folder)],
        "attention_dropout": 0.0,
        // The values that CLIP was published with. transformers reads 2 as "the text ends at the highest token id",
        // which also holds for extended vocabularies.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "dropout": 0.0,
        "hidden_act": if is_open_clip { "gelu" } else { "quick_gelu" },
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": dim(dims, "text_model.encoder.layers.0.mlp.fc1.weight", 0, 4 * width),
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": dim(dims, "text_model.embeddings.position_embedding.weight", 0, 77),
        "model_type": "clip_text_model",
        "num_attention_heads": heads(width),
        "num_hidden_layers": layers,
        "projection_dim": dim(dims, "text_projection.weight", 0, projection(architecture, width)),
        "vocab_size": dim(dims, "text_model.embeddings.token_embedding.weight", 0, 49_408),
    })
}

/// Returns the projection size if the folder has no projection. SD v2 was published with 512, which is unused.
fn projection(architecture: Architecture, width: u64) -> u64 {
    if architecture == Architecture::Sd2 { 512 } else { width }
}
