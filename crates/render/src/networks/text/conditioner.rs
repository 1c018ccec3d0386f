//! All text encoders of a model, and what the UNet gets from them.

use candle_core::{Device, Result as CandleResult, Tensor};

use super::encoder::TextEncoder;
use crate::errors::from_candle;
use crate::networks::family::{Extra, Family, UNET};
use crate::networks::reader::Reader;
use crate::prompt::{self, Chunk, Embeddings, Emphasis};
use crate::single::{cos, exp, ln, sin};
use crate::weights::WeightLoader;
use trinart_ckpt_formats::error::{OrInternal, Result};

/// What the UNet gets besides the time: an encoded prompt and, in SDXL, its pooled text and the size of the picture.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// The encoded tokens, `[1, 77 * chunks, width]`.
    pub context: Tensor,
    /// Pooled text and sizes, `[1, width]`. `None` for SD v1 and v2.
    pub vector: Option<Tensor>,
}

/// A prompt without a vector, as for SD v1 and v2.
impl From<Tensor> for Conditioning {
    fn from(context: Tensor) -> Self {
        Conditioning { context, vector: None }
    }
}

impl Conditioning {
    /// Replaces the encoded tokens.
    #[must_use]
    pub fn with_context(self, context: Tensor) -> Self {
        Conditioning { context, ..self }
    }

    /// Returns a batch of prompts of the same length.
    ///
    /// Fails if there are no prompts, or if their shapes differ.
    pub fn batch(prompts: &[&Conditioning]) -> Result<Self> {
        let contexts: Vec<&Tensor> = prompts.iter().map(|prompt| &prompt.context).collect();
        let vectors: Vec<&Tensor> = prompts.iter().filter_map(|prompt| prompt.vector.as_ref()).collect();
        let batch = || -> CandleResult<Conditioning> {
            let vector = if vectors.is_empty() { None } else { Some(Tensor::cat(&vectors, 0)?) };
            Ok(Conditioning { context: Tensor::cat(&contexts, 0)?, vector })
        };
        batch().map_err(from_candle)
    }
}

/// How a prompt is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncodeOptions {
    /// The layer of SD v1's text encoder, counted from the last, which is 1.
    pub clip_skip: usize,
    /// The width of the picture in pixels.
    pub width: usize,
    /// The height of the picture in pixels.
    pub height: usize,
    /// Whether this is the negative prompt. The refiner of SDXL gives it a lower aesthetic score.
    pub is_negative: bool,
    /// Whether the negative prompt is empty at all steps. SDXL gets zeros in its place, not an encoded empty text.
    pub is_empty: bool,
    /// How the weights of words act.
    pub emphasis: Emphasis,
}

impl EncodeOptions {
    /// Returns the options for the prompt of a picture of this size.
    pub fn new(width: usize, height: usize) -> Self {
        EncodeOptions {
            clip_skip: 1,
            width,
            height,
            is_negative: false,
            is_empty: false,
            emphasis: Emphasis::default(),
        }
    }

    /// Sets the layer of SD v1's text encoder.
    #[must_use]
    pub fn clip_skip(self, clip_skip: usize) -> Self {
        EncodeOptions { clip_skip, ..self }
    }

    /// Sets how the weights of words act.
    #[must_use]
    pub fn emphasis(self, emphasis: Emphasis) -> Self {
        EncodeOptions { emphasis, ..self }
    }

    /// Returns the options for the negative prompt. `is_empty` tells whether it is empty at all steps.
    #[must_use]
    pub fn negative(self, is_empty: bool) -> Self {
        EncodeOptions { is_negative: true, is_empty, ..self }
    }
}

/// Aesthetic scores of the refiner: the defaults of WebUI, for the prompt and for the negative prompt.
const SCORES: (f32, f32) = (6.0, 2.5);

/// The text encoders of a model.
pub struct TextEncoders {
    encoders: Vec<TextEncoder>,
    family: &'static Family,
    /// The width of the vector of the UNet: pooled text and embedded numbers. 0 without one.
    vector_width: usize,
}

impl TextEncoders {
    /// Loads all text encoders of a checkpoint in LDM names.
    ///
    /// Fails as [`TextEncoder::load`] does.
    pub fn load(weights: &WeightLoader) -> Result<Self> {
        let family = Family::of(weights.state_dict())?;
        let encoders = family.encoders.iter().map(|traits| TextEncoder::load_as(weights, traits));
        let encoders = encoders.collect::<Result<_>>()?;
        let vector_width = if family.has_vector() { label_width(weights)? } else { 0 };
        Ok(TextEncoders { encoders, family, vector_width })
    }

    /// Adds the vectors of embeddings to the vocabulary of each text encoder.
    ///
    /// Fails if an embedding is not for all of them.
    pub fn add_embeddings(&mut self, embeddings: &Embeddings) -> Result<()> {
        self.encoders.iter_mut().try_for_each(|encoder| encoder.add_embeddings(embeddings))
    }

    /// The text encoders, in the order of their outputs.
    pub fn encoders(&self) -> &[TextEncoder] {
        &self.encoders
    }

    /// Whether "clip skip" has an effect.
    pub fn has_clip_skip(&self) -> bool {
        self.encoders.iter().any(TextEncoder::has_clip_skip)
    }

    /// Encodes a text: its chunks, each separately, as WebUI does. The pooled text is that of the first chunk.
    ///
    /// Fails if there are no chunks, or if "clip skip" is out of range.
    pub fn encode(&self, chunks: &[Chunk], options: &EncodeOptions) -> Result<Conditioning> {
        self.encode_all(&[chunks], options)?.pop().or_internal("a prompt without text")
    }

