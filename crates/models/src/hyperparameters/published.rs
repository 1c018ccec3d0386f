//! Compares the configurations of a folder with what programs assume of a single file, which has none.

use indexmap::IndexMap;
use serde_json::Value;
use trinart_ckpt_formats::error::Result;

use super::config::{CLIP, Config, UNET, VAE};
use super::values::{Activation, SCHEDULER, scaled_linear};
use crate::constants::{BETAS, GROUPS, HEAD, HEADS};
use crate::family::Architecture;
use crate::layout::Folder;
use crate::pipeline::vision_heads;

/// Two betas differ by rounding alone below this.
const ROUNDING: f64 = 1e-9;

/// Describes what the configurations of a folder say about its networks that no tensor shows, where it is not what published
/// models have: one line for each configuration. `architecture` is that of the folder; without it, only VAEs are compared.
/// `is_wanted` selects configurations by name.
///
/// Numbers of heads and groups count only where they divide the widths as in published models: no program reads a single file
/// of other widths.
pub(crate) fn unlike_published(
    configs: &IndexMap<String, Value>,
    architecture: Option<Architecture>,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in configs.keys().filter(|name| is_wanted(name)) {
        let Some(config) = Config::of(configs, name) else { continue };
        let text = match (Folder::from_name(name), architecture) {
            (Some(Folder::Vae), _) => vae(&config)?,
            (Some(Folder::Unet | Folder::ControlNet), Some(architecture)) => unet(&config, architecture)?,
            (Some(folder), Some(architecture)) => clip(&config, folder, architecture)?,
            (None, Some(_)) if name == SCHEDULER => scheduler(&config)?,
            _ => None,
        };
        found.extend(text);
    }
    Ok(found)
}

fn vae(config: &Config<'_>) -> Result<Option<String>> {
    match config.first_unlike(VAE) {
        Some(text) => Ok(Some(text)),
        None => groups(config),
    }
}

fn unet(config: &Config<'_>, architecture: Architecture) -> Result<Option<String>> {
    if let Some(text) = config.first_unlike(UNET) {
        return Ok(Some(text));
    }
    let (Some(widths), Some(field)) = (config.counts("block_out_channels"), config.field_of_heads()) else {
        return groups(config);
    };
    let published = widths.iter().map(|&width| match architecture {
        Architecture::Sd1 => width.is_multiple_of(HEADS).then_some(HEADS),
        _ => heads(width),
    });
    let Some(published) = published.collect::<Option<Vec<u64>>>() else { return groups(config) };
    // A configuration has a number for each level, also for those that have no attention.
    let blocks = config.get("down_block_types").and_then(Value::as_array);
    let has_attention = |level: usize| {
        let block = blocks.and_then(|blocks| blocks.get(level)).and_then(Value::as_str);
        block.is_none_or(|block| block.contains("CrossAttn"))
    };
    let own = config.heads()?;
    let differs = |(level, &published): (usize, &u64)| {
        has_attention(level) && own.get(level).or(own.last()).map(|&own| own as u64) != Some(published)
    };
    match published.iter().enumerate().any(differs) {
        true => Ok(Some(config.unlike(field, &numbers(&published)))),
        false => groups(config),
    }
}

/// Returns the number of attention heads of the usual size; `None` if they do not divide the width.
fn heads(width: u64) -> Option<u64> {
    width.is_multiple_of(HEAD).then_some(width / HEAD)
}

/// Equal numbers as one.
fn numbers(numbers: &[u64]) -> String {
    match numbers {
        [first, rest @ ..] if rest.iter().all(|number| number == first) => first.to_string(),
        _ => format!("{numbers:?}"),
    }
}

fn groups(config: &Config<'_>) -> Result<Option<String>> {
    const FIELD: &str = "norm_num_groups";
    let (Some(own), Some(widths)) = (config.count(FIELD)?, config.counts("block_out_channels")) else {
        return Ok(None);
    };
    let is_published = widths.iter().all(|width| width.is_multiple_of(GROUPS));
    Ok((is_published && own as u64 != GROUPS).then(|| config.unlike(FIELD, &GROUPS.to_string())))
}

fn clip(config: &Config<'_>, folder: Folder, architecture: Architecture) -> Result<Option<String>> {
    if let Some(text) = config.first_unlike(CLIP) {
        return Ok(Some(text));
    }
    let is_clip = folder == Folder::TextEncoder && architecture != Architecture::Sd2;
    let (activation, name) = match is_clip {
        true => (Activation::QuickGelu, "\"quick_gelu\""),
        false => (Activation::Gelu, "\"gelu\""),
    };
    let own = config.clip()?;
    if own.activation != Some(activation) {
        return Ok(Some(config.unlike("hidden_act", name)));
    }
    let (Some(width), Some(own)) = (config.count("hidden_size")?, own.heads) else { return Ok(None) };
    let (width, own) = (width as u64, own as u64);
    let published = match folder {
        Folder::ImageEncoder => heads(width).map(|_| vision_heads(width)),
        _ => heads(width),
    };
    let differs = published.filter(|&published| published != own);
    Ok(differs.map(|published| config.unlike("num_attention_heads", &published.to_string())))
}

