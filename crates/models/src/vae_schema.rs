//! The schema of Stable Diffusion's VAE (kl-f8), and the names that files give its tensors.
//!
//! The schema is what WebUI loads with `load_state_dict(strict=True)`: exactly these keys, exactly these shapes. The
//! names are those of the original code, those of diffusers, and those of converters that rename the attention twice or
//! by half (`mid.attn_1.to_q`, `mid.attn_1.to_to_q`).

use std::collections::HashMap;
use std::sync::LazyLock;

use indexmap::IndexMap;

use crate::layout;
use crate::vae;

/// Channels at the highest resolution of the published VAE.
pub(crate) const PUBLISHED_WIDTH: u64 = 128;

/// Channels of the latents of every Stable Diffusion up to SDXL.
pub(crate) const LATENT_CHANNELS: u64 = 4;

/// The widths of the resolutions, as multiples of the first.
const RATIOS: [u64; 4] = [1, 2, 4, 4];

/// The largest width that is read from a file. Larger ones are not plausible, and products of them could overflow.
const LARGEST_WIDTH: u64 = 1 << 20;

/// The dimensions of a tensor of a VAE by its key without prefix in LDM names.
type Dims<'a> = &'a dyn Fn(&str) -> Option<Vec<u64>>;

/// The tensors of a VAE of given widths.
#[derive(Debug, Clone)]
pub(crate) struct VaeSchema {
    tensors: IndexMap<String, Vec<u64>>,
}

impl VaeSchema {
    /// Returns the schema of a VAE with these widths, one per resolution.
    pub(crate) fn new(widths: [u64; 4]) -> Self {
        let bare = |key: &str| key.strip_prefix(vae::PREFIX).unwrap_or(key).to_owned();
        let pairs = layout::vae_pairs(widths);
        let all: IndexMap<_, _> = pairs.into_iter().map(|pair| (bare(&pair.ldm.key), pair.ldm.dims)).collect();
        let dims = |key: &str| all.get(key).cloned();
        let needed = all.iter().filter(|(key, _)| layout::is_needed(key, &dims));
        VaeSchema { tensors: needed.map(|(key, dims)| (key.clone(), dims.clone())).collect() }
    }

    /// Returns the dimensions of the tensor with this key, which has no prefix.
    pub(crate) fn get(&self, key: &str) -> Option<&[u64]> {
        self.tensors.get(key).map(Vec::as_slice)
    }

    /// The keys without prefix, in the order of a checkpoint.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

/// Returns the widths of a VAE whose highest resolution has `width` channels.
pub(crate) fn widths(width: u64) -> [u64; 4] {
    RATIOS.map(|ratio| ratio * width.min(LARGEST_WIDTH))
}

/// Reads the widths of a VAE off its convolutions. `None` if these are missing or are no convolutions.
pub(crate) fn measure(dims: Dims<'_>) -> Option<[u64; 4]> {
    let out = |key: &str| match dims(key)?.as_slice() {
        &[out, _, 3, 3] if out <= LARGEST_WIDTH => Some(out),
        _ => None,
    };
    let first = out("encoder.conv_in.weight").or_else(|| out("decoder.up.0.block.2.conv2.weight"))?;
    let of_level = |level: usize| out(&format!("encoder.down.{level}.block.0.conv2.weight"));
    match [of_level(0), of_level(1), of_level(2), of_level(3)] {
        [Some(level_0), Some(level_1), Some(level_2), Some(level_3)] => Some([level_0, level_1, level_2, level_3]),
        _ => Some(widths(first)),
    }
}

/// Returns the key in LDM names of a key without prefix, however it is spelled. `None` if no VAE has it.
pub(crate) fn ldm_key(bare: &str) -> Option<&'static str> {
    static NAMES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let mut names = HashMap::new();
        for pair in layout::vae_pairs(widths(PUBLISHED_WIDTH)) {
            let bare = |key: &str| key.strip_prefix(vae::PREFIX).unwrap_or(key).to_owned();
            let key = bare(&pair.ldm.key);
            let spellings = pair.ldm_spellings().chain(pair.diffusers_spellings());
            names.extend(spellings.map(|spelling| (bare(spelling), key.clone())));
        }
        names
    });
    match NAMES.get(bare) {
        Some(key) => Some(key),
        None => NAMES.get(&attention_key(bare)?).map(String::as_str),
    }
}

