//! The KL autoencoder of Stable Diffusion (kl-f8): its keys, and the ways in which files name them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::state_dict::StateDict;

/// Where a checkpoint keeps its autoencoder.
pub const PREFIX: &str = "first_stage_model.";

/// The four parts every key of an autoencoder begins with.
pub const PARTS: &[&str] = &["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];

/// The prefixes under which files keep an autoencoder: none, the checkpoint's, and that of some trainers.
const PREFIXES: &[&str] = &[PREFIX, "vae.", ""];

/// Whether a key, without its prefix, belongs to an autoencoder.
pub fn is_key(key: &str) -> bool {
    PARTS.iter().any(|part| key.starts_with(part))
}

/// Whether a key of a checkpoint belongs to its autoencoder. What else lies under the prefix is training residue.
pub fn is_checkpoint_key(key: &str) -> bool {
    key.strip_prefix(PREFIX).is_some_and(is_key)
}

/// The key a tensor of an autoencoder has in a checkpoint, whatever prefix its own file gives it; other keys as they
/// are.
pub fn canonical_key(key: &str) -> Cow<'_, str> {
    let bare = bare_key(key);
    if is_key(bare) { format!("{PREFIX}{bare}").into() } else { key.into() }
}

/// The key a tensor of an autoencoder has in a file of its own, as WebUI loads it; other keys as they are.
pub fn bare_key(key: &str) -> &str {
    let bare = [PREFIX, "vae."].into_iter().find_map(|prefix| key.strip_prefix(prefix));
    bare.filter(|bare| is_key(bare)).unwrap_or(key)
}

/// Finds the prefix of the autoencoder in a file: bare keys, `first_stage_model.` as in a whole checkpoint, `vae.`.
///
/// None at all, two at once, or diffusers' names are errors that say so.
pub fn find_prefix(state_dict: &StateDict) -> Result<&'static str> {
    let count =
        |prefix: &str| state_dict.keys().filter_map(|key| key.strip_prefix(prefix)).filter(|key| is_key(key)).count();
    let found: Vec<&str> = PREFIXES.iter().copied().filter(|prefix| count(prefix) > 0).collect();
    let prefix = match found.as_slice() {
        &[prefix] => prefix,
        [] => {
            let keys: Vec<&str> = state_dict.keys().take(3).collect();
            return Err(Error::missing(format!(
                "no autoencoder in it: expected keys like {PREFIX}encoder.conv_in.weight or encoder.conv_in.weight, found {}",
                if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
            )));
        }
        _ => {
            let prefixes = found.iter().map(|prefix| format!("{prefix}encoder.…")).collect::<Vec<_>>().join(" and ");
            return Err(Error::conflict(format!(
                "two autoencoders in it: {prefixes}; it is not said which one is meant"
            )));
        }
    };
    let bare = |key: &str| key.strip_prefix(prefix).map(str::to_owned);
    match state_dict.keys().find(|key| bare(key).is_some_and(|key| is_diffusers_key(&key))) {
        Some(key) => Err(Error::unsupported(
            "an autoencoder in diffusers' names; merge-vae takes the names of Latent Diffusion (encoder.down.0.…)",
        )
        .in_tensor(key)),
        None => Ok(prefix),
    }
}

/// Whether a bare key is one that only diffusers gives to an autoencoder.
pub fn is_diffusers_key(key: &str) -> bool {
    let part = key.split('.').nth(1).unwrap_or_default();
    is_key(key) && matches!(part, "down_blocks" | "up_blocks" | "mid_block" | "conv_norm_out")
}

/// Why a key of an autoencoder's file is left out of a merge; `None` for the keys that are merged. As in WebUI, losses
/// and the averages kept for training go; so does everything that is not an autoencoder's.
pub fn reason_to_leave_out(key: &str, prefix: &str) -> Option<&'static str> {
    let bare = key.strip_prefix(prefix).unwrap_or(key);
    if key.starts_with(prefix) && is_key(bare) {
        None
    } else if bare.starts_with("loss") {
        Some("training loss")
    } else if bare.starts_with("model_ema") {
        Some("training average")
    } else {
        Some("not part of an autoencoder")
    }
}

/// All keys of kl-f8, without prefix: 248, the same for SD v1, v2 and XL.
///
/// Four resolutions; two residual blocks each on the way down, three on the way up; a shortcut where the width
/// changes (widths 1, 2, 4, 4 times the first); an attention between two blocks in the middle.
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
    fn the_keys_are_those_of_the_real_autoencoder() {
        let all = include_str!("../../fixtures/sd1-ldm.keys");
        let real: BTreeSet<String> =
            all.lines().filter_map(|line| line.split(' ').next()?.strip_prefix(PREFIX)).map(str::to_owned).collect();
        assert_eq!(real.len(), 248);
        assert_eq!(keys(), real);
    }

    #[test]
    fn leaves_out_what_webui_leaves_out() {
        assert_eq!(reason_to_leave_out("encoder.conv_in.weight", ""), None);
        assert!(reason_to_leave_out("loss.logvar", "").is_some());
        assert!(reason_to_leave_out("model_ema.decay", "").is_some());
        assert!(reason_to_leave_out("model.diffusion_model.out.2.bias", PREFIX).is_some());
        assert_eq!(reason_to_leave_out("first_stage_model.decoder.conv_out.bias", PREFIX), None);
    }
}
