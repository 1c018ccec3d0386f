//! The text encoder of SD v1: the text half of OpenAI's CLIP ViT-L.

use candle_core::{Result as CandleResult, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::render::kernels;
use crate::render::observer::Trace;
use crate::render::ops::{Engine, LayerNorm, Linear, attention, quick_gelu};
use crate::render::reader::Reader;
use crate::render::weights::from_candle;
use crate::state_dict::StateDict;

/// Where the tensors lie, NAI's spelling second.
const PREFIXES: [&str; 2] = ["cond_stage_model.transformer.text_model", "cond_stage_model.transformer"];

/// Turns tokens into what the UNet is told of them.
pub struct TextEncoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
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
    /// Reads it from a checkpoint in LDM names; `weights` is the root of them. Sizes are those of the tensors.
    ///
    /// No tensor tells the number of heads. CLIP has one for each 64 values; a model of another width is made for
    /// tests, where 4 heads are customary. See [`TextEncoder::with_heads`].
    pub fn load(weights: VarBuilder, state_dict: &StateDict, engine: &Engine) -> Result<TextEncoder> {
        let root = Reader::root(weights, state_dict, engine);
        let names = PREFIXES.iter().map(|prefix| root.at(prefix));
        let Some(here) = { names }.find(|here| here.has("embeddings.token_embedding.weight")) else {
            return Err(no_clip(state_dict));
        };
        let [vocabulary, width] = here.dims_of("embeddings.token_embedding.weight")?;
        let [positions, _] = here.dims_of("embeddings.position_embedding.weight")?;
        let layers = here.count(|layer| format!("encoder.layers.{layer}.layer_norm1.weight"));
        let layers = (0..layers).map(|layer| Layer::read(&here.at(format!("encoder.layers.{layer}")), width));
        let encoder = TextEncoder {
            tokens: here.tensor("embeddings.token_embedding.weight", &[vocabulary, width])?,
            positions: here.tensor("embeddings.position_embedding.weight", &[positions, width])?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: here.layer_norm("final_layer_norm", width)?,
            heads: 1,
            path: here.path().to_owned(),
            engine: engine.clone(),
            trace: Trace::default(),
        };
        encoder.with_heads(if width.is_multiple_of(64) { width / 64 } else { 4 })
    }

    /// The same encoder with another number of heads, which has to divide its width.
    pub fn with_heads(self, heads: usize) -> Result<Self> {
        let width = self.width();
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::unsupported(format!("a text encoder of width {width} has no {heads} heads")));
        }
        Ok(TextEncoder { heads, ..self })
    }

    /// Shows the output of each layer to an observer.
    pub fn observe(&mut self, trace: Trace) {
        self.trace = trace;
    }

    /// How many tokens it takes.
    pub fn positions(&self) -> usize {
        self.positions.dims().first().copied().unwrap_or_default()
    }

    /// How many values it gives for a token.
    pub fn width(&self) -> usize {
        self.positions.dims().last().copied().unwrap_or_default()
    }

    /// How many tokens it knows.
    pub fn vocabulary(&self) -> usize {
        self.tokens.dims().first().copied().unwrap_or_default()
    }

    /// The tokens `[batch, positions]` as `[batch, positions, width]`: the output of the layer `clip_skip` from the
    /// end, 1 being the last, after the final normalisation. Of F32 in the CPU's memory, where kernels compute it.
    pub fn hidden_state(&self, tokens: &Tensor, clip_skip: usize) -> Result<Tensor> {
        let layers = self.layers.len();
        if clip_skip == 0 || clip_skip > layers {
            let message = format!("a clip skip of {clip_skip}, the text encoder takes 1 to {layers}");
            return Err(Error::new(crate::error::Kind::Usage, message));
        }
        self.forward(tokens, layers + 1 - clip_skip).map_err(from_candle)
    }

    fn forward(&self, tokens: &Tensor, layers: usize) -> CandleResult<Tensor> {
        let (batch, count) = tokens.dims2()?;
        let positions = self.positions.narrow(0, 0, count)?;
        let mut x = match &self.engine {
            Engine::Kernels(kernels) => kernels::embed(kernels, tokens, &self.tokens, &positions)?,
            Engine::Candle => {
                let known = self.tokens.embedding(&tokens.flatten_all()?)?.reshape((batch, count, self.width()))?;
                known.broadcast_add(&positions)?
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

/// Why there is nothing to read: another encoder, or none.
fn no_clip(state_dict: &StateDict) -> Error {
    let under = |prefix: &str| state_dict.keys().any(|key| key.starts_with(prefix));
    if under("cond_stage_model.model.") || under("conditioner.") {
        return Error::unsupported("the text encoder is that of SD v2 or SDXL; only SD v1 can be rendered");
    }
    let key = format!("{}.embeddings.token_embedding.weight", PREFIXES.first().copied().unwrap_or_default());
    Error::missing("the text encoder of SD v1 has it, the checkpoint has no such key").in_tensor(key)
}
