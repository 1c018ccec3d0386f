//! Convolutions and linear layers.

use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

use super::address::{address, address_mut, address_or_null};
use super::launch::{EIGHT, Kernels, int, padded};
use super::pointwise::arrange;

/// `Convolution` in `source/convolve.cuh`.
#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Parameters {
    x: u64,
    weight: u64,
    bias: u64,
    channels: u64,
    image: u64,
    out: u64,
    partial: u64,
    batch: i32,
    height: i32,
    width: i32,
    input: i32,
    out_height: i32,
    out_width: i32,
    out_channels: i32,
    size: i32,
    stride: i32,
    before: i32,
    upsampled: i32,
    splits: i32,
    keep_f32: i32,
    channels_stride: i32,
}

/// A convolution, or a linear layer, which is a convolution of size 1.
///
/// Inputs and results are channels-last. Their channels are padded to a multiple of eight by zeros.
pub(crate) struct Convolution {
    kernels: Kernels,
    /// `[out, size * size, in]`.
    weight: Tensor,
    /// `[out]`, in F32.
    bias: Option<Tensor>,
    size: usize,
}

/// The positions of a convolution's window on the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Pixels between adjacent windows.
    pub(crate) stride: usize,
    /// Zeros above and to the left.
    pub(crate) before: usize,
    /// Zeros below and to the right.
    pub(crate) after: usize,
    /// Whether the image is upsampled to twice its size by nearest neighbor.
    pub(crate) upsampled: bool,
}

impl Window {
    /// Returns the height and width of the result for a kernel of `size` and an image of `height` and `width`.
    ///
    /// Fails if the image is too small.
    fn results(self, size: usize, height: usize, width: usize) -> Result<(usize, usize)> {
        let around = self.before + self.after;
        let side = |side: usize| (side + around).checked_sub(size).map(|rest| rest / self.stride + 1);
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok((height, width)),
            _ => bail!("an image of {height}x{width} is too small for this convolution"),
        }
    }
}

/// The window of a linear layer.
const PIXEL: Window = Window { stride: 1, before: 0, after: 0, upsampled: false };

/// Summands that a convolution adds to its result before writing it.
#[derive(Default, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One value for each channel, in F32: `[1, out]` or `[batch, out]`. Rows may be apart in memory.
    pub(crate) channels: Option<&'a Tensor>,
    /// A tensor of the result's shape and dtype.
    pub(crate) image: Option<&'a Tensor>,
}

