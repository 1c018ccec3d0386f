//! One text encoder: the text half of CLIP ViT-L, or of OpenCLIP ViT-H or ViT-bigG.

use candle_core::{Result as CandleResult, Tensor};

use crate::errors::from_candle;
use crate::kernels;
use crate::networks::encoders::{EncoderTraits, Layer as OutputLayer, Names, Padding, Qkv};
use crate::networks::family::Family;
use crate::networks::reader::Reader;
use crate::observer::Trace;
use crate::ops::{Engine, LayerNorm, Linear, attention, gelu, quick_gelu};
use crate::prompt::{Embeddings, TOKENS};
use crate::weights::WeightLoader;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_models::hyperparameters::Activation;

/// A text encoder: turns tokens into the context of the UNet.
pub struct TextEncoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    /// Maps the end token's output to the pooled output.
    projection: Option<Linear>,
    traits: &'static EncoderTraits,
    vocabulary: usize,
    max_tokens: usize,
    width: usize,
    /// The number of layers up to the output, if "clip skip" does not choose.
    penultimate: usize,
    heads: usize,
    activation: Activation,
    path: String,
    engine: Engine,
    trace: Trace,
}

struct Layer {
    norm_1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm_2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// The output of a text encoder.
pub(super) struct Encoded {
    /// `[batch, positions, width]`.
    pub(super) hidden: Tensor,
    /// `[batch, width]`, if the family uses it.
    pub(super) pooled: Option<Tensor>,
}

impl TextEncoder {
    /// Loads the first text encoder of a checkpoint in LDM names. Infers the sizes from the shapes of the tensors.
    ///
    /// The number of heads cannot be inferred. Without hyperparameters, it is one per 64 values, as in CLIP, or 4 if the width
    /// is not a multiple of 64, as in small test models. [`TextEncoder::with_heads`] overrides it.
    ///
    /// Fails if the checkpoint has no text encoder or a smaller vocabulary, or if tensors are missing or have other
    /// shapes.
    pub fn load(weights: &WeightLoader) -> Result<TextEncoder> {
        let family = Family::of(weights.state_dict())?;
        Self::load_as(weights, family.encoders.first().or_internal("a family without a text encoder")?)
    }

    /// Loads one of the text encoders of a family.
    pub(super) fn load_as(weights: &WeightLoader, traits: &'static EncoderTraits) -> Result<TextEncoder> {
        let names = traits.names;
        let here = Reader::root(weights).at(traits.prefix(weights.state_dict())?);
        let [vocabulary, width] = here.dims_of(names.tokens)?;
        let [positions, _] = here.dims_of(names.positions)?;
        let count = here.count(|layer| format!("{}.{layer}.{}.weight", names.layers, names.norm_1));
        let read = |layer| Layer::read(&here.at(format!("{}.{layer}", names.layers)), names, width);
        let encoder = TextEncoder {
            tokens: here.tensor(names.tokens, &[vocabulary, width])?,
            positions: here.tensor(names.positions, &[positions, width])?,
            layers: (0..count).map(read).collect::<Result<_>>()?,
            final_norm: here.layer_norm(names.final_norm, width)?,
            projection: traits.is_pooled.then(|| projection(&here, width)).transpose()?,
            traits,
            vocabulary,
            max_tokens: positions,
            width,
            penultimate: penultimate(&here, traits, count),
            heads: 1,
            activation: traits.activation(weights.hyperparameters()),
            path: here.path().to_owned(),
            engine: weights.engine().clone(),
            trace: Trace::default(),
        };
        encoder.with_heads(traits.heads(weights.hyperparameters(), width))
    }

