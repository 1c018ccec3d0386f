//! How a folder spells the keys of its first text encoder: with `text_model.`, or without, as transformers 5.6 and newer.
//!
//! A single file made from a folder records the spelling, so that a round trip gives the same bytes.

use trinart_ckpt_formats::containers::diffusers::SEPARATOR;

use super::Folder;

/// The metadata field that records the spelling.
pub(crate) const FIELD: &str = "trinart_ckpt.text_encoder_keys";

/// The value of [`FIELD`] if the keys had no `text_model.`.
pub(crate) const BARE: &str = "without text_model.";

/// Returns whether this is the key of a text encoder in a folder without `text_model.`.
pub(crate) fn is_bare(key: &str) -> bool {
    key.split_once(SEPARATOR).is_some_and(|(folder, name)| {
        folder == Folder::TextEncoder.name() && ["embeddings.", "encoder."].iter().any(|it| name.starts_with(it))
    })
}
