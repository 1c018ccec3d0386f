//! Prompts: parsing, weights, and the tokens for the text encoder.

mod attention;
mod chunks;
mod mojibake;
mod presets;
mod repair;
mod tokenizer;

use candle_core::{Device, Result as CandleResult, Tensor};

pub use chunks::Chunk;
pub use presets::{PRESETS, Preset};
pub use tokenizer::Tokenizer;

use trinart_ckpt_formats::error::{Error, Result};

/// The syntax of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Syntax {
    /// WebUI's: `(word:1.2)`, `[word]`, `BREAK`, `AND`.
    #[default]
    WebUi,
    /// The TrinArt service's: `a b c::4 d::1`, parts with weights that are normalized to a sum of 1.
    Trinart,
}

/// A part of a composed prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PromptPart {
    /// The weight of this part in the guidance.
    pub weight: f64,
    /// The tokens for the text encoder.
    pub chunks: Vec<Chunk>,
}

/// Parses a prompt into its parts. Returns at least one part.
///
/// Fails for prompts that load other networks or change between steps, and for invalid weights.
pub fn parse(prompt: &str, syntax: Syntax, tokenizer: &Tokenizer) -> Result<Vec<PromptPart>> {
    let parts = match syntax {
        Syntax::WebUi => {
            refuse_networks(prompt)?;
            split_at_and(prompt)
        }
        Syntax::Trinart => split_by_weight(prompt)?,
    };
    parts.into_iter().map(|(text, weight)| Ok(PromptPart { weight, chunks: whole(text, tokenizer)? })).collect()
}

/// Parses a prompt that cannot have parts, such as a negative prompt, into chunks. Returns at least one chunk.
pub fn whole(prompt: &str, tokenizer: &Tokenizer) -> Result<Vec<Chunk>> {
    refuse_editing(prompt)?;
    Ok(chunks::chunks(&attention::parse(prompt)?, tokenizer))
}

/// Multiplies the hidden state of a chunk `[1, 77, width]` by the weights of its tokens, and restores its mean: WebUI's
/// emphasis mode "Original".
pub(crate) fn emphasize(hidden: &Tensor, weights: &[f32]) -> CandleResult<Tensor> {
    if weights.iter().all(|&weight| weight == 1.0) {
        return Ok(hidden.clone());
    }
    let factors = Tensor::new(weights, &Device::Cpu)?.to_device(hidden.device())?.to_dtype(hidden.dtype())?;
    let weighted = hidden.broadcast_mul(&factors.reshape((1, weights.len(), 1))?)?;
    weighted.broadcast_mul(&(hidden.mean_all()? / weighted.mean_all()?)?)
}

/// Splits `a :1.2 AND b` into texts and weights.
fn split_at_and(prompt: &str) -> Vec<(&str, f64)> {
    let mut texts = Vec::new();
    let mut rest = prompt;
    while let Some((before, after)) = attention::split_at_word(rest, "AND") {
        texts.push(before);
        rest = after;
    }
    texts.push(rest);
    let weighted = |text| split_weight(text, ":").unwrap_or((text, 1.0));
    texts.into_iter().map(weighted).collect()
}

/// Splits off a number after the last `sign`.
fn split_weight<'a>(text: &'a str, sign: &str) -> Option<(&'a str, f64)> {
    let (before, number) = text.trim_end().rsplit_once(sign)?;
    let number = number.trim();
    let is_number = !number.is_empty() && number.chars().all(|it| it.is_ascii_digit() || "+-.".contains(it));
    Some((before.trim_end(), number.parse().ok().filter(|_| is_number)?))
}

/// Splits `a b c::4 d::1` into texts and weights that sum to 1.
fn split_by_weight(prompt: &str) -> Result<Vec<(&str, f64)>> {
    let mut parts = Vec::new();
    let mut rest = prompt.trim();
    while let Some((text, behind)) = rest.split_once("::") {
        let end = behind.find(|it: char| !(it.is_ascii_digit() || "+-.".contains(it))).unwrap_or(behind.len());
        let (number, behind) = behind.split_at(end);
        let weight: f64 =
            number.parse().map_err(|_| Error::usage(format!("expected a weight after ::, found {number:?}")))?;
        parts.push((text.trim(), weight));
        rest = behind.trim_start();
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push((rest, 1.0));
    }
    let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
    if total <= 0.0 {
        return Err(Error::usage("the weights of the prompt's parts must have a positive sum"));
    }
    Ok(parts.into_iter().map(|(text, weight)| (text, weight / total)).collect())
}

