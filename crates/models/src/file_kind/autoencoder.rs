//! Names autoencoders by their keys and sizes.

use super::model::Model;
use super::rules::autoencoders as rules;
use super::view::View;
use super::{FileKind, Found};
use crate::vae_schema;

/// Names an autoencoder. `None` if the keys are of none.
pub(super) fn named(view: &View<'_>) -> Option<Found> {
    let rule = rules::RULES.iter().find(|(_, _, parts)| view.holds(parts));
    if let Some(&(kind, model, _)) = rule {
        return Some(if kind == FileKind::Taesd { taesd(view) } else { Found::new(kind, model) });
    }
    let prefix = vae_prefix(view.keys())?;
    let dim = |key: &str, index| view.dim(&format!("{prefix}{key}"), index);
    let latents = dim("decoder.conv_in.weight", 1).or_else(|| Some(dim("encoder.conv_out.weight", 0)? / 2));
    let found = match latents {
        // The VAE of the x4 upscaler has three resolutions.
        _ if is_f4(view, prefix) => Found::new(FileKind::OtherVae, Some(Model::SdX4Upscaler)),
        None | Some(vae_schema::LATENT_CHANNELS) => Found::new(FileKind::Vae, None),
        Some(16) => Found::new(FileKind::OtherVae, Some(Model::FluxOrSd3)).with("16 latent channels"),
        Some(_) => Found::new(FileKind::OtherVae, None),
    };
    let has = |part: &str| view.keys().any(|key| key.strip_prefix(prefix).is_some_and(|key| key.starts_with(part)));
    Some(match (has("encoder."), has("decoder.")) {
        (true, false) => found.with("encoder only"),
        (false, true) => found.with("decoder only"),
        _ => found,
    })
}

/// Returns whether an encoder halves its picture twice (kl-f4), where that of Stable Diffusion does so three times.
fn is_f4(view: &View<'_>, prefix: &str) -> bool {
    let has = |level: usize| {
        let keys = [format!("encoder.down.{level}.block.0."), format!("encoder.down_blocks.{level}.resnets.0.")];
        keys.iter().any(|key| view.has(&format!("{prefix}{key}")))
    };
    has(2) && !has(3)
}

/// Adds which latents a tiny autoencoder is for, and which half it is.
fn taesd(view: &View<'_>) -> Found {
    let has_any = |parts: &[&str]| parts.iter().any(|part| view.has(part));
    let decoder = has_any(&["taesd_decoder.", "decoder.layers.3.conv.0.", "decoder.3.conv.0.", "3.conv.0."]);
    let encoder = has_any(&["taesd_encoder.", "encoder.layers.1.conv.0.", "encoder.1.conv.0.", "1.conv.0."]);
    let names =
        ["taesd_decoder.1.weight", "decoder.layers.1.weight", "decoder.1.weight", "layers.1.weight", "1.weight"];
    let latents = names.iter().find_map(|name| view.dim(name, 1)).or_else(|| {
        // The last convolution of an encoder has the latent as its output.
        let last = view.blocks("taesd_encoder.").max(view.blocks("encoder.layers.")).max(view.blocks("layers."));
        let last = last.max(view.blocks("encoder.")).max(view.blocks("")).checked_sub(1)?;
        ["taesd_encoder.", "encoder.layers.", "layers.", "encoder.", ""]
            .iter()
            .find_map(|prefix| view.dim(&format!("{prefix}{last}.weight"), 0))
    });
    let found = Found::new(FileKind::Taesd, None).with_some(match latents {
        Some(4) => Some("for SD or SDXL (4 latent channels)"),
        Some(16) => Some("for Flux.1, SD v3, Wan or Qwen-Image (16 latent channels)"),
        Some(32) => Some("for Flux.2 (32 latent channels)"),
        _ => None,
    });
    match (encoder, decoder) {
        (true, false) => found.with("encoder only"),
        (false, true) => found.with("decoder only"),
        _ => found,
    }
}

/// Returns the prefix under which most keys are those of a VAE; `None` if there are fewer than three.
fn vae_prefix<'a>(keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut found = vae_schema::prefixes(keys);
    found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    found.first().filter(|(_, count)| *count >= 3).map(|(prefix, _)| *prefix)
}
