//! The UNet, which predicts the noise in a latent, or the velocity.
//!
//! The blocks are inferred from the keys of the checkpoint, so models of any width and any number of levels load. Only
//! the numbers of heads and groups cannot be inferred: a folder's configuration has them, and otherwise they are those of
//! the family.

mod attention;
mod resnet;
mod step;

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Tensor, bail};

use crate::errors::from_candle;
use crate::kernels::Kernels;
use crate::networks::family::{Family, Heads, UNET};
use crate::networks::reader::Reader;
use crate::networks::text::{Conditioning, sinusoid};
use crate::observer::Trace;
use crate::ops::{Conv2d, Engine, GroupNorm, Image, Linear, Padding, silu};
use crate::weights::WeightLoader;
use attention::{KeysValues, Transformer};
use resnet::Resnet;
use step::Step;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_models::renderable::first_attention;

/// The UNet of a checkpoint.
pub struct Unet {
    time_1: Linear,
    time_2: Linear,
    /// Embeds pooled text and sizes.
    label: Option<[Linear; 2]>,
    /// The time projections of all residual blocks, concatenated.
    time_projection: Linear,
    /// Length of the sinusoidal embedding of a time.
    frequencies: usize,
    input_blocks: Vec<Block>,
    /// Missing in some distilled models.
    middle: Option<Block>,
    output_blocks: Vec<Block>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    in_channels: usize,
    out_channels: usize,
    context_width: usize,
    engine: Engine,
    dtype: DType,
    device: Device,
    trace: Trace,
}

/// A prompt prepared for the UNet: the keys and values of every cross-attention. They are the same for all steps.
pub struct PreparedPrompt {
    batch: usize,
    /// The embedded pooled text and sizes, `[batch, time]`.
    label: Option<Tensor>,
    /// One entry per transformer, in the order of computation.
    layers: Vec<Vec<KeysValues>>,
    /// The buffers and the recording of a step with kernels.
    step: Mutex<Option<Step>>,
}

/// A block of the original model: layers in sequence. The output of an input block is also a skip connection to an
/// output block.
struct Block {
    layers: Vec<(String, Layer)>,
}

enum Layer {
    Conv(Conv2d),
    Resnet(Box<Resnet>),
    Transformer(Box<Transformer>),
    Up(Conv2d),
}

impl Unet {
    /// Loads the UNet of a checkpoint in LDM names. Infers the sizes from the shapes of the tensors.
    ///
    /// Fails for models that cannot be rendered, and if tensors are missing or have other shapes.
    pub fn load(weights: &WeightLoader) -> Result<Unet> {
        let family = Family::of(weights.state_dict())?;
        let hyperparameters = weights.hyperparameters();
        let here = Reader::root(weights).at(UNET).with_groups(hyperparameters.unet_groups);
        let [time, frequencies] = here.dims_of("time_embed.0.weight")?;
        let mut build = Build::new(context_width(&here)?, family.heads, &hyperparameters.unet_heads);

        let [first, channels, _, _] = here.dims_of("input_blocks.0.0.weight")?;
        build.width = first;
        build.kept.push(first);
        let conv_in = here.at("input_blocks.0.0");
        let conv_in = (conv_in.path().to_owned(), Layer::Conv(here.conv("input_blocks.0.0", channels)?));
        let mut input_blocks = vec![Block { layers: vec![conv_in] }];
        for index in 1.. {
            let Some(block) = build.block(&here.at(format!("input_blocks.{index}")))? else { break };
            input_blocks.push(block);
            build.kept.push(build.width);
        }
        let middle = build.block(&here.at("middle_block"))?;
        if middle.is_none() && !hyperparameters.unet_lacks_middle {
            return Err(missing_block(&here.at("middle_block")));
        }
        let mut output_blocks = Vec::new();
        for index in 0.. {
            let here = here.at(format!("output_blocks.{index}"));
            let Some(kept) = build.kept.pop() else { break };
            build.width += kept;
            let Some(block) = build.block(&here)? else {
                return Err(missing_block(&here));
            };
            output_blocks.push(block);
        }
        let [out_channels, _, _, _] = here.dims_of("out.2.weight")?;
        Ok(Unet {
            label: family.has_vector().then(|| label(&here, time)).transpose()?,
            in_channels: channels,
            out_channels,
            time_1: here.linear("time_embed.0", frequencies, true)?,
            time_2: here.linear("time_embed.2", time, true)?,
            time_projection: here.linear_of_all(&build.time_projections, time)?,
            frequencies,
            input_blocks,
            middle,
            output_blocks,
            norm_out: here.group_norm("out.0", build.width, 1e-5)?,
            conv_out: here.conv("out.2", build.width)?,
            context_width: build.context,
            engine: weights.engine().clone(),
            dtype: weights.dtype(),
            device: weights.device().clone(),
            trace: Trace::default(),
        })
    }

