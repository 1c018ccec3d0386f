//! Configurations of PEFT adapters: the rank and the scale of each module.

use serde_json::{Map, Value, json};
use trinart_ckpt_formats::error::{Error, Result};

use super::fields::TEXT_MODEL;

/// A module with its rank and alpha. The change is scaled by alpha divided by rank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    /// The name of the module.
    pub(crate) module: String,
    pub(crate) rank: u64,
    pub(crate) alpha: f64,
}

/// What kind of adapter a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adapter {
    /// LoRA, with DoRA or without, with biases or without.
    Lora { is_dora: bool, has_bias: bool },
    /// LoHa; whether convolutions have a Tucker core.
    Loha { has_core: bool },
}

/// Returns the most common value, the first of several.
fn most_common<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(value, _)| value)
}

/// Returns whole numbers as integers, so that JSON has `8` instead of `8.0`.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Returns the name of a module that matches it in every version of transformers.
fn bare(module: &str) -> &str {
    module.strip_prefix(TEXT_MODEL).unwrap_or(module)
}

/// Returns the configuration of PEFT for these modules, without what depends on where it is written. Fields are in the order
/// of the alphabet, as PEFT writes them.
pub(crate) fn to_config(adapter: Adapter, scales: &[Scale]) -> Map<String, Value> {
    let rank = most_common(scales.iter().map(|scale| scale.rank)).unwrap_or_default();
    let alpha = most_common(scales.iter().map(|scale| scale.alpha)).unwrap_or_default();
    let ranks = scales
        .iter()
        .filter(|scale| scale.rank != rank)
        .map(|scale| (bare(&scale.module).to_owned(), scale.rank.into()));
    let alphas = scales
        .iter()
        .filter(|scale| scale.alpha != alpha)
        .map(|scale| (bare(&scale.module).to_owned(), number(scale.alpha)));
    let (ranks, alphas): (Map<_, _>, Map<_, _>) = (ranks.collect(), alphas.collect());
    let modules: Vec<&str> = scales.iter().map(|scale| bare(&scale.module)).collect();
    let (kind, field) = match adapter {
        Adapter::Lora { .. } => ("LORA", "lora_alpha"),
        Adapter::Loha { .. } => ("LOHA", "alpha"),
    };
    let config = json!({ "alpha_pattern": alphas, "peft_type": kind, "r": rank, "rank_pattern": ranks, "target_modules": modules });
    let mut config = match config {
        Value::Object(config) => config,
        _ => Map::new(),
    };
    config.insert(field.to_owned(), number(alpha));
    match adapter {
        Adapter::Lora { is_dora, has_bias } => {
            // Old versions of PEFT do not know these fields.
            config.extend(is_dora.then(|| ("use_dora".to_owned(), true.into())));
            config.extend(has_bias.then(|| ("lora_bias".to_owned(), true.into())));
        }
        Adapter::Loha { has_core } => {
            config.insert("use_effective_conv2d".to_owned(), has_core.into());
        }
    }
    config.sort_keys();
    config
}

/// Returns whether the pattern of a configuration is for a module. Fails for a regular expression, which this program does not
/// evaluate.
fn matches(pattern: &str, module: &str) -> Result<bool> {
    let anchored = pattern.strip_prefix('^');
    let plain = anchored.unwrap_or(pattern);
    let plain = plain.strip_suffix('$').unwrap_or(plain).replace("\\.", ".");
    if plain.contains(['*', '+', '?', '[', ']', '(', ')', '{', '}', '|', '\\', '^', '$']) {
        let found = format!("the pattern {pattern} of the configuration is a regular expression, expected a module");
        return Err(Error::unsupported(found));
    }
    // A text encoder has its layers under `text_model.`, or not, as the version of transformers is.
    let is_whole = module == plain || module.strip_prefix(TEXT_MODEL) == Some(plain.as_str());
    let is_end = || module.strip_suffix(plain.as_str()).is_some_and(|before| before.ends_with('.'));
    Ok(is_whole || anchored.is_none() && is_end())
}

fn pattern(config: &Map<String, Value>, field: &str, module: &str) -> Result<Option<f64>> {
    let Some(patterns) = config.get(field).and_then(Value::as_object) else { return Ok(None) };
    for (pattern, value) in patterns {
        if matches(pattern, module)? {
            return Ok(value.as_f64());
        }
    }
    Ok(None)
}

/// Returns the alpha of a module of this rank, by a configuration. `None` if the configuration has none.
///
/// Fails if a pattern is a regular expression.
pub(crate) fn alpha(config: &Map<String, Value>, module: &str, rank: u64) -> Result<Option<f64>> {
    let of_all = || config.get("lora_alpha").or_else(|| config.get("alpha")).and_then(Value::as_f64);
    let Some(alpha) = pattern(config, "alpha_pattern", module)?.or_else(of_all) else { return Ok(None) };
    // Rank-stabilized adapters are scaled by alpha divided by the root of the rank.
    let is_stabilized = config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    let root = (rank as f64).sqrt();
    Ok(Some(if is_stabilized { alpha * root } else { alpha }))
}

/// Returns whether a configuration has these ranks and scales, and these modules.
pub(crate) fn agrees(config: &Map<String, Value>, scales: &[Scale]) -> bool {
    let of_all = config.get("r").and_then(Value::as_f64);
    scales.iter().all(|scale| {
        let rank = pattern(config, "rank_pattern", &scale.module).map(|found| found.or(of_all));
        let has_rank = rank.is_ok_and(|rank| rank == Some(scale.rank as f64));
        has_rank && alpha(config, &scale.module, scale.rank).is_ok_and(|found| found == Some(scale.alpha))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(module: &str, rank: u64, alpha: f64) -> Scale {
        Scale { module: module.to_owned(), rank, alpha }
    }

    #[test]
    fn a_configuration_has_the_scale_of_each_module() {
        let scales = [scale("a.b", 4, 2.0), scale("a.c", 8, 2.0), scale("d", 4, 0.5)];
        let config = to_config(Adapter::Lora { is_dora: false, has_bias: false }, &scales);
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(4), &json!(2)));
        assert_eq!((&config["rank_pattern"], &config["alpha_pattern"]), (&json!({"a.c": 8}), &json!({"d": 0.5})));
        assert!(agrees(&config, &scales));
        assert!(!agrees(&config, &[scale("a.b", 4, 1.0)]) && !agrees(&config, &[scale("a.b", 2, 2.0)]));
        for scale in scales {
            assert_eq!(alpha(&config, &scale.module, scale.rank).unwrap(), Some(scale.alpha));
        }
    }

    #[test]
    fn patterns_are_for_ends_of_names() {
        assert!(matches("to_q", "a.b.to_q").unwrap() && matches("^a\\.to_q$", "a.to_q").unwrap());
        assert!(!matches("o_q", "a.to_q").unwrap() && !matches("^to_q", "a.to_q").unwrap());
        assert!(matches("(a|b)", "a").unwrap_err().to_string().contains("regular expression"));
        let config = json!({"lora_alpha": 4, "use_rslora": true});
        assert_eq!(alpha(config.as_object().unwrap(), "a", 16).unwrap(), Some(16.0));
    }
}
