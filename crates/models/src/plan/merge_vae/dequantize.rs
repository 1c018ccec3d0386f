//! Dequantizes what a merge needs the values of.

use std::borrow::Cow;

use super::donor::find_prefix;
use super::old_vae;
use super::options::{MergeVaeOptions, VaeDtype};
use crate::checkpoint::Checkpoint;
use crate::quantization::Wanted;
use crate::vae;
use trinart_ckpt_formats::error::Result;

/// Dequantizes the checkpoint where it is cast. Its VAE is replaced, so that it must not leave companions behind.
pub(super) fn base<'a>(base: &'a Checkpoint, options: &MergeVaeOptions) -> Result<Cow<'a, Checkpoint>> {
    let wanted = |key: &str| match options.dtype {
        _ if old_vae::name_of(key).is_some() => Wanted::Values,
        Some(dtype) => Wanted::In(dtype),
        None if options.dequantize => Wanted::Values,
        None => Wanted::Stored,
    };
    base.dequantized(&wanted, options.overflow)
}

/// Dequantizes the VAE: its keys must be those of the schema.
pub(super) fn vae<'a>(vae: &'a Checkpoint, options: &MergeVaeOptions) -> Result<Cow<'a, Checkpoint>> {
    let prefix = find_prefix(vae)?;
    let dtype = match options.vae_dtype {
        Some(VaeDtype::As(dtype)) => Some(dtype),
        Some(VaeDtype::Keep | VaeDtype::Match) => None,
        None => options.dtype,
    };
    let wanted = |key: &str| match dtype {
        _ if !key.strip_prefix(prefix).is_some_and(vae::is_key) => Wanted::Stored,
        Some(dtype) => Wanted::In(dtype),
        None => Wanted::Values,
    };
    vae.dequantized(&wanted, options.overflow)
}
