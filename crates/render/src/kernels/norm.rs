//! Group normalization and layer normalization.

use bytemuck::NoUninit;
use candle_core::{D, DType, Result, Tensor, bail};

use super::accelerator::Launch;
use super::address::{address, address_mut};
use super::launch::{EIGHT, Kernels, THREADS, int, launch};
use super::pointwise::cast;

/// `GroupNorm` in `source/normalize.cuh`.
#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
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

/// Group normalization of an image.
pub(crate) struct GroupNorm {
    kernels: Kernels,
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    epsilon: f32,
}

/// Maximum number of chunks of an image. The moments of each chunk are computed separately.
const MOST_CHUNKS: usize = 256;

/// Minimum number of pixels of a chunk.
const LEAST_PIXELS: usize = 16;

impl GroupNorm {
    /// Creates a layer with one weight and one bias for each channel.
    ///
    /// Fails if the groups differ in size, or the channels are not a multiple of eight.
    pub(crate) fn new(kernels: &Kernels, weight: &Tensor, bias: &Tensor, groups: usize, epsilon: f64) -> Result<Self> {
        let channels = weight.elem_count();
        if bias.elem_count() != channels || !channels.is_multiple_of(groups) || !channels.is_multiple_of(EIGHT) {
            bail!(
                "no kernel for a group normalization of {channels} channels in {groups} groups, with the bias {bias:?}"
            )
        }
        Ok(GroupNorm {
            kernels: kernels.clone(),
            weight: cast(kernels, weight, DType::F32)?,
            bias: cast(kernels, bias, DType::F32)?,
            groups,
            epsilon: epsilon as f32,
        })
    }

    /// Normalizes an image `[batch, height, width, channels]`. With `silu`, applies `x * sigmoid(x)` to the result.
    pub(crate) fn forward(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let kernels = &self.kernels;
        let (batch, height, width, channels) = x.dims4()?;
        if channels != self.weight.elem_count() || x.dtype() != kernels.dtype {
            bail!("a group normalization of {} channels cannot process {x:?}", self.weight.elem_count())
        }
        let pixels = height * width;
        let chunk_pixels = pixels.div_ceil(MOST_CHUNKS).max(LEAST_PIXELS);
        let chunks = pixels.div_ceil(chunk_pixels);
        let moments = kernels.empty_f32(&[batch, chunks, self.groups, 2])?;
        let affine = kernels.empty_f32(&[batch, 2, channels])?;
        let out = kernels.empty(x.dims())?;
        let parameters = GroupParameters {
            x: address(x)?,
            out: address_mut(&out)?,
            weight: address(&self.weight)?,
            bias: address(&self.bias)?,
            moments: address_mut(&moments)?,
            affine: address_mut(&affine)?,
            batch: int(batch)?,
            pixels: int(pixels)?,
            channels: int(channels)?,
            groups: int(self.groups)?,
            chunks: int(chunks)?,
            chunk_pixels: int(chunk_pixels)?,
            epsilon: self.epsilon,
            silu: i32::from(silu),
        };
        // A sum for each channel and row of threads, and two for each group.
        let across = (channels / EIGHT).clamp(1, THREADS);
        let shared = (THREADS / across * channels + 2 * self.groups) * size_of::<f32>();
        let accelerator = &*kernels.accelerator;
        let affine_launch = Launch { kernel: "group_affine", grid: [batch, 1, 1], threads: THREADS, shared };
        // SAFETY: `GroupParameters` is the structure of the kernels, and all tensors have the sizes that it states, as
        // checked above and in `new`. `moments`, `affine` and `out` are newly allocated.
        unsafe {
            kernels.launch("group_moments", [chunks, batch, 1], THREADS, shared, &parameters)?;
            launch(accelerator, &affine_launch, &parameters)?;
            kernels.launch_each("group_apply", x.elem_count() / EIGHT, &parameters)?;
        }
        Ok(out)
    }
}

/// `LayerNorm` in `source/normalize.cuh`.
#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct LayerParameters {
    x: u64,
    out: u64,
    weight: u64,
    bias: u64,
    tokens: i32,
    width: i32,
    epsilon: f32,
    padding: u32,
}

/// Layer normalization of the last dimension.
pub(crate) struct LayerNorm {
    kernels: Kernels,
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// Creates a layer with one weight and one bias for each value of a token.
    ///
    /// Fails if the shapes do not match, or the width is not a multiple of eight.
    pub(crate) fn new(kernels: &Kernels, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Self> {
        let width = weight.elem_count();
        if bias.elem_count() != width || width == 0 || !width.is_multiple_of(EIGHT) {
            bail!("no kernel for a layer normalization of {width} values with the bias {bias:?}")
        }
        Ok(LayerNorm {
            kernels: kernels.clone(),
            weight: cast(kernels, weight, DType::F32)?,
            bias: cast(kernels, bias, DType::F32)?,
            epsilon,
        })
    }

    /// Normalizes each token.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        if x.dim(D::Minus1)? != width || x.dtype() != self.kernels.dtype {
            bail!("a layer normalization of {width} values cannot process {x:?}")
        }
        let out = self.kernels.empty(x.dims())?;
        let tokens = x.elem_count() / width;
        let parameters = LayerParameters {
            x: address(x)?,
            out: address_mut(&out)?,
            weight: address(&self.weight)?,
            bias: address(&self.bias)?,
            tokens: int(tokens)?,
            width: int(width)?,
            epsilon: self.epsilon,
            padding: 0,
        };
        let grid = [tokens.div_ceil(THREADS / 32), 1, 1];
        // SAFETY: `LayerParameters` is the kernel's structure, and all tensors have the sizes that it states, as
        // checked above and in `new`. `out` is newly allocated.
        unsafe { self.kernels.launch("layer_norm", grid, THREADS, 0, &parameters)? };
        Ok(out)
    }
}
