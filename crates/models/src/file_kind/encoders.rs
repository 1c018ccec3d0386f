//! Names text and image encoders by their keys and sizes.

use super::model::Model;
use super::rules::others;
use super::view::View;
use super::{FileKind, Found};

/// Names an encoder. `None` if the keys are of none.
pub(super) fn named(view: &View<'_>) -> Option<Found> {
    t5(view).or_else(|| {
        let rule = others::ENCODERS.iter().find(|(_, _, parts)| view.holds(parts));
        let found = rule.map(|&(kind, model, _)| Found::new(kind, model));
        found.map(|found| with_size(found, view)).or_else(|| clip(view))
    })
}

/// Adds the size of an image encoder.
fn with_size(found: Found, view: &View<'_>) -> Found {
    if found.kind != FileKind::ClipVision {
        return found;
    }
    let layers = view.blocks("encoder.layers.").max(view.blocks("visual.transformer.resblocks."));
    let size = match layers {
        12 => "ViT-B",
        24 => "ViT-L",
        32 => "ViT-H",
        48 => "ViT-bigG",
        _ => return found,
    };
    found.with(size)
}

fn t5(view: &View<'_>) -> Option<Found> {
    let is_t5 = view.has("encoder.block.0.layer.0.SelfAttention.") || view.has("enc.blk.0.attn_q.");
    if !is_t5 {
        return None;
    }
    let width = view.dim("shared.weight", 1).or_else(|| view.dim("encoder.embed_tokens.weight", 1));
    let width = width.or_else(|| view.dim("encoder.final_layer_norm.weight", 0));
    if view.has("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.") {
        return Some(Found::new(FileKind::T5, Some(Model::Umt5)).with_some(size(width)));
    }
    if view.dim("shared.weight", 0) == Some(384) || width == Some(1472) {
        return Some(Found::new(FileKind::T5, Some(Model::ByT5)));
    }
    let is_new = view.has("encoder.block.0.layer.1.DenseReluDense.wi_0.");
    let found = Found::new(FileKind::T5, None).with_some(size(width)).with_some(is_new.then_some("v1.1"));
    Some(if view.has("decoder.block.0.layer.0.SelfAttention.") { found.with("with its decoder") } else { found })
}

/// The name of a size of T5, by the width of its embeddings.
fn size(width: Option<u64>) -> Option<&'static str> {
    Some(match width? {
        4096 => "XXL",
        2048 => "XL",
        1024 => "large",
        768 => "base",
        512 => "small",
        _ => return None,
    })
}

/// Names a CLIP text encoder by its layer count. The folders of SD v2 hold 23 of the 24 layers of ViT-H.
fn clip(view: &View<'_>) -> Option<Found> {
    let has = |part: &str| view.has(part);
    let layers = match () {
        () if has("encoder.layers.0.layer_norm1.") && (has("embeddings.") || has("text_model.")) => {
            view.blocks("encoder.layers.")
        }
        () if has("transformer.resblocks.0.ln_1.") => view.blocks("transformer.resblocks."),
        () => {
            // A part of an encoder is still one.
            let layers = view.blocks("text_model.encoder.layers.").max(view.blocks("transformer.resblocks."));
            return (layers > 0).then(|| Found::new(of_layers(layers), None));
        }
    };
    let found = Found::new(of_layers(layers), None);
    let positions = view.dim("embeddings.position_embedding.weight", 0).or_else(|| view.dim("positional_embedding", 0));
    Some(if positions == Some(248) { found.with("Long-CLIP") } else { found })
}

fn of_layers(layers: usize) -> FileKind {
    match layers {
        12 => FileKind::ClipL,
        23 | 24 => FileKind::ClipH,
        32 => FileKind::ClipG,
        _ => FileKind::Clip,
    }
}

/// The most tensors of a textual inversion: two for SDXL, one per token in diffusers.
const MOST_EMBEDDINGS: usize = 4;

/// The most vectors of a textual inversion.
const MOST_VECTORS: u64 = 128;

/// Recognizes a textual inversion by the width of its vectors, which is that of a text encoder.
pub(super) fn embedding(view: &View<'_>) -> Option<Found> {
    let width = |dims: &[u64]| match *dims {
        [width @ (768 | 1024 | 1280 | 4096)] => Some(width),
        [vectors, width @ (768 | 1024 | 1280 | 4096)] if vectors <= MOST_VECTORS => Some(width),
        _ => None,
    };
    if view.is_empty() || view.len() > MOST_EMBEDDINGS || view.keys().any(|key| key.ends_with("weight")) {
        return None;
    }
    let widths: Option<Vec<u64>> = view.iter().map(|(_, dims)| width(dims)).collect();
    widths.map(|widths| Found::new(FileKind::TextualInversion, of_widths(&widths)))
}

/// The model of a textual inversion, by the widths of its vectors.
pub(super) fn of_widths(widths: &[u64]) -> Option<Model> {
    if widths.contains(&4096) {
        // T5, beside both encoders of CLIP or one.
        return Some(if widths.contains(&1280) { Model::Sd3 } else { Model::Flux });
    }
    Some(match (widths.contains(&1280), widths.contains(&768), widths.contains(&1024)) {
        (true, ..) => Model::SdxlBase,
        (_, true, false) => Model::Sd1,
        (_, false, true) => Model::Sd2,
        _ => return None,
    })
}