/// Returns the key in LDM names of a tensor of an attention that has the name of another layout in it: `to_q`,
/// `to_to_q` or `query` in LDM names, `q` in diffusers names.
fn attention_key(bare: &str) -> Option<String> {
    let (part, rest) = bare.split_once('.')?;
    let rest = rest.strip_prefix("mid.attn_1.").or_else(|| rest.strip_prefix("mid_block.attentions.0."))?;
    let (name, leaf) = rest.rsplit_once('.')?;
    let name = match name.trim_start_matches("to_").trim_end_matches(".0") {
        "q" | "query" => "q",
        "k" | "key" => "k",
        "v" | "value" => "v",
        "out" | "proj_out" | "proj_attn" => "proj_out",
        other if other.trim_start_matches("group_") == "norm" => "norm",
        _ => return None,
    };
    Some(format!("{part}.mid.attn_1.{name}.{leaf}"))
}

/// Counts the keys of a VAE under each prefix: none, `first_stage_model.`, `vae.` or any other.
pub(crate) fn prefixes<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    let mut found: IndexMap<&str, usize> = IndexMap::new();
    for key in keys {
        let starts = std::iter::once(0).chain(key.match_indices('.').map(|(dot, _)| dot + 1));
        let splits = starts.filter_map(|start| key.split_at_checked(start));
        let prefix = splits.filter(|(_, bare)| vae::is_key(bare) && ldm_key(bare).is_some()).map(|(prefix, _)| prefix);
        for prefix in prefix.take(1) {
            *found.entry(prefix).or_default() += 1;
        }
    }
    found.into_iter().collect()
}

/// Returns whether a tensor of `dims` holds the elements of one of `expected`, in the same order: they differ at most in
/// dimensions of size 1, as a linear layer and a 1x1 convolution do.
pub(crate) fn fits(dims: &[u64], expected: &[u64]) -> bool {
    let squeezed = |dims: &[u64]| dims.iter().copied().filter(|&dim| dim != 1).collect::<Vec<_>>();
    squeezed(dims) == squeezed(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_keys_of_a_real_checkpoint_at_every_width() {
        for width in [4, 128] {
            let schema = VaeSchema::new(widths(width));
            let keys: std::collections::BTreeSet<String> = schema.keys().map(str::to_owned).collect();
            assert_eq!(keys, vae::keys());
            assert_eq!(schema.get("encoder.mid.attn_1.q.weight"), Some([4 * width, 4 * width, 1, 1].as_slice()));
            let measured = measure(&|key| schema.get(key).map(<[u64]>::to_vec));
            assert_eq!(measured, Some(widths(width)));
        }
        assert_eq!(VaeSchema::new([8, 8, 8, 8]).get("encoder.down.1.block.0.nin_shortcut.weight"), None);
    }

    #[test]
    fn knows_the_names_of_every_tool() {
        for name in ["q", "to_q", "to_to_q", "query"] {
            for block in ["mid.attn_1", "mid_block.attentions.0"] {
                let key = format!("decoder.{block}.{name}.weight");
                assert_eq!(ldm_key(&key), Some("decoder.mid.attn_1.q.weight"), "{key}");
            }
        }
        for name in ["proj_out", "to_out.0", "to_to_out.0", "to_out", "proj_attn"] {
            let key = format!("encoder.mid.attn_1.{name}.bias");
            assert_eq!(ldm_key(&key), Some("encoder.mid.attn_1.proj_out.bias"), "{key}");
        }
        assert_eq!(ldm_key("encoder.mid.attn_1.group_norm.bias"), Some("encoder.mid.attn_1.norm.bias"));
        assert_eq!(ldm_key("decoder.up_blocks.0.resnets.0.conv1.bias"), Some("decoder.up.3.block.0.conv1.bias"));
        for unknown in ["encoder.mid.attn_1.to_qkv.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "loss"] {
            assert_eq!(ldm_key(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn fits_what_differs_in_dimensions_of_size_1() {
        assert!(fits(&[16, 16], &[16, 16, 1, 1]) && fits(&[16, 1, 1], &[16]) && fits(&[4, 3, 3, 3], &[4, 3, 3, 3]));
        assert!(!fits(&[3, 4, 3, 3], &[4, 3, 3, 3]) && !fits(&[256], &[16, 16, 1, 1]) && !fits(&[], &[4]));
    }
}
