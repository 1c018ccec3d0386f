use super::folder::Folder;
use super::sizes;
use super::table::{Pair, PairBuilder, Row};

/// Layers of CLIP ViT-L.
const LAYERS: usize = 12;

/// The keys of position_ids in older folders, with and without the prefix.
pub(super) const POSITION_IDS: &[&str] = &["text_model.embeddings.position_ids", "embeddings.position_ids"];

/// Adds CLIP ViT-L. Both layouts use the names of transformers; `ldm` lists the LDM prefixes.
pub(super) fn add(pairs: &mut Vec<Pair>, ldm: &[&str], sizes: sizes::Text) {
    let sizes::Text { vocabulary, positions, width, hidden, .. } = sizes;
    let mut component = PairBuilder { pairs, folder: Folder::TextEncoder, ldm, diffusers: &["text_model.", ""] };
    let position_ids = &["embeddings.position_ids"];
    component.tensor(Row { in_folder: false, ..Row::new(position_ids, position_ids, &[1, positions]) });
    for (name, rows) in [("token_embedding", vocabulary), ("position_embedding", positions)] {
        let name: &[&str] = &[&format!("embeddings.{name}.weight")];
        component.tensor(Row::new(name, name, &[rows, width]));
    }
    let layers: &[(&str, &[u64])] = &[
        ("self_attn.k_proj", &[width, width]),
        ("self_attn.v_proj", &[width, width]),
        ("self_attn.q_proj", &[width, width]),
        ("self_attn.out_proj", &[width, width]),
        ("layer_norm1", &[width]),
        ("mlp.fc1", &[hidden, width]),
        ("mlp.fc2", &[width, hidden]),
        ("layer_norm2", &[width]),
    ];
    for layer in 0..LAYERS {
        for (name, weight) in layers {
            let name = format!("encoder.layers.{layer}.{name}");
            component.layer(&name, &name, weight);
        }
    }
    component.layer("final_layer_norm", "final_layer_norm", &[width]);
}
