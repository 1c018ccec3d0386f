//! The VAE (a KL autoencoder): encodes images to latents and decodes latents to images.

use candle_core::{Result as CandleResult, Tensor};

use super::reader::Reader;
use crate::errors::from_candle;
use crate::observer::Trace;
use crate::ops::{Conv2d, Engine, Epilogue, GroupNorm, Image, Linear, Padding, attention};
use crate::weights::WeightLoader;
use trinart_ckpt_formats::error::Result;

const PREFIX: &str = "first_stage_model";
const EPSILON: f64 = 1e-6;

/// The VAE of a checkpoint: encoder and decoder.
pub struct Vae {
    encoder: Half,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    decoder: Half,
    latent_channels: usize,
    engine: Engine,
    trace: Trace,
}

/// The encoder or the decoder. Both have the same layers, in a different order.
struct Half {
    path: &'static str,
    conv_in: Conv2d,
    /// In the order of computation.
    levels: Vec<Level>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct Level {
    name: String,
    blocks: Vec<Resnet>,
    resample: Option<Conv2d>,
}

struct Mid {
    block_1: Resnet,
    attention: Attention,
    block_2: Resnet,
}

struct Resnet {
    norm_1: GroupNorm,
    conv_1: Conv2d,
    norm_2: GroupNorm,
    conv_2: Conv2d,
    shortcut: Option<Conv2d>,
}

struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    engine: Engine,
}

impl Vae {
    /// Loads the VAE of a checkpoint in LDM names. Infers the sizes from the shapes of the tensors.
    ///
    /// Fails if tensors are missing or have other shapes.
    pub fn load(weights: &WeightLoader) -> Result<Vae> {
        let here = Reader::root(weights).at(PREFIX).with_groups(weights.hyperparameters().vae_groups);
        let [latent_channels, _, _, _] = here.dims_of("post_quant_conv.weight")?;
        let [moments, _, _, _] = here.dims_of("encoder.conv_out.weight")?;
        Ok(Vae {
            encoder: Half::encoder(&here.at("encoder"))?,
            quant_conv: here.conv("quant_conv", moments)?,
            post_quant_conv: here.conv("post_quant_conv", latent_channels)?,
            decoder: Half::decoder(&here.at("decoder"), latent_channels)?,
            latent_channels,
            engine: weights.engine().clone(),
            trace: Trace::default(),
        })
    }

    /// Sends the output of each layer to an observer.
    pub fn observe(&mut self, trace: Trace) {
        self.trace = trace;
    }

    /// The number of channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// The ratio of an image's side to its latent's side: 8 in Stable Diffusion.
    pub fn scale(&self) -> usize {
        self.decoder.levels.iter().filter(|level| level.resample.is_some()).fold(1, |scale, _| 2 * scale)
    }

    /// Decodes a latent `[batch, 4, height, width]`, in the scale of the VAE, to an image
    /// `[batch, 3, 8 * height, 8 * width]`. Colors are between -1 and 1; the decoder may overshoot.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let decode = || {
            let z = self.post_quant_conv.forward(&Image::new(&self.engine, z)?)?;
            self.decoder.decode(&z, &self.trace)?.to_planes()
        };
        decode().map_err(from_candle)
    }

    /// Encodes an image to the mean and the log-variance of its latent, not yet multiplied by the scale factor.
    pub fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor)> {
        self.moments(image).map_err(from_candle)
    }

    fn moments(&self, image: &Tensor) -> CandleResult<(Tensor, Tensor)> {
        let image = Image::new(&self.engine, image)?;
        let moments = self.quant_conv.forward(&self.encoder.encode(&image, &self.trace)?)?.to_planes()?;
        let half = moments.dim(1)? / 2;
        // Like the original code, clamp the log-variance so that its exponential does not overflow.
        Ok((moments.narrow(1, 0, half)?.contiguous()?, moments.narrow(1, half, half)?.clamp(-30f32, 20f32)?))
    }
}

impl Half {
    fn encoder(here: &Reader) -> Result<Self> {
        let [mut width, colors, _, _] = here.dims_of("conv_in.weight")?;
        let conv_in = here.conv("conv_in", colors)?;
        let mut levels = Vec::new();
        for level in 0..here.count(|level| format!("down.{level}.block.0.norm1.weight")) {
            let here = here.at(format!("down.{level}"));
            let blocks = Resnet::read_all(&here, &mut width)?;
            // The original pads with zeros below and to the right only.
            let padding = Some(Padding { before: 0, after: 1 });
            let down = here.has("downsample.conv.weight");
            let resample = down.then(|| here.conv_with("downsample.conv", width, 2, padding)).transpose()?;
            levels.push(Level { name: here.path().to_owned(), blocks, resample });
        }
        Self::around("first_stage_model.encoder", here, conv_in, levels, width, width)
    }

    fn decoder(here: &Reader, latent_channels: usize) -> Result<Self> {
        let [first, _, _, _] = here.dims_of("conv_in.weight")?;
        let conv_in = here.conv("conv_in", latent_channels)?;
        let mut width = first;
        let mut levels = Vec::new();
        // Level 0 has the highest resolution, so the decoder starts with the last level.
        for level in (0..here.count(|level| format!("up.{level}.block.0.norm1.weight"))).rev() {
            let here = here.at(format!("up.{level}"));
            let blocks = Resnet::read_all(&here, &mut width)?;
            let up = here.has("upsample.conv.weight");
            let resample = up.then(|| here.conv("upsample.conv", width)).transpose()?;
            levels.push(Level { name: here.path().to_owned(), blocks, resample });
        }
        Self::around("first_stage_model.decoder", here, conv_in, levels, first, width)
    }