    /// Encodes the texts of a prompt that changes during sampling. They have equally many chunks. WebUI encodes them at
    /// once, which matters for emphasis.
    pub(crate) fn encode_all(&self, texts: &[&[Chunk]], options: &EncodeOptions) -> Result<Vec<Conditioning>> {
        let mut contexts: Vec<Vec<Tensor>> = vec![Vec::new(); texts.len()];
        let mut pooled: Vec<Option<Tensor>> = vec![None; texts.len()];
        for encoder in &self.encoders {
            let hidden = hidden_states(encoder, texts, options, &mut pooled)?;
            for (context, hidden) in contexts.iter_mut().zip(hidden) {
                context.push(Tensor::cat(&hidden, 1).map_err(from_candle)?);
            }
        }
        let is_zero = options.is_negative && options.is_empty && self.family.has_vector();
        let conditioning = |(outputs, pooled): (Vec<Tensor>, Option<Tensor>)| -> CandleResult<Conditioning> {
            let context = Tensor::cat(&outputs, 2)?;
            let vector = pooled.as_ref().map(|pooled| self.vector(pooled, options, is_zero)).transpose()?;
            Ok(Conditioning { context: if is_zero { context.zeros_like()? } else { context }, vector })
        };
        let all = contexts.into_iter().zip(pooled).map(|both| conditioning(both).map_err(from_candle));
        let all = all.collect::<Result<Vec<_>>>()?;
        let is_complete = all.iter().all(|prompt| prompt.vector.is_some() == self.family.has_vector());
        is_complete.then_some(all).or_internal("no pooled text")
    }

    /// Returns the pooled text with the embeddings of the sizes.
    fn vector(&self, pooled: &Tensor, options: &EncodeOptions, is_zero: bool) -> CandleResult<Tensor> {
        let pooled = if is_zero { pooled.zeros_like()? } else { pooled.clone() };
        let (height, width) = (options.height as f32, options.width as f32);
        let score = if options.is_negative { SCORES.1 } else { SCORES.0 };
        let numbers: &[f32] = match self.family.extra {
            Extra::None => &[],
            Extra::PooledAndSizes => &[height, width, 0.0, 0.0, height, width],
            Extra::PooledAndScore => &[height, width, 0.0, 0.0, score],
        };
        // 256 for each number in the published models.
        let rest = self.vector_width.saturating_sub(pooled.dim(1)?);
        if numbers.is_empty() || rest == 0 || !rest.is_multiple_of(2 * numbers.len()) {
            let (width, pooled, count) = (self.vector_width, pooled.dim(1)?, numbers.len());
            candle_core::bail!(
                "the UNet takes a vector of {width} values, not {pooled} of pooled text and {count} numbers"
            )
        }
        let embedded: Vec<f32> = numbers.iter().flat_map(|&number| sinusoid(number, rest / numbers.len())).collect();
        let embedded = Tensor::from_vec(embedded, (1, rest), &Device::Cpu)?;
        Tensor::cat(&[&pooled, &embedded], 1)
    }
}

/// Encodes the chunks of each text with one text encoder. Sets the pooled texts if it has them.
fn hidden_states(
    encoder: &TextEncoder,
    texts: &[&[Chunk]],
    options: &EncodeOptions,
    pooled: &mut [Option<Tensor>],
) -> Result<Vec<Vec<Tensor>>> {
    let count = texts.first().or_internal("a prompt without text")?.len();
    let mut encoded: Vec<Vec<Tensor>> = vec![Vec::new(); texts.len()];
    for index in 0..count {
        let chunks = texts.iter().map(|text| text.get(index).or_internal("texts of different lengths"));
        let chunks = chunks.collect::<Result<Vec<_>>>()?;
        let mut hidden: Vec<Tensor> = Vec::new();
        for (place, chunk) in chunks.iter().enumerate() {
            // An alternation repeats its texts.
            let same = chunks.iter().take(place).position(|before| before.tokens == chunk.tokens);
            let (state, of_chunk) = match same.and_then(|same| Some((hidden.get(same)?, pooled.get(same)?))) {
                Some((state, pooled)) => (state.clone(), pooled.clone()),
                None => {
                    let tokens = encoder.padded(&chunk.tokens, prompt::END);
                    let tokens = Tensor::new(tokens, &Device::Cpu).and_then(|it| it.unsqueeze(0));
                    let encoded = encoder.encode(&tokens.map_err(from_candle)?, options.clip_skip)?;
                    (encoded.hidden, encoded.pooled)
                }
            };
            hidden.push(state);
            if let Some(pooled) = pooled.get_mut(place).filter(|_| index == 0 && of_chunk.is_some()) {
                *pooled = of_chunk;
            }
        }
        let weights: Vec<&[f32]> = chunks.iter().map(|chunk| chunk.weights.as_slice()).collect();
        for (text, chunk) in encoded.iter_mut().zip(prompt::emphasize(&hidden, &weights, options.emphasis)?) {
            text.push(chunk);
        }
    }
    Ok(encoded)
}

/// Returns the width of the UNet's vector.
fn label_width(weights: &WeightLoader) -> Result<usize> {
    let [_, width] = Reader::root(weights).at(UNET).dims_of("label_emb.0.0.weight")?;
    Ok(width)
}

/// The sinusoidal embedding of a number: cosines, then sines, of frequencies from 1 down to 1/10000.
pub(in crate::networks) fn sinusoid(number: f32, length: usize) -> Vec<f32> {
    // Always in f32, because f16 would round a time of 867.33 to 867.5.
    let half = length / 2;
    let frequency = |index| exp(-ln(10000.0) * index as f32 / half as f32);
    let angles = (0..half).map(|index| number * frequency(index));
    angles.clone().map(cos).chain(angles.map(sin)).collect()
}
