//! The text encoder of SD v1: the text half of OpenAI's CLIP ViT-L.

use candle_core::{Result as CandleResult, Tensor};

use super::reader::Reader;
use crate::errors::from_candle;
use crate::kernels;
use crate::observer::Trace;
use crate::ops::{Engine, LayerNorm, Linear, attention, quick_gelu};
use crate::weights::WeightLoader;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;

/// The number of tokens in CLIP's vocabulary.
const TOKENS: u64 = 49_408;

/// The key prefixes of the text encoder: LDM's, and the shorter one of NovelAI's checkpoint.
const PREFIXES: [&str; 2] = ["cond_stage_model.transformer.text_model", "cond_stage_model.transformer"];

/// CLIP's text encoder: turns tokens into the context of the UNet.
pub struct TextEncoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    vocabulary: usize,
    max_tokens: usize,
    width: usize,
    heads: usize,
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

impl TextEncoder {
    /// Loads the text encoder of a checkpoint in LDM names. Infers the sizes from the shapes of the tensors.
    ///
    /// The number of heads cannot be inferred. CLIP has one head per 64 values. If the width is not a multiple of 64,
    /// as in small test models, the number is 4. [`TextEncoder::with_heads`] overrides it.
    ///
    /// Fails if the checkpoint has no text encoder of SD v1 or a smaller vocabulary, or if tensors are missing or have
    /// other shapes.
    pub fn load(weights: &WeightLoader) -> Result<TextEncoder> {
        check_supported(weights.state_dict())?;
        let root = Reader::root(weights);
        let here = root.at(prefix(weights.state_dict())?);
        let [vocabulary, width] = here.dims_of("embeddings.token_embedding.weight")?;
        let [positions, _] = here.dims_of("embeddings.position_embedding.weight")?;
        let layers = here.count(|layer| format!("encoder.layers.{layer}.layer_norm1.weight"));
        let layers = (0..layers).map(|layer| Layer::read(&here.at(format!("encoder.layers.{layer}")), width));
        let encoder = TextEncoder {
            tokens: here.tensor("embeddings.token_embedding.weight", &[vocabulary, width])?,
            positions: here.tensor("embeddings.position_embedding.weight", &[positions, width])?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: here.layer_norm("final_layer_norm", width)?,
            vocabulary,
            max_tokens: positions,
            width,
            heads: 1,
            path: here.path().to_owned(),
            engine: weights.engine().clone(),
            trace: Trace::default(),
        };
        encoder.with_heads(if width.is_multiple_of(64) { width / 64 } else { 4 })
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

    /// Encodes tokens `[batch, positions]` to `[batch, positions, width]`: the output of the layer `clip_skip` from the
    /// end (1 is the last), after the final layer norm. Kernels return F32 in CPU memory.
    ///
    /// Fails if the encoder has fewer than `clip_skip` layers.
    pub fn hidden_state(&self, tokens: &Tensor, clip_skip: usize) -> Result<Tensor> {
        let layers = self.layers.len();
        if clip_skip == 0 || clip_skip > layers {
            let message = format!("clip skip {clip_skip} is out of range: expected 1 to {layers}");
            return Err(Error::usage(message));
        }
        self.forward(tokens, layers + 1 - clip_skip).map_err(from_candle)
    }

    fn forward(&self, tokens: &Tensor, layers: usize) -> CandleResult<Tensor> {
        let (batch, count) = tokens.dims2()?;
        let positions = self.positions.narrow(0, 0, count)?;
        let mut x = match &self.engine {
            Engine::Kernels(kernels) => kernels::embed(kernels, tokens, &self.tokens, &positions)?,
            Engine::Candle => {
                let embedded = self.tokens.embedding(&tokens.flatten_all()?)?.reshape((batch, count, self.width()))?;
                embedded.broadcast_add(&positions)?
            }
        };
        self.trace.tokens(&format!("{}.embeddings", self.path), &self.engine, &x)?;
        for (index, layer) in self.layers.iter().take(layers).enumerate() {
            x = layer.forward(&self.engine, &x, self.heads)?;
            self.trace.tokens(&format!("{}.encoder.layers.{index}", self.path), &self.engine, &x)?;
        }
        let x = self.engine.to_host(&self.final_norm.forward(&x)?)?;
        self.trace.seen(&format!("{}.final_layer_norm", self.path), &x);
        Ok(x)
    }
}

impl Layer {
    fn read(here: &Reader, width: usize) -> Result<Self> {
        let [hidden, _] = here.dims_of("mlp.fc1.weight")?;
        Ok(Layer {
            norm_1: here.layer_norm("layer_norm1", width)?,
            q: here.linear("self_attn.q_proj", width, true)?,
            k: here.linear("self_attn.k_proj", width, true)?,
            v: here.linear("self_attn.v_proj", width, true)?,
            out: here.linear("self_attn.out_proj", width, true)?,
            norm_2: here.layer_norm("layer_norm2", width)?,
            fc1: here.linear("mlp.fc1", width, true)?,
            fc2: here.linear("mlp.fc2", hidden, true)?,
        })
    }

    fn forward(&self, engine: &Engine, x: &Tensor, heads: usize) -> CandleResult<Tensor> {
        let normed = self.norm_1.forward(x)?;
        let (q, k, v) = (self.q.forward(&normed)?, self.k.forward(&normed)?, self.v.forward(&normed)?);
        let x = self.out.forward_add(&attention(engine, &q, &k, &v, heads, true)?, x)?;
        let inner = quick_gelu(engine, &self.fc1.forward(&self.norm_2.forward(&x)?)?)?;
        self.fc2.forward_add(&inner, &x)
    }
}

/// Fails if a checkpoint has no SD v1 text encoder.
pub(super) fn check_supported(state_dict: &StateDict) -> Result<()> {
    let key = format!("{}.embeddings.token_embedding.weight", prefix(state_dict)?);
    let tokens = state_dict.get(&key).and_then(|tensor| tensor.shape().dims().first().copied());
    match tokens {
        Some(tokens) if tokens < TOKENS => {
            let found = format!("the vocabulary has {tokens} tokens; the prompts of SD v1 need CLIP's {TOKENS}");
            Err(Error::unsupported(found).in_tensor(key))
        }
        _ => Ok(()),
    }
}

/// Returns the key prefix of the text encoder.
fn prefix(state_dict: &StateDict) -> Result<&'static str> {
    let token_embedding = |prefix: &str| format!("{prefix}.embeddings.token_embedding.weight");
    let found = PREFIXES.into_iter().find(|prefix| state_dict.contains(&token_embedding(prefix)));
    found.ok_or_else(|| no_text_encoder(state_dict))
}

/// Returns the error for a checkpoint with another text encoder or without one.
fn no_text_encoder(state_dict: &StateDict) -> Error {
    let under = |prefix: &str| state_dict.keys().any(|key| key.starts_with(prefix));
    if under("cond_stage_model.model.") || under("conditioner.") {
        return Error::unsupported("unsupported text encoder of SD v2 or SDXL: only SD v1 can be rendered");
    }
    let [prefix, _] = PREFIXES;
    let key = format!("{prefix}.embeddings.token_embedding.weight");
    Error::missing("required by the text encoder of SD v1, missing from the checkpoint").in_tensor(key)
}
