//! The UNet of SD v1, which predicts the noise in a latent.
//!
//! The blocks are inferred from the keys of the checkpoint, so models of any width and any number of levels load. Only
//! the numbers of heads (8) and groups (32) cannot be inferred.

mod attention;
mod resnet;
mod step;

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Tensor, bail};

use crate::errors::from_candle;
use crate::kernels::Kernels;
use crate::networks::reader::Reader;
use crate::observer::Trace;
use crate::ops::{Conv2d, Engine, GroupNorm, Image, Linear, Padding};
use crate::weights::WeightLoader;
use attention::{KeysValues, Transformer};
use resnet::Resnet;
use step::Step;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::detection::detect_by;
use trinart_ckpt_models::family::{Architecture, Task};

const PREFIX: &str = "model.diffusion_model";

/// The UNet of a checkpoint.
pub struct Unet {
    time_1: Linear,
    time_2: Linear,
    /// The time projections of all residual blocks, concatenated.
    time_projection: Linear,
    /// Length of the sinusoidal embedding of a time.
    frequencies: usize,
    input_blocks: Vec<Block>,
    middle: Block,
    output_blocks: Vec<Block>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    context_width: usize,
    engine: Engine,
    dtype: DType,
    device: Device,
    trace: Trace,
}

/// A prompt prepared for the UNet: the keys and values of every cross-attention. They are the same for all steps.
pub struct PreparedPrompt {
    batch: usize,
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
    /// Fails for architectures other than SD v1, for models with extra conditioning (inpainting, instruct-pix2pix,
    /// depth), and if tensors are missing or have other shapes.
    pub fn load(weights: &WeightLoader) -> Result<Unet> {
        check_supported(weights.state_dict())?;
        let here = Reader::root(weights).at(PREFIX);
        let [time, frequencies] = here.dims_of("time_embed.0.weight")?;
        let mut build = Build { context: context_width(&here)?, ..Build::default() };

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
        let middle = build.middle(&here.at("middle_block"))?;
        let mut output_blocks = Vec::new();
        for index in 0.. {
            let here = here.at(format!("output_blocks.{index}"));
            let Some(kept) = build.kept.pop() else { break };
            build.width += kept;
            let Some(block) = build.block(&here)? else {
                return Err(Error::missing("required by the model, missing from the checkpoint")
                    .in_tensor(here.key("0.in_layers.0.weight")));
            };
            output_blocks.push(block);
        }
        Ok(Unet {
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

    /// Computes the keys and values for a batch of encoded prompts `[batch, tokens, width]`.
    pub fn prepare(&self, context: &Tensor) -> Result<PreparedPrompt> {
        let prepare = || {
            let (batch, context) = (context.dim(0)?, self.engine.from_host(context)?);
            let layers = self.layers().filter_map(|(_, layer)| match layer {
                Layer::Transformer(transformer) => Some(transformer.prepare(&context)),
                _ => None,
            });
            Ok(PreparedPrompt { batch, layers: layers.collect::<CandleResult<_>>()?, step: Mutex::default() })
        };
        prepare().map_err(from_candle)
    }

    /// Predicts the noise in latents `[batch, 4, height, width]` at time `t`, which may be fractional. Kernels take and
    /// return F32 in CPU memory.
    ///
    /// Fails if `prompt` is for another batch size.
    pub fn forward(&self, x: &Tensor, t: f64, prompt: &PreparedPrompt) -> Result<Tensor> {
        let (batch, ..) = x.dims4().map_err(from_candle)?;
        if batch != prompt.batch {
            let message = format!("{batch} latents for {} prompts", prompt.batch);
            return Err(Error::mismatch(message));
        }
        let denoise = || {
            let time = self.embed_time(t)?;
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
            step => step.insert(Step::new(kernels, x, time_embedding)?),
        };
        let work = |x: &Tensor, time_embedding: &Tensor, out: &Tensor| {
            self.denoise(&Image::new(&self.engine, x)?, time_embedding, prompt)?.write_planes(out)
        };
        step.run(kernels, x, time_embedding, !self.trace.is_watched(), work)
    }

    /// Returns the time projections of all residual blocks at time `t`, `[1, values]`: one for the whole batch.
    fn embed_time(&self, t: f64) -> CandleResult<Tensor> {
        // Always in f32, because f16 would round a time of 867.33 to 867.5.
        let half = self.frequencies / 2;
        let frequency = |index| (-(10000f64.ln() as f32) * index as f32 / half as f32).exp();
        let angles = (0..half).map(|index| t as f32 * frequency(index));
        let sinusoid: Vec<f32> = angles.clone().map(f32::cos).chain(angles.map(f32::sin)).collect();
        let sinusoid = match &self.engine {
            Engine::Candle => Tensor::from_vec(sinusoid, (1, 2 * half), &self.device)?.to_dtype(self.dtype)?,
            Engine::Kernels(_) => self.engine.from_host(&Tensor::from_vec(sinusoid, (1, 2 * half), &Device::Cpu)?)?,
        };
        let embedded = self.time_2.forward(&self.engine.silu(&self.time_1.forward(&sinusoid)?)?)?;
        self.trace.tokens("model.diffusion_model.time_embed", &self.engine, &embedded)?;
        // Every residual block applies this activation first.
        self.time_projection.forward_to_f32(&self.engine.silu(&embedded)?)
    }

    fn denoise(&self, x: &Image, time_embedding: &Tensor, prompt: &PreparedPrompt) -> CandleResult<Image> {
        let mut prompt = prompt.layers.iter().map(Vec::as_slice);
        let mut kept = Vec::new();
        let mut x = x.clone();
        for block in &self.input_blocks {
            x = block.forward(x, time_embedding, &mut prompt, &self.trace)?;
            kept.push(x.clone());
        }
        x = self.middle.forward(x, time_embedding, &mut prompt, &self.trace)?;
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
        let blocks = self.input_blocks.iter().chain([&self.middle]).chain(&self.output_blocks);
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
#[derive(Default)]
struct Build {
    context: usize,
    /// The keys of the time projections of the residual blocks so far, and the number of their values in total.
    time_projections: Vec<String>,
    time_values: usize,
    /// Channels of the image after the blocks so far.
    width: usize,
    /// Channels of the skip connections that no output block has used yet.
    kept: Vec<usize>,
}

impl Build {
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

    fn middle(&mut self, here: &Reader) -> Result<Block> {
        match self.block(here)? {
            Some(block) => Ok(block),
            None => Err(Error::missing("required by the model, missing from the checkpoint")
                .in_tensor(here.key("0.in_layers.0.weight"))),
        }
    }

    fn layer(&mut self, here: &Reader) -> Result<Option<Layer>> {
        if here.has("in_layers.0.weight") {
            let (resnet, width) = Resnet::read(here, self.width, self.time_values)?;
            self.time_projections.push(here.key("emb_layers.1"));
            self.time_values += width;
            self.width = width;
            Ok(Some(Layer::Resnet(Box::new(resnet))))
        } else if here.has("norm.weight") {
            Ok(Some(Layer::Transformer(Box::new(Transformer::read(here, self.width, self.context)?))))
        } else if here.has("op.weight") {
            let padding = Some(Padding::around(1));
            Ok(Some(Layer::Conv(here.conv_with("op", self.width, 2, padding)?)))
        } else if here.has("conv.weight") {
            Ok(Some(Layer::Up(here.conv("conv", self.width)?)))
        } else {
            Ok(None)
        }
    }
}

/// Returns the context width, from the first cross-attention.
fn context_width(here: &Reader) -> Result<usize> {
    let names = ["input_blocks.1.1", "input_blocks.4.1", "middle_block.1"];
    let names = names.map(|name| format!("{name}.transformer_blocks.0.attn2.to_k.weight"));
    let Some(name) = names.iter().find(|name| here.has(name)) else {
        return Err(Error::missing("the UNet has no cross-attention; it cannot follow a prompt")
            .in_tensor(here.key("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")));
    };
    let [_, width] = here.dims_of(name)?;
    Ok(width)
}

/// Fails if the UNet of a checkpoint is not from SD v1, or if it has extra conditioning (inpainting, instruct-pix2pix
/// and depth models).
pub(super) fn check_supported(state_dict: &StateDict) -> Result<()> {
    // Only the UNet, because the text encoder is checked separately.
    let dims = |key: &str| {
        let tensor = key.starts_with(PREFIX).then(|| state_dict.get(key)).flatten();
        tensor.map(|tensor| tensor.shape().dims().to_vec())
    };
    let found = detect_by(&dims);
    let candidates = found.candidates();
    if !candidates.is_empty() && !candidates.contains(&Architecture::Sd1) {
        let names: Vec<_> = candidates.iter().map(|architecture| architecture.text()).collect();
        let message = format!("unsupported UNet of {}: only SD v1 can be rendered", names.join(" or "));
        return Err(Error::unsupported(message));
    }
    let needs = match found.task {
        Some(Task::Inpainting) => "an inpainting model, which also takes a mask and an image",
        Some(Task::InstructPix2Pix) => "an instruct-pix2pix model, which also takes an image to edit",
        Some(Task::Depth) => "a depth-to-image model, which also takes a depth map",
        _ => return Ok(()),
    };
    let channels = dims("model.diffusion_model.input_blocks.0.0.weight").and_then(|dims| dims.get(1).copied());
    let channels = channels.map_or_else(String::new, |channels| format!(" ({channels} channels)"));
    Err(Error::unsupported(format!("{needs}{channels}; only text-to-image models can be rendered")))
}
