use super::folder::Folder;
use super::sizes;
use super::table::{Pair, PairBuilder, Row};
use super::transform::{Qkv, Transform};

/// An OpenCLIP text encoder, and which of its tensors folders hold.
pub(super) struct Model<'a> {
    pub(super) folder: Folder,
    /// The LDM prefixes. The prefix to write comes first.
    pub(super) ldm: &'a [&'a str],
    /// Layers in checkpoints.
    pub(super) layers: usize,
    /// Layers in folders.
    pub(super) layers_in_folder: usize,
    /// Whether folders hold the projection.
    pub(super) projection_in_folder: bool,
}

/// ViT-H of SD v2. Rendering does not use its last layer and its projection; folders omit them.
pub(super) const VIT_H: Model<'_> = Model {
    folder: Folder::TextEncoder,
    ldm: &["cond_stage_model.model.", "conditioner.embedders.0.model."],
    layers: 24,
    layers_in_folder: 23,
    projection_in_folder: false,
};

/// ViT-bigG of SDXL, with its LDM prefixes.
pub(super) fn vit_big_g<'a>(ldm: &'a [&'a str]) -> Model<'a> {
    Model { folder: Folder::TextEncoder2, ldm, layers: 32, layers_in_folder: 32, projection_in_folder: true }
}

/// Adds an OpenCLIP text encoder.
pub(super) fn add(pairs: &mut Vec<Pair>, model: &Model<'_>, sizes: sizes::Text) {
    let &Model { folder, ldm, layers, layers_in_folder, projection_in_folder } = model;
    let sizes::Text { vocabulary, positions, width, projection, .. } = sizes;
    let position = "embeddings.position_embedding.weight";
    {
        let mut component = PairBuilder { pairs, folder, ldm, diffusers: &["text_model.", ""] };
        component.tensor(Row::new(&["positional_embedding"], &[position], &[positions, width]));
    }
    {
        // In diffusers these two are not under `text_model.`.
        let mut component = PairBuilder { pairs, folder, ldm, diffusers: &[""] };
        component.tensor(Row {
            transform: Transform::Transpose,
            ldm_unchanged: &["text_projection.weight"],
            in_folder: projection_in_folder,
            ..Row::new(&["text_projection"], &["text_projection.weight"], &[width, projection])
        });
        component.tensor(Row { in_folder: false, ..Row::new(&["logit_scale"], &["logit_scale"], &[]) });
    }
    let mut component = PairBuilder { pairs, folder, ldm, diffusers: &["text_model.", ""] };
    for layer in 0..layers {
        add_layer(&mut component, layer, width, sizes.hidden, layer < layers_in_folder);
    }
    let token = "embeddings.token_embedding.weight";
    component.tensor(Row::new(&["token_embedding.weight"], &[token], &[vocabulary, width]));
    component.layer("ln_final", "final_layer_norm", &[width]);
}

/// Adds a layer of a text encoder or an image encoder.
pub(super) fn add_layer(component: &mut PairBuilder<'_>, layer: usize, width: u64, hidden: u64, in_folder: bool) {
    let (ldm, diffusers) = (format!("transformer.resblocks.{layer}"), format!("encoder.layers.{layer}"));
    let whole = |component: &mut PairBuilder<'_>, in_ldm: &str, in_diffusers: &str, weight: &[u64]| {
        let (ldm, diffusers) = (format!("{ldm}.{in_ldm}"), format!("{diffusers}.{in_diffusers}"));
        component.layer_of(Row { in_folder, ..Row::new(&[&ldm], &[&diffusers], weight) });
    };
    whole(component, "ln_1", "layer_norm1", &[width]);
    for (leaf, dims) in [("weight", &[3 * width, width][..]), ("bias", &[3 * width])] {
        let ldm = format!("{ldm}.attn.in_proj_{leaf}");
        for third in Qkv::ALL {
            let name = match third {
                Qkv::Query => "q_proj",
                Qkv::Key => "k_proj",
                Qkv::Value => "v_proj",
            };
            let diffusers = format!("{diffusers}.self_attn.{name}.{leaf}");
            let transform = Transform::Split(third);
            component.tensor(Row { transform, in_folder, ..Row::new(&[&ldm], &[&diffusers], dims) });
        }
    }
    whole(component, "attn.out_proj", "self_attn.out_proj", &[width, width]);
    whole(component, "ln_2", "layer_norm2", &[width]);
    whole(component, "mlp.c_fc", "mlp.fc1", &[hidden, width]);
    whole(component, "mlp.c_proj", "mlp.fc2", &[width, hidden]);
}