    /// Sets the number of attention heads. Fails if it does not divide the width.
    pub fn with_heads(self, heads: usize) -> Result<Self> {
        let width = self.width();
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::unsupported(format!(
                "the text encoder's width {width} cannot be divided into {heads} heads"
            )));
        }
        Ok(TextEncoder { heads, ..self })
    }

    /// Adds the vectors of embeddings after CLIP's vocabulary, in their order.
    ///
    /// Fails if an embedding is for a text encoder of another width.
    pub fn add_embeddings(&mut self, embeddings: &Embeddings) -> Result<()> {
        let Some(vectors) = embeddings.vectors(self.width)? else { return Ok(()) };
        let join = || {
            let vectors = vectors.to_device(self.tokens.device())?.to_dtype(self.tokens.dtype())?;
            let tokens = self.tokens.narrow(0, 0, usize::from(TOKENS))?;
            match &self.engine {
                Engine::Kernels(kernels) => kernels::concat_rows(kernels, &[tokens, vectors]),
                Engine::Candle => Tensor::cat(&[tokens, vectors], 0),
            }
        };
        self.tokens = join().map_err(from_candle)?;
        Ok(())
    }

    /// Sends the output of each layer to an observer.
    pub fn observe(&mut self, trace: Trace) {
        self.trace = trace;
    }

    /// The number of token positions: 77 in CLIP.
    pub fn positions(&self) -> usize {
        self.max_tokens
    }

    /// The number of values per token in the output.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Whether "clip skip" chooses the layer. The layer of SD v2 and SDXL is fixed, as in WebUI.
    pub fn has_clip_skip(&self) -> bool {
        self.traits.layer == OutputLayer::ClipSkip
    }

    /// Encodes tokens `[batch, positions]` to `[batch, positions, width]`: the output of the layer `clip_skip` from the
    /// end (1 is the last), after the final layer norm. Text encoders without "clip skip" have a fixed layer and may omit
    /// the norm. Kernels return F32 in CPU memory.
    ///
    /// Fails if the encoder has fewer than `clip_skip` layers.
    pub fn hidden_state(&self, tokens: &Tensor, clip_skip: usize) -> Result<Tensor> {
        let (hidden, _) = self.forward(tokens, self.output_layer(clip_skip)?).map_err(from_candle)?;
        Ok(hidden)
    }

    /// Like [`TextEncoder::hidden_state`], with the pooled output if the family uses it.
    pub(super) fn encode(&self, tokens: &Tensor, clip_skip: usize) -> Result<Encoded> {
        let (hidden, last) = self.forward(tokens, self.output_layer(clip_skip)?).map_err(from_candle)?;
        let pooled = last.map(|last| self.pool(tokens, &last)).transpose().map_err(from_candle)?;
        Ok(Encoded { hidden, pooled })
    }

    /// Replaces the end tokens after the first one of each row by the padding of this text encoder.
    pub(super) fn padded(&self, tokens: &[u32], end: u32) -> Vec<u32> {
        let length = tokens.iter().position(|&token| token == end).map_or(tokens.len(), |at| at + 1);
        let padding = match self.traits.padding {
            Padding::End => return tokens.to_vec(),
            Padding::Zero => 0,
        };
        tokens.iter().take(length).copied().chain(tokens.iter().skip(length).map(|_| padding)).collect()
    }

    fn output_layer(&self, clip_skip: usize) -> Result<usize> {
        let layers = self.layers.len();
        match self.traits.layer {
            OutputLayer::Penultimate => Ok(self.penultimate),
            OutputLayer::ClipSkip if clip_skip == 0 || clip_skip > layers => {
                let message = format!("clip skip {clip_skip} is out of range: expected 1 to {layers}");
                Err(Error::usage(message))
            }
            OutputLayer::ClipSkip => Ok(layers + 1 - clip_skip),
        }
    }

    /// Returns the output after `output` layers and, if the pooled output is used, that of the last layer after the norm.
    fn forward(&self, tokens: &Tensor, output: usize) -> CandleResult<(Tensor, Option<Tensor>)> {
        let mut x = self.embed(tokens)?;
        let mut seen = None;
        let is_pooled = self.projection.is_some();
        let layers = if is_pooled { self.layers.len() } else { output };
        for (index, layer) in self.layers.iter().take(layers).enumerate() {
            if index == output {
                seen = Some(x.clone());
            }
            x = layer.forward(&self.engine, &x, self.heads, self.activation)?;
            self.trace.tokens(&format!("{}.{}.{index}", self.path, self.traits.names.layers), &self.engine, &x)?;
        }
        let hidden = seen.as_ref().unwrap_or(&x);
        let hidden = if self.traits.is_normalized { self.final_norm.forward(hidden)? } else { hidden.clone() };
        let hidden = self.engine.to_host(&hidden)?;
        self.trace.seen(&format!("{}.{}", self.path, self.traits.names.final_norm), &hidden);
        let last = if is_pooled { Some(self.final_norm.forward(&x)?) } else { None };
        Ok((hidden, last))
    }

    fn embed(&self, tokens: &Tensor) -> CandleResult<Tensor> {
        let (batch, count) = tokens.dims2()?;
        let positions = self.positions.narrow(0, 0, count)?;
        let x = match &self.engine {
            Engine::Kernels(kernels) => kernels::embed(kernels, tokens, &self.tokens, &positions)?,
            Engine::Candle => {
                let embedded = self.tokens.embedding(&tokens.flatten_all()?)?.reshape((batch, count, self.width()))?;
                embedded.broadcast_add(&positions)?
            }
        };
        self.trace.tokens(&format!("{}.embeddings", self.path), &self.engine, &x)?;
        Ok(x)
    }

    /// Projects the output at the end token, the highest token of a row. `last` is the output of the last layer.
    fn pool(&self, tokens: &Tensor, last: &Tensor) -> CandleResult<Tensor> {
        let Some(projection) = &self.projection else { candle_core::bail!("internal error: no text projection") };
        let mut rows = Vec::new();
        for (index, row) in tokens.to_vec2::<u32>()?.iter().enumerate() {
            let highest = row.iter().copied().max().unwrap_or_default();
            let end = row.iter().position(|&token| token == highest).unwrap_or_default();
            let last = last.narrow(0, index, 1)?.narrow(1, end, 1)?;
            rows.push(self.engine.to_host(&projection.forward(&last)?)?.flatten(0, 1)?);
        }
        let pooled = Tensor::cat(&rows, 0)?;
        self.trace.seen(&format!("{}.text_projection", self.path), &pooled);
        Ok(pooled)
    }
}

