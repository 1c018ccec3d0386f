//! From the prompts of the settings to the contexts of the UNet.

use candle_core::{Device, Tensor};

use crate::checks::relative_distance;
use crate::errors::from_candle;
use crate::networks::TextEncoder;
use crate::prompt::{self, Chunk, PromptPart, PromptRules, Schedule, Timeline, Tokenizer};
use crate::settings::Settings;
use crate::weights::values;
use trinart_ckpt_formats::error::{OrInternal, Result};

/// The tokens of the prompt's parts, and of the negative prompt.
pub(crate) struct ParsedPrompts {
    parts: Vec<PromptPart>,
    negative: Schedule<Vec<Chunk>>,
}

impl ParsedPrompts {
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

/// The output of the text encoder, each context `[1, 77 * chunks, width]`.
pub(super) struct EncodedText {
    /// The parts of the prompt over time, each with its weight.
    pub(super) parts: Vec<(f64, Schedule<Tensor>)>,
    /// The negative prompt over time.
    pub(super) negative: Schedule<Tensor>,
    /// An empty prompt.
    pub(super) empty: Tensor,
    /// The relative distance between the encodings of "cat" and of an empty prompt.
    pub(super) word_distance: f64,
}

impl EncodedText {
    pub(super) fn new(
        prompts: &ParsedPrompts,
        encoder: &TextEncoder,
        tokenizer: &Tokenizer,
        settings: &Settings,
    ) -> Result<Self> {
        let encode = |chunks: &Schedule<Vec<Chunk>>| chunks.try_map_all(|texts| encode(encoder, settings, &texts));
        let word = |text| {
            let chunks = prompt::whole(text, &PromptRules::new(Timeline::new(1)), tokenizer)?;
            Ok(encode(&chunks)?.at(0).clone())
        };
        let empty = word("")?;
        Ok(EncodedText {
            parts: prompts.parts.iter().map(|part| Ok((part.weight, encode(&part.chunks)?))).collect::<Result<_>>()?,
            negative: encode(&prompts.negative)?,
            word_distance: relative_distance(&values(&word("cat")?)?, &values(&empty)?),
            empty,
        })
    }
}

/// Encodes each chunk of each text separately, and concatenates the results of a text. The texts have equally many chunks.
fn encode(encoder: &TextEncoder, settings: &Settings, texts: &[&Vec<Chunk>]) -> Result<Vec<Tensor>> {
    let count = texts.first().or_internal("a prompt without text")?.len();
    let mut encoded: Vec<Vec<Tensor>> = vec![Vec::new(); texts.len()];
    for index in 0..count {
        let chunks = texts.iter().map(|text| text.get(index).or_internal("texts of different lengths"));
        let chunks = chunks.collect::<Result<Vec<_>>>()?;
        let mut hidden: Vec<Tensor> = Vec::new();
        for (place, chunk) in chunks.iter().enumerate() {
            // An alternation repeats its texts.
            let same = chunks.iter().take(place).position(|before| before.tokens == chunk.tokens);
            hidden.push(match same.and_then(|same| hidden.get(same)) {
                Some(same) => same.clone(),
                None => {
                    let tokens = Tensor::new(chunk.tokens.as_slice(), &Device::Cpu).and_then(|it| it.unsqueeze(0));
                    encoder.hidden_state(&tokens.map_err(from_candle)?, settings.clip_skip)?
                }
            });
        }
        let weights: Vec<&[f32]> = chunks.iter().map(|chunk| chunk.weights.as_slice()).collect();
        for (text, chunk) in encoded.iter_mut().zip(prompt::emphasize(&hidden, &weights, settings.emphasis)?) {
            text.push(chunk);
        }
    }
    encoded.iter().map(|chunks| Tensor::cat(chunks, 1).map_err(from_candle)).collect()
}