    fn around(
        path: &'static str,
        here: &Reader,
        conv_in: Conv2d,
        levels: Vec<Level>,
        inner: usize,
        outer: usize,
    ) -> Result<Self> {
        let mid = here.at("mid");
        let mid = Mid {
            block_1: Resnet::read(&mid.at("block_1"), inner)?,
            attention: Attention::read(&mid.at("attn_1"), inner)?,
            block_2: Resnet::read(&mid.at("block_2"), inner)?,
        };
        let norm_out = here.group_norm("norm_out", outer, EPSILON)?;
        Ok(Half { path, conv_in, levels, mid, norm_out, conv_out: here.conv("conv_out", outer)? })
    }

    fn encode(&self, image: &Image, trace: &Trace) -> CandleResult<Image> {
        let mut x = self.conv_in.forward(image)?;
        trace.image(&format!("{}.conv_in", self.path), &x)?;
        for level in &self.levels {
            x = level.blocks(x, trace)?;
            if let Some(down) = &level.resample {
                x = down.forward(&x)?;
                trace.image(&format!("{}.downsample", level.name), &x)?;
            }
        }
        x = self.mid.forward(&x, self.path, trace)?;
        self.finish(&x, trace)
    }

    fn decode(&self, z: &Image, trace: &Trace) -> CandleResult<Image> {
        let x = self.conv_in.forward(z)?;
        trace.image(&format!("{}.conv_in", self.path), &x)?;
        let mut x = self.mid.forward(&x, self.path, trace)?;
        for level in &self.levels {
            x = level.blocks(x, trace)?;
            if let Some(up) = &level.resample {
                x = up.forward_upsampled(&x)?;
                trace.image(&format!("{}.upsample", level.name), &x)?;
            }
        }
        self.finish(&x, trace)
    }

    fn finish(&self, x: &Image, trace: &Trace) -> CandleResult<Image> {
        let x = self.conv_out.forward(&self.norm_out.forward_silu(x)?)?;
        trace.image(&format!("{}.conv_out", self.path), &x)?;
        Ok(x)
    }
}

impl Level {
    fn blocks(&self, mut x: Image, trace: &Trace) -> CandleResult<Image> {
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            trace.image(&format!("{}.block.{index}", self.name), &x)?;
        }
        Ok(x)
    }
}

impl Mid {
    fn forward(&self, x: &Image, path: &str, trace: &Trace) -> CandleResult<Image> {
        let x = self.block_1.forward(x)?;
        trace.image(&format!("{path}.mid.block_1"), &x)?;
        let x = self.attention.forward(&x)?;
        trace.image(&format!("{path}.mid.attn_1"), &x)?;
        let x = self.block_2.forward(&x)?;
        trace.image(&format!("{path}.mid.block_2"), &x)?;
        Ok(x)
    }
}

impl Resnet {
    /// Reads the blocks of a level. `width` is the number of channels before them, and is updated to that after them.
    fn read_all(here: &Reader, width: &mut usize) -> Result<Vec<Self>> {
        let mut blocks = Vec::new();
        for block in 0..here.count(|block| format!("block.{block}.norm1.weight")) {
            let here = here.at(format!("block.{block}"));
            blocks.push(Self::read(&here, *width)?);
            [*width, _, _, _] = here.dims_of("conv1.weight")?;
        }
        Ok(blocks)
    }

    fn read(here: &Reader, width: usize) -> Result<Self> {
        let [out, _, _, _] = here.dims_of("conv1.weight")?;
        let shortcut = (out != width).then(|| here.conv("nin_shortcut", width)).transpose()?;
        Ok(Resnet {
            norm_1: here.group_norm("norm1", width, EPSILON)?,
            conv_1: here.conv("conv1", width)?,
            norm_2: here.group_norm("norm2", out, EPSILON)?,
            conv_2: here.conv("conv2", out)?,
            shortcut,
        })
    }

    fn forward(&self, x: &Image) -> CandleResult<Image> {
        let inner = self.conv_1.forward(&self.norm_1.forward_silu(x)?)?;
        let inner = self.norm_2.forward_silu(&inner)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(x)).transpose()?;
        let image = Some(shortcut.as_ref().unwrap_or(x));
        self.conv_2.forward_with(&inner, Epilogue { image, ..Epilogue::default() })
    }
}

impl Attention {
    fn read(here: &Reader, width: usize) -> Result<Self> {
        Ok(Attention {
            norm: here.group_norm("norm", width, EPSILON)?,
            q: here.linear("q", width, true)?,
            k: here.linear("k", width, true)?,
            v: here.linear("v", width, true)?,
            out: here.linear("proj_out", width, true)?,
            engine: here.engine().clone(),
        })
    }

    fn forward(&self, x: &Image) -> CandleResult<Image> {
        let pixels = self.norm.forward(x)?.to_tokens()?;
        let (q, k, v) = (self.q.forward(&pixels)?, self.k.forward(&pixels)?, self.v.forward(&pixels)?);
        x.add_linear(&self.out, &attention(&self.engine, &q, &k, &v, 1, false)?)
    }
}