    /// Sends the output of each layer to an observer.
    pub fn observe(&mut self, trace: Trace) {
        self.trace = trace;
    }

    /// The number of values per token of a prompt: the width of the text encoder.
    pub fn context_width(&self) -> usize {
        self.context_width
    }

    /// The number of values of pooled text and sizes; `None` for SD v1 and v2.
    pub fn vector_width(&self) -> Option<usize> {
        self.label.as_ref().map(|[first, _]| first.width())
    }

    /// The number of channels of the input: 4, or more for models that also take an image.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Computes the keys and values for a batch of encoded prompts, and embeds their vectors.
    ///
    /// Fails if the conditioning has no vector although the UNet needs one, or has one of another width.
    pub fn prepare(&self, conditioning: &Conditioning) -> Result<PreparedPrompt> {
        let Conditioning { context, vector } = conditioning;
        if self.label.is_some() != vector.is_some() {
            return Err(Error::mismatch(
                "the text encoders and the UNet do not belong together: only one has pooled text",
            ));
        }
        let prepare = || {
            let (batch, context) = (context.dim(0)?, self.engine.from_host(context)?);
            let label = match (&self.label, vector) {
                (Some([first, second]), Some(vector)) => {
                    let hidden = first.forward(&self.engine.from_host(vector)?)?;
                    Some(second.forward(&silu(&self.engine, &hidden)?)?)
                }
                _ => None,
            };
            let layers = self.layers().filter_map(|(_, layer)| match layer {
                Layer::Transformer(transformer) => Some(transformer.prepare(&context)),
                _ => None,
            });
            Ok(PreparedPrompt { batch, label, layers: layers.collect::<CandleResult<_>>()?, step: Mutex::default() })
        };
        prepare().map_err(from_candle)
    }

    /// Predicts the noise (or the velocity) in latents `[batch, channels, height, width]` at time `t`, which may be
    /// fractional. Kernels take and return F32 in CPU memory.
    ///
    /// Fails if `prompt` is for another batch size.
    pub fn forward(&self, x: &Tensor, t: f64, prompt: &PreparedPrompt) -> Result<Tensor> {
        let (batch, ..) = x.dims4().map_err(from_candle)?;
        if batch != prompt.batch {
            let message = format!("{batch} latents for {} prompts", prompt.batch);
            return Err(Error::mismatch(message));
        }
        let denoise = || {
            let time = self.embed_time(t, prompt.label.as_ref())?;
            match &self.engine {
                Engine::Kernels(kernels) => self.step(kernels, x, &time, prompt),
                Engine::Candle => self.denoise(&Image::new(&self.engine, x)?, &time, prompt)?.to_planes(),
            }
        };
        denoise().map_err(from_candle)
    }

    /// Runs a step with kernels. The second step with a prompt records its launches; later steps replay them.
    fn step(
        &self,
        kernels: &Kernels,
        x: &Tensor,
        time_embedding: &Tensor,
        prompt: &PreparedPrompt,
    ) -> CandleResult<Tensor> {
        let mut step = prompt.step.lock().unwrap_or_else(PoisonError::into_inner);
        let step = match &mut *step {
            Some(step) if step.takes(x) => step,
            step => step.insert(Step::new(kernels, x, time_embedding, self.out_channels)?),
        };
        let work = |x: &Tensor, time_embedding: &Tensor, out: &Tensor| {
            self.denoise(&Image::new(&self.engine, x)?, time_embedding, prompt)?.write_planes(out)
        };
        step.run(kernels, x, time_embedding, !self.trace.is_watched(), work)
    }