/// Returns the number of layers before the last one. Files made from a folder of SD v2 have neither the last layer nor the
/// projection.
fn penultimate(here: &Reader, traits: &EncoderTraits, layers: usize) -> usize {
    let is_whole = traits.is_pooled || traits.is_clip() || here.has("text_projection");
    layers - usize::from(is_whole && layers > 0)
}

/// Reads the projection of the pooled output: a matrix `[in, out]`, or the weight of a linear layer.
fn projection(here: &Reader, width: usize) -> Result<Linear> {
    if here.has("text_projection.weight") {
        return here.linear("text_projection", width, false);
    }
    here.linear_of_columns("text_projection", width)
}

impl Layer {
    fn read(here: &Reader, names: &Names, width: usize) -> Result<Self> {
        let [hidden, _] = here.dims_of(&format!("{}.weight", names.fc1))?;
        let [q, k, v] = match names.qkv {
            Qkv::Separate([q, k, v]) => {
                [here.linear(q, width, true)?, here.linear(k, width, true)?, here.linear(v, width, true)?]
            }
            Qkv::Fused(prefix) => here.linear_thirds(prefix, width)?,
        };
        Ok(Layer {
            norm_1: here.layer_norm(names.norm_1, width)?,
            q,
            k,
            v,
            out: here.linear(names.out, width, true)?,
            norm_2: here.layer_norm(names.norm_2, width)?,
            fc1: here.linear(names.fc1, width, true)?,
            fc2: here.linear(names.fc2, hidden, true)?,
        })
    }

    fn forward(&self, engine: &Engine, x: &Tensor, heads: usize, activation: Activation) -> CandleResult<Tensor> {
        let normed = self.norm_1.forward(x)?;
        let (q, k, v) = (self.q.forward(&normed)?, self.k.forward(&normed)?, self.v.forward(&normed)?);
        let x = self.out.forward_add(&attention(engine, &q, &k, &v, heads, true)?, x)?;
        let inner = self.fc1.forward(&self.norm_2.forward(&x)?)?;
        let inner = match activation {
            Activation::QuickGelu => quick_gelu(engine, &inner)?,
            Activation::Gelu => gelu(engine, &inner)?,
        };
        self.fc2.forward_add(&inner, &x)
    }
}