/// Fails if a prompt loads other networks, such as `<lora:name:1>`. Ignoring them would silently change the picture.
fn refuse_networks(prompt: &str) -> Result<()> {
    let begins = prompt.match_indices('<').filter_map(|(at, _)| prompt.get(at..)?.split_once('>'));
    let is_network = |inside: &str| {
        let named = inside.strip_prefix('<').and_then(|it| it.split_once(':'));
        named.is_some_and(|(name, rest)| {
            !name.is_empty() && !rest.is_empty() && name.chars().all(|it| it.is_alphanumeric() || it == '_')
        })
    };
    match begins.map(|(inside, _)| inside).find(|inside| is_network(inside)) {
        None => Ok(()),
        Some(inside) => {
            let shown: String = inside.chars().take(40).collect();
            let found = format!("{shown}> in the prompt loads another network, which is not supported: remove it");
            Err(Error::unsupported(found))
        }
    }
}

/// Fails if a prompt changes between steps. Treating the syntax as words would silently change the picture.
fn refuse_editing(prompt: &str) -> Result<()> {
    let mut open: Vec<usize> = Vec::new();
    let mut is_escaped = false;
    for (at, character) in prompt.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '[' => open.push(at),
            ']' => {
                // An unmatched closing bracket is literal.
                let Some(inside) = open.pop().and_then(|begin| prompt.get(begin + 1..at)) else { continue };
                if inside.contains('|') || split_weight(inside, ":").is_some() {
                    let shown: String = inside.chars().take(40).collect();
                    let found = format!("[{shown}] changes the prompt between steps, which is not supported");
                    return Err(Error::unsupported(found));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_prompts_into_weighted_parts() {
        assert_eq!(split_at_and("a cat"), [("a cat", 1.0)]);
        assert_eq!(split_at_and("a cat :1.2 AND a dog"), [("a cat", 1.2), (" a dog", 1.0)]);
        assert_eq!(split_at_and("SAND and ANDROID"), [("SAND and ANDROID", 1.0)]);
        assert_eq!(split_by_weight("a b c::4 d::1").unwrap(), [("a b c", 0.8), ("d", 0.2)]);
        assert_eq!(split_by_weight("a b").unwrap(), [("a b", 1.0)]);
        assert!(split_by_weight("a:: b").is_err());
        assert!(split_by_weight("a::0").is_err());
    }

    #[test]
    fn rejects_prompt_editing_but_not_brackets() {
        for prompt in ["[a:b:0.5]", "[cow|horse]", "x [a:10] y", "([a:b:.3])"] {
            assert!(refuse_editing(prompt).is_err(), "{prompt}");
        }
        for prompt in ["[a]", "[[a, b]]", "(a:1.2)", "\\[a|b\\]", "a | b"] {
            assert!(refuse_editing(prompt).is_ok(), "{prompt}");
        }
    }

    #[test]
    fn rejects_other_networks_but_not_less_than_signs() {
        for prompt in ["<lora:name:1>", "a <b <hypernet:x>", "<lyco:a b:0.5:te=1>"] {
            let error = refuse_networks(prompt).unwrap_err().to_string();
            assert!(error.contains(":"), "{error}");
        }
        for prompt in ["a < b: c > d", "<3 :>", "<a>", "<:x>", "<lora:", ""] {
            assert!(refuse_networks(prompt).is_ok(), "{prompt}");
        }
    }

    #[test]
    fn emphasis_keeps_the_mean() {
        let hidden = Tensor::arange(1f32, 7.0, &Device::Cpu).unwrap().reshape((1, 3, 2)).unwrap();
        let same = emphasize(&hidden, &[1.0, 1.0, 1.0]).unwrap();
        assert_eq!(same.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let found = emphasize(&hidden, &[1.0, 2.0, 1.0]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The sum is 21 before weighting, and 28 after.
        let expected = [1.0, 2.0, 6.0, 8.0, 5.0, 6.0].map(|value| value * 21.0 / 28.0);
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6));
    }
}
