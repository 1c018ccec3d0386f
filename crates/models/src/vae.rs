//! The VAE of Stable Diffusion (kl-f8, an autoencoder): its keys, and the prefixes that files give them.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// The prefix of the VAE in a checkpoint.
pub const PREFIX: &str = "first_stage_model.";

/// The parts of a VAE. Each key begins with one of them, after the prefix.
const PARTS: &[&str] = &["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];

/// Returns whether a key without prefix belongs to a VAE.
pub fn is_key(key: &str) -> bool {
    PARTS.iter().any(|part| key.starts_with(part))
}

/// Returns whether a key of a checkpoint belongs to its VAE. Other keys with the prefix are training residue.
pub fn is_checkpoint_key(key: &str) -> bool {
    key.strip_prefix(PREFIX).is_some_and(is_key)
}

/// Returns the key that a VAE tensor has in a checkpoint, whatever its prefix. Leaves other keys unchanged.
pub fn canonical_key(key: &str) -> Cow<'_, str> {
    let bare = bare_key(key);
    if is_key(bare) { format!("{PREFIX}{bare}").into() } else { key.into() }
}

/// Returns the key that a VAE tensor has in a VAE file, as WebUI loads it. Leaves other keys unchanged.
pub fn bare_key(key: &str) -> &str {
    let bare = [PREFIX, "vae."].into_iter().find_map(|prefix| key.strip_prefix(prefix));
    bare.filter(|bare| is_key(bare)).unwrap_or(key)
}

/// The role of a tensor in a VAE file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A tensor of the VAE.
    Vae,
    /// A training loss, such as a discriminator.
    TrainingLoss,
    /// A moving average kept for training.
    TrainingAverage,
    /// A tensor of something else.
    Other,
}

impl Role {
    /// Returns the role of a key in a file whose VAE has this prefix. Follows WebUI, which loads only the VAE and skips
    /// losses and averages.
    pub(crate) fn from_key(key: &str, prefix: &str) -> Self {
        let bare = key.strip_prefix(prefix);
        let name = bare.unwrap_or(key);
        if bare.is_some_and(is_key) {
            Role::Vae
        } else if name.starts_with("loss") {
            Role::TrainingLoss
        } else if name.starts_with("model_ema") {
            Role::TrainingAverage
        } else {
            Role::Other
        }
    }
}

/// Returns all keys of kl-f8, without prefix: 248, the same for SD v1, SD v2 and SDXL.
///
/// Four resolutions; two residual blocks each in the encoder, three in the decoder; a shortcut where the width changes
/// (widths 1, 2, 4, 4 times the first); an attention between the two middle blocks.
pub fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut layer = |name: String| {
        keys.insert(format!("{name}.weight"));
        keys.insert(format!("{name}.bias"));
    };
    let block = |layer: &mut dyn FnMut(String), name: String, widens: bool| {
        for part in ["norm1", "conv1", "norm2", "conv2"] {
            layer(format!("{name}.{part}"));
        }
        if widens {
            layer(format!("{name}.nin_shortcut"));
        }
    };
    for part in ["encoder", "decoder"] {
        for end in ["conv_in", "norm_out", "conv_out"] {
            layer(format!("{part}.{end}"));
        }
        for index in [1, 2] {
            block(&mut layer, format!("{part}.mid.block_{index}"), false);
        }
        for attention in ["norm", "q", "k", "v", "proj_out"] {
            layer(format!("{part}.mid.attn_1.{attention}"));
        }
    }
    for level in 0..4 {
        for index in 0..2 {
            block(&mut layer, format!("encoder.down.{level}.block.{index}"), index == 0 && matches!(level, 1 | 2));
        }
        for index in 0..3 {
            block(&mut layer, format!("decoder.up.{level}.block.{index}"), index == 0 && matches!(level, 0 | 1));
        }
    }
    for level in 0..3 {
        layer(format!("encoder.down.{level}.downsample.conv"));
        layer(format!("decoder.up.{}.upsample.conv", level + 1));
    }
    layer("quant_conv".into());
    layer("post_quant_conv".into());
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_a_real_checkpoint() {
        let all = include_str!("../../../fixtures/sd1-ldm.keys");
        let real: BTreeSet<String> =
            all.lines().filter_map(|line| line.split(' ').next()?.strip_prefix(PREFIX)).map(str::to_owned).collect();
        assert_eq!(real.len(), 248);
        assert_eq!(keys(), real);
    }

    #[test]
    fn skips_the_tensors_that_webui_skips() {
        assert_eq!(Role::from_key("encoder.conv_in.weight", ""), Role::Vae);
        assert_eq!(Role::from_key("loss.logvar", ""), Role::TrainingLoss);
        assert_eq!(Role::from_key("model_ema.decay", ""), Role::TrainingAverage);
        assert_eq!(Role::from_key("model.diffusion_model.out.2.bias", PREFIX), Role::Other);
        assert_eq!(Role::from_key("first_stage_model.decoder.conv_out.bias", PREFIX), Role::Vae);
    }
}