impl Convolution {
    /// Creates a layer with a weight `[out, in, size, size]` or `[out, in]` and a bias `[out]`, of any float dtype, on the
    /// CPU or on the accelerator.
    ///
    /// Fails if the shapes do not match.
    pub(crate) fn new(kernels: &Kernels, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, input, size) = match *weight.dims() {
            [out, input] => (out, input, 1),
            [out, input, size, other] if size == other => (out, input, size),
            _ => bail!("invalid weight for a convolution or linear layer: {weight:?}"),
        };
        let shape = [padded(out), size * size, padded(input)];
        let arranged = arrange(kernels, weight, [out, input, size * size], padded(input), &shape, kernels.dtype)?;
        let bias = bias
            .map(|bias| arrange(kernels, bias, [1, out, 1], padded(out), &[padded(out)], DType::F32))
            .transpose()?;
        Ok(Convolution { kernels: kernels.clone(), weight: arranged, bias, size })
    }

    /// Creates a layer without a bias from a matrix `[out, in]` of the layers' dtype on the accelerator.
    pub(super) fn from_matrix(kernels: &Kernels, matrix: &Tensor) -> Result<Self> {
        let (out, input) = matrix.dims2()?;
        Ok(Convolution { kernels: kernels.clone(), weight: matrix.reshape((out, 1, input))?, bias: None, size: 1 })
    }

    /// Convolves an image `[batch, height, width, in]`.
    pub(crate) fn forward(&self, x: &Tensor, window: Window, epilogue: Epilogue<'_>) -> Result<Tensor> {
        let (batch, mut height, mut width, _) = x.dims4()?;
        if window.upsampled {
            (height, width) = (2 * height, 2 * width);
        }
        let (out_height, out_width) = window.results(self.size, height, width)?;
        let out_channels = self.weight.dim(0)?;
        let out = self.kernels.empty(&[batch, out_height, out_width, out_channels])?;
        self.run(x, [batch, height, width], window, epilogue, &out)?;
        Ok(out)
    }

    /// Applies a linear layer to tokens `[.., in]`, and adds a tensor of the result's shape.
    pub(crate) fn forward_tokens(&self, x: &Tensor, image: Option<&Tensor>) -> Result<Tensor> {
        let (dims, rows) = self.rows(x)?;
        let out = self.kernels.empty(&dims)?;
        self.run(x, [1, 1, rows], PIXEL, Epilogue { channels: None, image }, &out)?;
        Ok(out)
    }

    /// Applies a linear layer to tokens `[.., in]`, with the result in F32.
    pub(crate) fn forward_to_f32(&self, x: &Tensor) -> Result<Tensor> {
        let (dims, rows) = self.rows(x)?;
        let out = self.kernels.empty_f32(&dims)?;
        self.run(x, [1, 1, rows], PIXEL, Epilogue::default(), &out)?;
        Ok(out)
    }

    /// Returns the shape of the result for tokens `[.., in]`, and the number of tokens.
    fn rows(&self, x: &Tensor) -> Result<(Vec<usize>, usize)> {
        let (out, _, input) = self.weight.dims3()?;
        match x.dims() {
            [tokens @ .., last] if *last == input => {
                let dims = tokens.iter().copied().chain([out]).collect();
                Ok((dims, tokens.iter().product()))
            }
            _ => bail!("a linear layer with {input} inputs cannot process {x:?}"),
        }
    }

    fn run(&self, x: &Tensor, size: [usize; 3], window: Window, epilogue: Epilogue<'_>, out: &Tensor) -> Result<()> {
        let kernels = &self.kernels;
        let (out_channels, taps, input) = self.weight.dims3()?;
        let [batch, height, width] = size;
        let (out_height, out_width) = window.results(self.size, height, width)?;
        let rows = batch * out_height * out_width;
        let stored = if window.upsampled { height / 2 * (width / 2) } else { height * width };
        let fits = x.elem_count() == batch * stored * input
            && out.elem_count() == rows * out_channels
            && epilogue
                .image
                .is_none_or(|image| image.elem_count() == rows * out_channels && image.dtype() == kernels.dtype)
            && epilogue.channels.is_none_or(|it| {
                matches!(*it.dims(), [images, channels] if channels == out_channels && (images == 1 || images == batch))
                    && it.dtype() == DType::F32
            })
            && x.dtype() == kernels.dtype
            && input.is_multiple_of(EIGHT)
            && out_channels.is_multiple_of(EIGHT);
        if !fits {
            bail!("a convolution with the weight {:?} cannot map {x:?} to {out:?}", self.weight.dims())
        }
        // The channels of the first image, and the distance to those of the next.
        let (channels, channels_stride) = match epilogue.channels {
            Some(channels) => {
                let images = channels.dim(0)?;
                let stride = channels.stride().first().copied().filter(|_| images > 1).unwrap_or(0);
                (Some(channels.narrow(0, 0, 1)?), stride)
            }
            None => (None, 0),
        };
        let depth = taps * input;
        let row_elements = ROW_BYTES / kernels.dtype.size_in_bytes();
        let plan =
            Plan::choose(rows, out_channels, depth.div_ceil(row_elements), kernels.accelerator.multiprocessors());
        let partial = if plan.splits > 1 { Some(kernels.empty_f32(&[plan.splits, rows, out_channels])?) } else { None };
        let parameters = Parameters {
            x: address(x)?,
            weight: address(&self.weight)?,
            bias: address_or_null(self.bias.as_ref())?,
            channels: address_or_null(channels.as_ref())?,
            image: address_or_null(epilogue.image)?,
            out: address_mut(out)?,
            partial: partial.as_ref().map_or(Ok(0), address_mut)?,
            batch: int(batch)?,
            height: int(height)?,
            width: int(width)?,
            input: int(input)?,
            out_height: int(out_height)?,
            out_width: int(out_width)?,
            out_channels: int(out_channels)?,
            size: int(self.size)?,
            stride: int(window.stride)?,
            before: int(window.before)?,
            upsampled: i32::from(window.upsampled),
            splits: int(plan.splits)?,
            keep_f32: i32::from(out.dtype() == DType::F32),
            channels_stride: int(channels_stride)?,
        };
        let tile = plan.tile;
        let grid = [rows.div_ceil(tile.rows), out_channels.div_ceil(tile.columns), plan.splits];
        // SAFETY: `Parameters` is the kernel's structure, and all tensors have the sizes that it states, as checked
        // above. `partial` is newly allocated, and the callers pass a newly allocated `out`.
        unsafe { kernels.launch(tile.kernel, grid, tile.threads, tile.shared(), &parameters)? };
        if plan.splits > 1 {
            // SAFETY: as above.
            unsafe { kernels.launch_each("sum_splits", rows * out_channels / EIGHT, &parameters)? };
        }
        Ok(())
    }
}

