//! From the prompts of the settings to the contexts of the UNet.

use crate::checks::relative_distance;
use crate::networks::{Conditioning, EncodeOptions, TextEncoders};
use crate::prompt::{self, Chunk, PromptPart, PromptRules, Schedule, Timeline, Tokenizer};
use crate::settings::Settings;
use crate::weights::values;
use trinart_ckpt_formats::error::Result;

/// The tokens of the prompt's parts, and of the negative prompt.
pub(crate) struct ParsedPrompts {
    parts: Vec<PromptPart>,
    negative: Schedule<Vec<Chunk>>,
}

impl ParsedPrompts {
    /// Iterates over all tokens.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = u32> {
        let schedules = self.parts.iter().map(|part| &part.chunks).chain([&self.negative]);
        schedules.flat_map(Schedule::values).flatten().flat_map(|chunk| chunk.tokens.iter().copied())
    }

    /// Parses the prompts of the settings. Fails as [`prompt::parse`] does.
    pub(crate) fn parse(settings: &Settings, tokenizer: &Tokenizer) -> Result<Self> {
        let rules = rules(settings);
        let parts = prompt::parse(&settings.prompt, &rules, tokenizer)?;
        Ok(ParsedPrompts { parts, negative: prompt::whole(&settings.negative, &rules, tokenizer)? })
    }
}

fn rules(settings: &Settings) -> PromptRules {
    let timeline = Timeline::new(settings.sampler.prompt_steps(settings.steps)).old(settings.old_editing);
    let mut rules = PromptRules::new(timeline);
    rules.syntax = settings.syntax;
    rules.emphasis = settings.emphasis;
    rules
}

/// The output of the text encoders.
pub(super) struct EncodedText {
    /// The parts of the prompt over time, each with its weight.
    pub(super) parts: Vec<(f64, Schedule<Conditioning>)>,
    /// The negative prompt over time.
    pub(super) negative: Schedule<Conditioning>,
    /// An empty prompt.
    pub(super) empty: Conditioning,
    /// The relative distance between the encodings of "cat" and of an empty prompt.
    pub(super) word_distance: f64,
}

impl EncodedText {
    pub(super) fn new(
        prompts: &ParsedPrompts,
        encoders: &TextEncoders,
        tokenizer: &Tokenizer,
        settings: &Settings,
    ) -> Result<Self> {
        let options = EncodeOptions::new(settings.width, settings.height);
        let options = options.clip_skip(settings.clip_skip).emphasis(settings.emphasis);
        let encode = |chunks: &Schedule<Vec<Chunk>>, options: &EncodeOptions| {
            chunks.try_map_all(|texts| {
                let texts: Vec<&[Chunk]> = texts.into_iter().map(Vec::as_slice).collect();
                encoders.encode_all(&texts, options)
            })
        };
        let word = |text| {
            let chunks = prompt::whole(text, &PromptRules::new(Timeline::new(1)), tokenizer)?;
            Ok(encode(&chunks, &options)?.at(0).clone())
        };
        let empty = word("")?;
        let parts = prompts.parts.iter().map(|part| Ok((part.weight, encode(&part.chunks, &options)?)));
        Ok(EncodedText {
            parts: parts.collect::<Result<_>>()?,
            negative: encode(&prompts.negative, &options.negative(settings.negative.is_empty()))?,
            word_distance: relative_distance(&values(&word("cat")?.context)?, &values(&empty.context)?),
            empty,
        })
    }
}