    /// Returns the time projections of all residual blocks at time `t`: `[1, values]` for the whole batch, or
    /// `[batch, values]` with embedded pooled text and sizes.
    fn embed_time(&self, t: f64, label: Option<&Tensor>) -> CandleResult<Tensor> {
        let rows = label.map_or(Ok(1), |label| label.dim(0))?;
        let width = self.frequencies - self.frequencies % 2;
        let sinusoid = Tensor::from_vec(sinusoid(t as f32, width), (1, width), &Device::Cpu)?;
        let sinusoid = sinusoid.repeat((rows, 1))?;
        let sinusoid = match &self.engine {
            Engine::Candle => sinusoid.to_device(&self.device)?.to_dtype(self.dtype)?,
            Engine::Kernels(_) => self.engine.from_host(&sinusoid)?,
        };
        let hidden = silu(&self.engine, &self.time_1.forward(&sinusoid)?)?;
        let embedded = match label {
            Some(label) => self.time_2.forward_add(&hidden, label)?,
            None => self.time_2.forward(&hidden)?,
        };
        self.trace.tokens("model.diffusion_model.time_embed", &self.engine, &embedded)?;
        // Every residual block applies this activation first.
        self.time_projection.forward_to_f32(&silu(&self.engine, &embedded)?)
    }

    fn denoise(&self, x: &Image, time_embedding: &Tensor, prompt: &PreparedPrompt) -> CandleResult<Image> {
        let mut prompt = prompt.layers.iter().map(Vec::as_slice);
        let mut kept = Vec::new();
        let mut x = x.clone();
        for block in &self.input_blocks {
            x = block.forward(x, time_embedding, &mut prompt, &self.trace)?;
            kept.push(x.clone());
        }
        if let Some(middle) = &self.middle {
            x = middle.forward(x, time_embedding, &mut prompt, &self.trace)?;
        }
        for block in &self.output_blocks {
            let Some(skip) = kept.pop() else { bail!("internal error: an output block without a skip connection") };
            // An odd side is one pixel longer after halving and doubling. As in WebUI, the image is cropped to the skip
            // connection, so sides need only be multiples of 8 pixels.
            x = x.concat_channels(&skip)?;
            x = block.forward(x, time_embedding, &mut prompt, &self.trace)?;
        }
        let x = self.conv_out.forward(&self.norm_out.forward_silu(&x)?)?;
        self.trace.image("model.diffusion_model.out", &x)?;
        Ok(x)
    }

    fn layers(&self) -> impl Iterator<Item = &(String, Layer)> {
        let blocks = self.input_blocks.iter().chain(&self.middle).chain(&self.output_blocks);
        blocks.flat_map(|block| &block.layers)
    }
}

impl Block {
    fn forward<'a>(
        &self,
        mut x: Image,
        time_embedding: &Tensor,
        prompt: &mut impl Iterator<Item = &'a [KeysValues]>,
        trace: &Trace,
    ) -> CandleResult<Image> {
        for (name, layer) in &self.layers {
            x = match layer {
                Layer::Conv(conv) => conv.forward(&x)?,
                Layer::Resnet(resnet) => resnet.forward(&x, time_embedding)?,
                Layer::Transformer(transformer) => {
                    let keys_values = prompt.next().ok_or_else(|| {
                        candle_core::Error::Msg("internal error: a transformer without keys and values".into())
                    })?;
                    transformer.forward(&x, keys_values)?
                }
                Layer::Up(conv) => conv.forward_upsampled(&x)?,
            };
            trace.image(name, &x)?;
        }
        Ok(x)
    }
}