/// Number of bytes of the depth per step of the kernel.
const ROW_BYTES: usize = 128;

/// A kernel, and the size of the part of the result that each block computes.
#[derive(Debug, PartialEq)]
struct Tile {
    kernel: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
    /// Number of steps of the depth in shared memory at the same time.
    stages: usize,
    /// Throughput relative to the largest tile. An estimate from the shared memory reads per product; not measured on a
    /// GPU.
    throughput: f64,
}

impl Tile {
    /// Returns the shared memory of a block in bytes.
    fn shared(&self) -> usize {
        (self.rows + self.columns) * ROW_BYTES * self.stages
    }
}

const TILES: [Tile; 3] = [
    Tile { kernel: "convolve_128x128", rows: 128, columns: 128, threads: 128, stages: 3, throughput: 1.0 },
    Tile { kernel: "convolve_128x64", rows: 128, columns: 64, threads: 128, stages: 3, throughput: 0.9 },
    Tile { kernel: "convolve_64x64", rows: 64, columns: 64, threads: 128, stages: 4, throughput: 0.7 },
];

/// The kernel for a product, and the number of parts into which its depth is split.
#[derive(Debug, PartialEq)]
struct Plan {
    tile: &'static Tile,
    splits: usize,
}

impl Plan {
    /// Returns the plan with the lowest estimated time: the tiles of the busiest multiprocessor, plus the cost of
    /// splitting. The constants are estimates.
    fn choose(rows: usize, columns: usize, steps: usize, multiprocessors: usize) -> Plan {
        // In units of one step of one value in the largest tile.
        const FILL: f64 = 4.0;
        const SUM_LAUNCH: f64 = 60_000.0;
        const SUM_ELEMENT: f64 = 0.13;
        let mut best = (f64::INFINITY, Plan { tile: &TILES[0], splits: 1 });
        for tile in &TILES {
            for splits in [1, 2, 3, 4, 6, 8, 12, 16] {
                if splits > 1 && steps < 4 * splits {
                    break;
                }
                let tiles = rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns) * splits;
                let busiest_tiles = tiles.div_ceil(multiprocessors.max(1)) as f64;
                let steps = steps.div_ceil(splits) as f64 + FILL;
                let mut cost = busiest_tiles * steps * (tile.rows * tile.columns) as f64 / tile.throughput;
                if splits > 1 {
                    cost += SUM_LAUNCH + SUM_ELEMENT * (splits * rows * columns) as f64;
                }
                if cost < best.0 {
                    best = (cost, Plan { tile, splits });
                }
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_results_use_large_tiles_and_small_results_split_the_depth() {
        // 128 channels at 512x512, as at the end of the VAE; 1280 channels at 8x8, as in the middle of the UNet.
        let large = Plan::choose(512 * 512, 128, 18, 132);
        assert_eq!((large.tile.kernel, large.splits), ("convolve_128x128", 1));
        let small = Plan::choose(2 * 8 * 8, 1280, 180, 132);
        assert!(small.splits > 1, "{small:?}");
    }

    #[test]
    fn every_tile_fits_into_the_shared_memory_of_every_supported_gpu() {
        assert!(TILES.iter().all(|tile| tile.shared() <= 99 << 10));
    }
}
