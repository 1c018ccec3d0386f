//! The spatial transformer of the UNet: self-attention between pixels, and cross-attention to the prompt.

use candle_core::{Result as CandleResult, Tensor};

use crate::networks::family::Heads;
use crate::networks::reader::Reader;
use crate::ops::{Engine, GroupNorm, Image, LayerNorm, Linear, attention, gated_gelu};
use trinart_ckpt_formats::error::{Error, Result};

/// The keys and values of a prompt for one block.
pub(super) type KeysValues = (Tensor, Tensor);

pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
    /// The number of attention heads.
    heads: usize,
    engine: Engine,
}

struct Block {
    norm_1: LayerNorm,
    self_attention: Attention,
    norm_2: LayerNorm,
    cross_attention: Attention,
    norm_3: LayerNorm,
    expand: Linear,
    contract: Linear,
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Transformer {
    pub(super) fn read(here: &Reader, width: usize, context: usize, heads: Heads) -> Result<Self> {
        let [inner, ..] = here.dims("proj_in.weight")?[..] else {
            return Err(Error::mismatch("expected a matrix").in_tensor(here.key("proj_in.weight")));
        };
        let Some(heads) = heads.of(inner) else {
            let heads = match heads {
                Heads::Count(heads) => format!("{heads} heads"),
                Heads::Width(head) => format!("heads of {head}"),
            };
            let message = format!("{inner} channels cannot be divided into {heads}");
            return Err(Error::unsupported(message).in_tensor(here.key("proj_in.weight")));
        };
        let depth = here.count(|block| format!("transformer_blocks.{block}.norm1.weight"));
        let block = |block| Block::read(&here.at(format!("transformer_blocks.{block}")), inner, context);
        Ok(Transformer {
            norm: here.group_norm("norm", width, 1e-6)?,
            proj_in: here.linear("proj_in", width, true)?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            proj_out: here.linear("proj_out", inner, true)?,
            heads,
            engine: here.engine().clone(),
        })
    }

    /// Computes the keys and values of a prompt for each block.
    pub(super) fn prepare(&self, context: &Tensor) -> CandleResult<Vec<KeysValues>> {
        let of_block =
            |block: &Block| Ok((block.cross_attention.k.forward(context)?, block.cross_attention.v.forward(context)?));
        self.blocks.iter().map(of_block).collect()
    }

    pub(super) fn forward(&self, x: &Image, prompt: &[KeysValues]) -> CandleResult<Image> {
        // The projections are 1x1 convolutions, which on rows of pixels are linear layers.
        let mut pixels = self.proj_in.forward(&self.norm.forward(x)?.to_tokens()?)?;
        for (block, (keys, values)) in self.blocks.iter().zip(prompt) {
            pixels = block.forward(&self.engine, self.heads, pixels, keys, values)?;
        }
        x.add_linear(&self.proj_out, &pixels)
    }
}

impl Block {
    fn read(here: &Reader, width: usize, context: usize) -> Result<Self> {
        let [expanded, _] = here.dims_of("ff.net.0.proj.weight")?;
        if expanded % 2 != 0 {
            let message = format!("{expanded} rows cannot be split into values and gates");
            return Err(Error::mismatch(message).in_tensor(here.key("ff.net.0.proj.weight")));
        }
        Ok(Block {
            norm_1: here.layer_norm("norm1", width)?,
            self_attention: Attention::read(&here.at("attn1"), width, width)?,
            norm_2: here.layer_norm("norm2", width)?,
            cross_attention: Attention::read(&here.at("attn2"), width, context)?,
            norm_3: here.layer_norm("norm3", width)?,
            expand: here.linear("ff.net.0.proj", width, true)?,
            contract: here.linear("ff.net.2", expanded / 2, true)?,
        })
    }

    fn forward(
        &self,
        engine: &Engine,
        heads: usize,
        x: Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> CandleResult<Tensor> {
        let normed = self.norm_1.forward(&x)?;
        let (k, v) = (self.self_attention.k.forward(&normed)?, self.self_attention.v.forward(&normed)?);
        let x = self.self_attention.forward((engine, heads), &normed, (&k, &v), &x)?;
        let x = self.cross_attention.forward((engine, heads), &self.norm_2.forward(&x)?, (keys, values), &x)?;
        let inner = gated_gelu(engine, &self.expand.forward(&self.norm_3.forward(&x)?)?)?;
        self.contract.forward_add(&inner, &x)
    }
}

impl Attention {
    fn read(here: &Reader, width: usize, context: usize) -> Result<Self> {
        Ok(Attention {
            q: here.linear("to_q", width, false)?,
            k: here.linear("to_k", context, false)?,
            v: here.linear("to_v", context, false)?,
            out: here.linear("to_out.0", width, true)?,
        })
    }

    /// Attends from `x` to keys and values, and adds the result to `onto`.
    fn forward(
        &self,
        (engine, heads): (&Engine, usize),
        x: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        onto: &Tensor,
    ) -> CandleResult<Tensor> {
        self.out.forward_add(&attention(engine, &self.q.forward(x)?, keys, values, heads, false)?, onto)
    }
}
