//! Prompts: parsing, weights, and the tokens for the text encoder.

mod attention;
mod chunks;
mod comments;
mod editing;
mod embeddings;
mod emphasis;
mod mentions;
mod mojibake;
mod presets;
mod python;
mod repair;
mod schedule;
mod tokenizer;

pub use chunks::Chunk;
pub use comments::strip_comments;
pub use editing::texts_over_time;
pub use embeddings::Embeddings;
pub use emphasis::Emphasis;
pub(crate) use emphasis::emphasize;
pub use mentions::{Mention, split_networks};
pub use presets::{PRESETS, Preset};
pub(crate) use python::{is_space, is_word};
pub use schedule::{Schedule, Timeline};
pub use tokenizer::Tokenizer;
pub(crate) use tokenizer::{END, TOKENS};

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

/// How a prompt is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptRules {
    /// The syntax.
    pub syntax: Syntax,
    /// How weights of words act.
    pub emphasis: Emphasis,
    /// The steps that `[before:after:0.5]` and `[one|two]` refer to.
    pub timeline: Timeline,
}

impl PromptRules {
    /// Returns the rules of WebUI for a render of this many steps.
    pub fn new(timeline: Timeline) -> Self {
        PromptRules { syntax: Syntax::default(), emphasis: Emphasis::default(), timeline }
    }
}

/// A part of a composed prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PromptPart {
    /// The weight of this part in the guidance.
    pub weight: f64,
    /// The tokens for the text encoder over time: all texts of a part have the same number of chunks.
    pub chunks: Schedule<Vec<Chunk>>,
}

/// Parses a prompt into its parts. Returns at least one part. In WebUI's syntax, networks such as `<lora:name:1>` are no
/// part of the text; see [`split_networks`].
///
/// Fails for invalid weights, and for texts that are too long or nested too deeply.
pub fn parse(prompt: &str, rules: &PromptRules, tokenizer: &Tokenizer) -> Result<Vec<PromptPart>> {
    let (text, _) = split_networks(prompt);
    let parts = match rules.syntax {
        Syntax::WebUi => split_at_and(&text),
        Syntax::Trinart => split_by_weight(prompt)?,
    };
    let part = |(text, weight)| Ok(PromptPart { weight, chunks: whole(text, rules, tokenizer)? });
    parts.into_iter().map(part).collect()
}

/// Parses a prompt that cannot have parts, such as a negative prompt, into chunks over time. Each text has at least one
/// chunk, and all have the same number.
pub fn whole(prompt: &str, rules: &PromptRules, tokenizer: &Tokenizer) -> Result<Schedule<Vec<Chunk>>> {
    texts_over_time(prompt, rules.timeline)?.try_map_all(|texts| {
        let chunks = |text: &&String| Ok(chunks::chunks(&rules.emphasis.parse(text)?, tokenizer));
        let mut all = texts.iter().map(chunks).collect::<Result<Vec<_>>>()?;
        // WebUI encodes all texts at once, and fills up with empty chunks.
        let count = all.iter().map(Vec::len).max().unwrap_or(0);
        all.iter_mut().for_each(|chunks| chunks.resize_with(count, Chunk::empty));
        Ok(all)
    })
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
    let (before, number) = text.trim_end_matches(is_space).rsplit_once(sign)?;
    let number = number.trim_matches(is_space);
    let is_number = !number.is_empty() && number.chars().all(|it| it.is_ascii_digit() || "+-.".contains(it));
    Some((before.trim_end_matches(is_space), number.parse().ok().filter(|_| is_number)?))
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
    fn networks_are_no_part_of_the_text() {
        let chunks =
            |prompt: &str| parse(prompt, &PromptRules::new(Timeline::new(10)), &Tokenizer::new().unwrap()).unwrap();
        assert_eq!(chunks("a <lora:b:1>cat"), chunks("a cat"));
        assert_ne!(chunks("a <lora:>cat"), chunks("a cat"));
    }

    #[test]
    fn texts_of_a_part_have_equally_many_chunks() {
        let rules = PromptRules::new(Timeline::new(10));
        let tokenizer = Tokenizer::new().unwrap();
        let parts = parse(&format!("[{}:dog:3] AND bird :0.5", "cat ".repeat(80)), &rules, &tokenizer).unwrap();
        let counts = |part: &PromptPart| part.chunks.values().map(Vec::len).collect::<Vec<_>>();
        assert_eq!((counts(&parts[0]), counts(&parts[1])), (vec![2, 2], vec![1]));
        assert_eq!(parts[0].chunks.values().nth(1).unwrap()[1], Chunk::empty());
        assert_eq!(parts.iter().map(|part| part.weight).collect::<Vec<_>>(), [1.0, 0.5]);
    }
}
