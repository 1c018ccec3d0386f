//! Normalisations.

use candle_core::{D, DType, Result, Tensor, bail};

use super::pointwise::cast;
use super::{EIGHT, Kernels, Launch, THREADS, address, int, launch};

/// As `GroupNorm` in `source/normalize.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupParameters {
    x: u64,
    out: u64,
    weight: u64,
    bias: u64,
    moments: u64,
    affine: u64,
    batch: i32,
    pixels: i32,
    channels: i32,
    groups: i32,
    chunks: i32,
    chunk_pixels: i32,
    epsilon: f32,
    silu: i32,
}

/// Normalises the channels of an image by groups.
pub(in crate::render) struct GroupNorm {
    kernels: Kernels,
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    epsilon: f32,
}

/// Most parts of an image whose moments are taken by themselves.
const MOST_CHUNKS: usize = 256;

/// Fewest pixels of one.
const LEAST_PIXELS: usize = 16;

impl GroupNorm {
    /// With a weight and a bias for each channel.
    pub(in crate::render) fn new(
        kernels: &Kernels,
        weight: &Tensor,
        bias: &Tensor,
        groups: usize,
        epsilon: f64,
    ) -> Result<Self> {
        let channels = weight.elem_count();
        if !channels.is_multiple_of(groups.max(1)) || !channels.is_multiple_of(EIGHT) {
            bail!("{channels} channels are not {groups} groups, or no eights")
        }
        Ok(GroupNorm {
            kernels: kernels.clone(),
            weight: cast(kernels, weight, DType::F32)?,
            bias: cast(kernels, bias, DType::F32)?,
            groups,
            epsilon: epsilon as f32,
        })
    }

    /// The image `[batch, height, width, channels]` normalised, and with `silu` `x * sigmoid(x)` of it.
    pub(in crate::render) fn forward(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let kernels = &self.kernels;
        let (batch, height, width, channels) = x.dims4()?;
        if channels != self.weight.elem_count() || x.dtype() != kernels.dtype {
            bail!("a normalisation of {} channels does not take {x:?}", self.weight.elem_count())
        }
        let pixels = height * width;
        let chunk_pixels = pixels.div_ceil(MOST_CHUNKS).max(LEAST_PIXELS);
        let chunks = pixels.div_ceil(chunk_pixels);
        let moments = kernels.empty_f32(&[batch, chunks, self.groups, 2])?;
        let affine = kernels.empty_f32(&[batch, 2, channels])?;
        let out = kernels.empty(x.dims())?;
        let parameters = GroupParameters {
            x: address(x)?,
            out: address(&out)?,
            weight: address(&self.weight)?,
            bias: address(&self.bias)?,
            moments: address(&moments)?,
            affine: address(&affine)?,
            batch: int(batch)?,
            pixels: int(pixels)?,
            channels: int(channels)?,
            groups: int(self.groups)?,
            chunks: int(chunks)?,
            chunk_pixels: int(chunk_pixels)?,
            epsilon: self.epsilon,
            silu: i32::from(silu),
        };
        // Sums for each channel, of as many threads as stand beside each other, and two for each group.
        let across = (channels / EIGHT).clamp(1, THREADS);
        let shared = (THREADS / across * channels + 2 * self.groups) * size_of::<f32>();
        let machine = &*kernels.machine;
        let of_image = Launch { kernel: "group_affine", grid: [batch, 1, 1], threads: THREADS, shared };
        // SAFETY: the tensors have the sizes that the kernels are told.
        unsafe {
            kernels.launch("group_moments", [chunks, batch, 1], THREADS, shared, &parameters)?;
            launch(machine, &of_image, &parameters)?;
            kernels.launch_each("group_apply", x.elem_count() / EIGHT, &parameters)?;
        }
        Ok(out)
    }
}

/// As `LayerNorm` in `source/normalize.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LayerParameters {
    x: u64,
    out: u64,
    weight: u64,
    bias: u64,
    tokens: i32,
    width: i32,
    epsilon: f32,
}

/// Normalises the last dimension.
pub(in crate::render) struct LayerNorm {
    kernels: Kernels,
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// With a weight and a bias for each value.
    pub(in crate::render) fn new(kernels: &Kernels, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Self> {
        let width = weight.elem_count();
        if !width.is_multiple_of(EIGHT) {
            bail!("{width} values are no eights")
        }
        Ok(LayerNorm {
            kernels: kernels.clone(),
            weight: cast(kernels, weight, DType::F32)?,
            bias: cast(kernels, bias, DType::F32)?,
            epsilon,
        })
    }

    /// Each token normalised.
    pub(in crate::render) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        if x.dim(D::Minus1)? != width || x.dtype() != self.kernels.dtype {
            bail!("a normalisation of {width} values does not take {x:?}")
        }
        let out = self.kernels.empty(x.dims())?;
        let tokens = x.elem_count() / width;
        let parameters = LayerParameters {
            x: address(x)?,
            out: address(&out)?,
            weight: address(&self.weight)?,
            bias: address(&self.bias)?,
            tokens: int(tokens)?,
            width: int(width)?,
            epsilon: self.epsilon,
        };
        let grid = [tokens.div_ceil(THREADS / 32), 1, 1];
        // SAFETY: the tensors have the sizes that the kernel is told.
        unsafe { self.kernels.launch("layer_norm", grid, THREADS, 0, &parameters)? };
        Ok(out)
    }
}
