//! The image encoder of CLIP: that of Stable Video Diffusion (OpenCLIP ViT-H), or one alone. Names: `VisionTransformer` of
//! open_clip, and `CLIPVisionModelWithProjection` of transformers.

use super::folder::{Folder, IMAGE_ENCODER_PREFIX};
use super::openclip;
use super::sizes;
use super::table::{Pair, PairBuilder, Row};
use super::transform::Transform;

/// The prefix of the image encoder within OpenCLIP.
const VISUAL: &str = "conditioner.embedders.0.open_clip.model.visual.";

/// Adds the image encoder, in the order of the original code. That code leaves a part of the text encoder beside it, which
/// it does not use.
pub(super) fn add(pairs: &mut Vec<Pair>, sizes: &sizes::Vision) {
    let &sizes::Vision { layers, width, hidden, positions, patch, channels, projection, text } = sizes;
    let unused = |pairs: &mut Vec<Pair>, name: &str, dims: &[u64]| {
        let mut component =
            PairBuilder { pairs, folder: Folder::ImageEncoder, ldm: &[IMAGE_ENCODER_PREFIX], diffusers: &[""] };
        component.tensor(Row { in_folder: false, ..Row::new(&[name], &[name], dims) });
    };
    unused(pairs, "positional_embedding", &[text.positions, text.width]);
    unused(pairs, "text_projection", &[text.width, text.projection]);
    unused(pairs, "logit_scale", &[]);
    {
        let mut component = visual(pairs, &["vision_model."]);
        component.tensor(Row::new(&["class_embedding"], &["embeddings.class_embedding"], &[width]));
        let position = "embeddings.position_embedding.weight";
        component.tensor(Row::new(&["positional_embedding"], &[position], &[positions, width]));
    }
    visual(pairs, &[""]).tensor(Row {
        transform: Transform::Transpose,
        ..Row::new(&["proj"], &["visual_projection.weight"], &[width, projection])
    });
    {
        let mut component = visual(pairs, &["vision_model."]);
        let patches = "embeddings.patch_embedding.weight";
        component.tensor(Row::new(&["conv1.weight"], &[patches], &[width, channels, patch, patch]));
        // transformers spells the name so.
        component.layer("ln_pre", "pre_layrnorm", &[width]);
        for layer in 0..layers {
            openclip::add_layer(&mut component, layer, width, hidden, true);
        }
        component.layer("ln_post", "post_layernorm", &[width]);
    }
    unused(pairs, "token_embedding.weight", &[text.vocabulary, text.width]);
    unused(pairs, "ln_final.weight", &[text.width]);
    unused(pairs, "ln_final.bias", &[text.width]);
}

fn visual<'a>(pairs: &'a mut Vec<Pair>, diffusers: &'a [&'a str]) -> PairBuilder<'a> {
    PairBuilder { pairs, folder: Folder::ImageEncoder, ldm: &[VISUAL], diffusers }
}