/// The state while the blocks are read.
struct Build<'a> {
    context: usize,
    /// The heads of the family.
    heads: Heads,
    /// The heads of each level, if known; the last number also counts for all lower levels.
    heads_of_levels: &'a [usize],
    /// The level of the blocks so far. 0 has the highest resolution.
    level: usize,
    /// The keys of the time projections of the residual blocks so far, and the number of their values in total.
    time_projections: Vec<String>,
    time_values: usize,
    /// Channels of the image after the blocks so far.
    width: usize,
    /// Channels of the skip connections that no output block has used yet.
    kept: Vec<usize>,
}

impl<'a> Build<'a> {
    fn new(context: usize, heads: Heads, heads_of_levels: &'a [usize]) -> Self {
        let (time_projections, kept) = (Vec::new(), Vec::new());
        Build { context, heads, heads_of_levels, level: 0, time_projections, time_values: 0, width: 0, kept }
    }

    /// The heads of the current level.
    fn heads(&self) -> Heads {
        let own = self.heads_of_levels.get(self.level).or(self.heads_of_levels.last());
        own.map_or(self.heads, |&heads| Heads::Count(heads))
    }

    /// Reads the block at this prefix, if there is one.
    fn block(&mut self, here: &Reader) -> Result<Option<Block>> {
        let mut layers = Vec::new();
        // A residual block, a transformer, an upsampler: each is optional, and the others are numbered without gaps.
        for index in 0..3 {
            let here = here.at(index.to_string());
            if let Some(layer) = self.layer(&here)? {
                layers.push((here.path().to_owned(), layer));
            }
        }
        Ok((!layers.is_empty()).then_some(Block { layers }))
    }

    fn layer(&mut self, here: &Reader) -> Result<Option<Layer>> {
        if here.has("in_layers.0.weight") {
            let (resnet, width) = Resnet::read(here, self.width, self.time_values)?;
            self.time_projections.push(here.key("emb_layers.1"));
            self.time_values += width;
            self.width = width;
            Ok(Some(Layer::Resnet(Box::new(resnet))))
        } else if here.has("norm.weight") {
            let transformer = Transformer::read(here, self.width, self.context, self.heads())?;
            Ok(Some(Layer::Transformer(Box::new(transformer))))
        } else if here.has("op.weight") {
            let padding = Some(Padding::around(1));
            self.level += 1;
            Ok(Some(Layer::Conv(here.conv_with("op", self.width, 2, padding)?)))
        } else if here.has("conv.weight") {
            self.level = self.level.saturating_sub(1);
            Ok(Some(Layer::Up(here.conv("conv", self.width)?)))
        } else {
            Ok(None)
        }
    }
}

/// The error for a block without layers.
fn missing_block(here: &Reader) -> Error {
    let error = Error::missing("required by the model, missing from the checkpoint");
    error.in_tensor(here.key("0.in_layers.0.weight"))
}

/// Returns the context width, from the first cross-attention.
fn context_width(here: &Reader) -> Result<usize> {
    let Some(name) = first_attention(|name| here.has(name)) else {
        return Err(Error::missing("the UNet has no cross-attention; it cannot follow a prompt")
            .in_tensor(here.key("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")));
    };
    let [_, width] = here.dims_of(&format!("{name}.transformer_blocks.0.attn2.to_k.weight"))?;
    Ok(width)
}

/// Reads the layers that embed pooled text and sizes.
fn label(here: &Reader, time: usize) -> Result<[Linear; 2]> {
    let [hidden, width] = here.dims_of("label_emb.0.0.weight")?;
    Ok([here.linear("label_emb.0.0", width, true)?, here.linear("label_emb.0.2", hidden, true)?]).and_then(|layers| {
        match here.dims_of::<2>("label_emb.0.2.weight")? {
            [out, _] if out == time => Ok(layers),
            [out, _] => {
                let message = format!("the model needs {time} rows, the checkpoint has {out}");
                Err(Error::mismatch(message).in_tensor(here.key("label_emb.0.2.weight")))
            }
        }
    })
}
