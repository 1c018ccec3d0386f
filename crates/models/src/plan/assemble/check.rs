//! Checks the parts of a checkpoint against the schema of its architecture, and against each other.

use std::collections::HashSet;

use super::part::Part;
use crate::family::Architecture;
use crate::layout::{Folder, Layout, is_needed, shapes};
use trinart_ckpt_formats::error::{Error, Result, printable};
use trinart_ckpt_formats::state_dict::StateDict;

/// A cross-attention that reads the text, in every architecture.
const CONTEXT: &str = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";

/// Fails if a part lacks a tensor that its architecture needs.
pub(super) fn refuse_missing(part: &Part<'_>, layout: &Layout) -> Result<()> {
    let dims = |key: &str| part.pieces.get(key).map(|piece| piece.tensor.shape().dims().to_vec());
    let mut seen = HashSet::new();
    let pairs = layout.pairs().iter().filter(|pair| pair.folder == part.folder && pair.in_folder && pair.in_checkpoint);
    let keys = pairs.map(|pair| pair.ldm.key.as_str()).filter(|key| seen.insert(*key));
    let missing: Vec<&str> = keys.filter(|key| !part.pieces.contains_key(*key) && is_needed(key, &dims)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let more = match missing.len() {
        1 => String::new(),
        count => format!(", and {} others", count - 1),
    };
    let found = format!("missing from this {}{more}", part.text());
    Err(Error::missing(found).in_tensor(part.stored_key(first)).in_file(part.donor.path()))
}

/// Fails if a tensor of a part has another shape than the widths of the part imply, or no floating-point dtype.
/// `output` has all parts.
pub(super) fn refuse_shapes(part: &Part<'_>, architecture: Architecture, output: &StateDict) -> Result<()> {
    let measured = Layout::measured(architecture, &|key| output.get(key).map(|tensor| tensor.shape().dims().to_vec()));
    let fail = |error: Error, key: &str| Err(error.in_tensor(part.stored_key(key)).in_file(part.donor.path()));
    for schema in measured.ldm_schema(part.folder) {
        let Some(piece) = part.pieces.get(schema.key.as_str()) else { continue };
        if piece.tensor.shape().dims() != schema.dims {
            let found = format!("shape {}, expected {:?}", piece.tensor.shape(), schema.dims);
            return fail(Error::mismatch(found), &schema.key);
        }
        if !piece.tensor.dtype().is_float() && !crate::position_ids::is_key(&schema.key) {
            let found = format!("dtype {}, expected a floating-point dtype", piece.tensor.dtype());
            return fail(Error::unsupported(found), &schema.key);
        }
    }
    Ok(())
}

/// Fails if the text encoders of a checkpoint do not give the widths that its UNet reads. `parts` are those that were
/// replaced, for the error.
pub(super) fn refuse_widths(parts: &[Part<'_>], architecture: Architecture, output: &StateDict) -> Result<()> {
    let dim = |key: &str, axis: usize| output.get(key)?.shape().dims().get(axis).copied();
    let of_folder = |folder: Folder, clip: &str, open_clip: &str, axis: usize| {
        let prefix = folder.ldm_prefix(architecture)?;
        dim(&format!("{prefix}{clip}"), axis).or_else(|| dim(&format!("{prefix}{open_clip}"), axis))
    };
    let width = |folder| of_folder(folder, "text_model.final_layer_norm.weight", "ln_final.weight", 0);
    let text = match architecture {
        Architecture::Sd1 | Architecture::Sd2 => width(Folder::TextEncoder),
        Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => width(Folder::TextEncoder)
            .zip(width(Folder::TextEncoder2))
            .and_then(|(first, second)| first.checked_add(second)),
        Architecture::SdxlRefiner => width(Folder::TextEncoder2),
        Architecture::StableVideo => of_folder(Folder::ImageEncoder, "visual.proj", "visual.proj", 1),
    };
    let (Some(context), Some(text)) = (dim(CONTEXT, 1), text) else { return Ok(()) };
    if context != text {
        let found = match architecture {
            Architecture::StableVideo => {
                format!("the UNet reads pictures of width {context}, the image encoder gives {text}")
            }
            _ => format!("the UNet reads text of width {context}, the text encoders give {text}"),
        };
        return Err(of_parts(parts, Error::mismatch(found)));
    }
    let sizes = architecture.is_xl().then(|| shapes::sizes_width(architecture));
    let pooled = dim("model.diffusion_model.label_emb.0.0.weight", 1).zip(sizes);
    // Narrowed models for tests have narrower embeddings of sizes too.
    let pooled = pooled.and_then(|(label, sizes)| label.checked_sub(sizes));
    let projection = of_folder(Folder::TextEncoder2, "text_projection", "text_projection", 1);
    match (pooled, projection) {
        (Some(pooled), Some(projection)) if pooled != projection => {
            let found = format!("the UNet reads pooled text of width {pooled}, the text encoder gives {projection}");
            Err(of_parts(parts, Error::mismatch(found)))
        }
        _ => Ok(()),
    }
}

/// Names the files of all parts in an error about them together.
fn of_parts(parts: &[Part<'_>], error: Error) -> Error {
    let paths: Vec<String> =
        parts.iter().map(|part| printable(&part.donor.path().to_string_lossy()).to_string()).collect();
    match (parts, paths.split_first()) {
        ([first, ..], Some((_, others))) if !others.is_empty() => {
            error.during(format!("using it with {}", others.join(", "))).in_file(first.donor.path())
        }
        ([only], _) => error.in_file(only.donor.path()),
        _ => error,
    }
}