fn scheduler(config: &Config<'_>) -> Result<Option<String>> {
    let Some(betas) = config.betas()? else { return Ok(None) };
    let [first, last] = BETAS;
    let is_published = |(own, published): (&f64, f64)| (own - published).abs() < ROUNDING;
    if betas.iter().zip(scaled_linear(first, last)).all(is_published) {
        return Ok(None);
    }
    let number = |field: &str| config.get(field).and_then(Value::as_f64);
    Ok(Some(if config.get("trained_betas").is_some() {
        config.unlike("trained_betas", "null")
    } else if number("beta_start") != Some(first) {
        config.unlike("beta_start", &first.to_string())
    } else if number("beta_end") != Some(last) {
        config.unlike("beta_end", &last.to_string())
    } else {
        config.unlike("beta_schedule", "\"scaled_linear\"")
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner, StableVideo};

    fn found(architecture: Architecture, name: &str, config: &Value) -> Vec<String> {
        let configs = IndexMap::from([(name.to_owned(), config.clone())]);
        unlike_published(&configs, Some(architecture), &|_| true).unwrap()
    }

    /// Configurations as their authors published them.
    fn published() -> Vec<(Architecture, &'static str, Value)> {
        let betas =
            json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "trained_betas": null});
        vec![
            (
                Sd1,
                "unet",
                json!({"attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "norm_num_groups": 32}),
            ),
            (Sd2, "unet", json!({"attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280]})),
            (SdxlBase, "unet", json!({"attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280]})),
            (
                SdxlRefiner,
                "unet",
                json!({"attention_head_dim": [6, 12, 24, 24], "block_out_channels": [384, 768, 1536, 1536]}),
            ),
            (
                StableVideo,
                "unet",
                json!({"num_attention_heads": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280]}),
            ),
            (
                StableVideo,
                "image_encoder",
                json!({"hidden_size": 1280, "num_attention_heads": 16, "hidden_act": "gelu"}),
            ),
            (Sd1, "text_encoder", json!({"hidden_size": 768, "num_attention_heads": 12, "hidden_act": "quick_gelu"})),
            (Sd2, "text_encoder", json!({"hidden_size": 1024, "num_attention_heads": 16, "hidden_act": "gelu"})),
            (
                SdxlBase,
                "text_encoder",
                json!({"hidden_size": 768, "num_attention_heads": 12, "hidden_act": "quick_gelu"}),
            ),
            (SdxlBase, "text_encoder_2", json!({"hidden_size": 1280, "num_attention_heads": 20, "hidden_act": "gelu"})),
            (Sd1, "vae", json!({"block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32, "act_fn": "silu"})),
            (Sd1, "scheduler", betas),
            (SdxlBase, "scheduler", json!({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5})),
        ]
    }

    #[test]
    fn finds_nothing_in_published_models() {
        for (architecture, name, config) in published() {
            assert_eq!(found(architecture, name, &config), Vec::<String>::new(), "{architecture:?}");
        }
    }

    #[test]
    fn finds_each_other_number() {
        for (architecture, name, field, other, expected) in [
            (Sd1, "unet", "attention_head_dim", json!([5, 10, 20, 20]), "8"),
            (Sd1, "unet", "attention_head_dim", json!([8, 8, 16, 8]), "8"),
            (Sd1, "unet", "norm_num_groups", json!(16), "32"),
            (Sd2, "unet", "attention_head_dim", json!(8), "[5, 10, 20, 20]"),
            (SdxlBase, "unet", "attention_head_dim", json!([10, 20, 20]), "[5, 10, 20]"),
            (StableVideo, "unet", "num_attention_heads", json!(8), "[5, 10, 20, 20]"),
            (StableVideo, "image_encoder", "num_attention_heads", json!(20), "16"),
            (Sd1, "text_encoder", "num_attention_heads", json!(8), "12"),
            (SdxlBase, "text_encoder_2", "num_attention_heads", json!(16), "20"),
            (Sd1, "vae", "norm_num_groups", json!(16), "32"),
        ] {
            let mut config = published().into_iter().find(|it| (it.0, it.1) == (architecture, name)).unwrap().2;
            config[field] = other;
            let expected = format!("{field} is {}, expected {expected} as in published models", config[field]);
            let found = found(architecture, name, &config);
            assert!(matches!(found.as_slice(), [only] if only.ends_with(&expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn levels_without_attention_have_no_heads() {
        let mut config = json!({"attention_head_dim": [8, 8, 8, 16], "block_out_channels": [320, 640, 1280, 1280]});
        assert_eq!(found(Sd1, "unet", &config).len(), 1);
        let crossed = "CrossAttnDownBlock2D";
        config["down_block_types"] = json!([crossed, crossed, crossed, "DownBlock2D"]);
        assert_eq!(found(Sd1, "unet", &config).len(), 0);
    }
}
