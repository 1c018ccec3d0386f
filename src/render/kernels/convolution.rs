//! Convolutions and linear layers.

use candle_core::{DType, Result, Tensor, bail};

use super::pointwise::arrange;
use super::{EIGHT, Kernels, address, address_or_null, int, padded};

/// As `Convolution` in `source/convolve.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
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
    doubled: i32,
    splits: i32,
    keep_f32: i32,
}

/// A convolution, or a linear layer, which is one of size 1. Inputs and results have their channels last, and as many
/// of them as the next multiple of eight says; those that are too many are zeros.
pub(in crate::render) struct Convolution {
    kernels: Kernels,
    /// `[out, size * size, in]`.
    weight: Tensor,
    /// F32, `[out]`.
    bias: Option<Tensor>,
    size: usize,
}

/// How the window goes over the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::render) struct Window {
    /// Pixels from one window to the next.
    pub(in crate::render) stride: usize,
    /// Zeros above and to the left.
    pub(in crate::render) before: usize,
    /// Zeros below and to the right.
    pub(in crate::render) after: usize,
    /// Whether each pixel is taken four times.
    pub(in crate::render) doubled: bool,
}

impl Window {
    /// Height and width of what a convolution of this size makes of an image.
    fn results(self, size: usize, height: usize, width: usize) -> Result<(usize, usize)> {
        let around = self.before + self.after;
        let side = |side: usize| (side + around).checked_sub(size).map(|room| room / self.stride + 1);
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok((height, width)),
            _ => bail!("an image of {height}x{width} is too small for this convolution"),
        }
    }
}

/// The window of linear layers.
const PIXEL: Window = Window { stride: 1, before: 0, after: 0, doubled: false };

/// What is added to the result while it is written.
#[derive(Default, Clone, Copy)]
pub(in crate::render) struct Onto<'a> {
    /// F32, a value for each channel.
    pub(in crate::render) channels: Option<&'a Tensor>,
    /// A tensor like the result.
    pub(in crate::render) image: Option<&'a Tensor>,
}

impl Convolution {
    /// With a weight of `[out, in, size, size]` or `[out, in]` and a bias of `[out]`, of any type and on any machine.
    pub(in crate::render) fn new(kernels: &Kernels, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, input, size) = match *weight.dims() {
            [out, input] => (out, input, 1),
            [out, input, size, other] if size == other => (out, input, size),
            _ => bail!("no convolution has a weight like {weight:?}"),
        };
        let shape = [padded(out), size * size, padded(input)];
        let arranged = arrange(kernels, weight, [out, input, size * size], padded(input), &shape, kernels.dtype)?;
        let bias = bias
            .map(|bias| arrange(kernels, bias, [1, out, 1], padded(out), &[padded(out)], DType::F32))
            .transpose()?;
        Ok(Convolution { kernels: kernels.clone(), weight: arranged, bias, size })
    }

    /// A product with a matrix `[out, in]` that is there already, in the type of the layers.
    pub(super) fn of_matrix(kernels: &Kernels, matrix: &Tensor) -> Result<Self> {
        let (out, input) = matrix.dims2()?;
        Ok(Convolution { kernels: kernels.clone(), weight: matrix.reshape((out, 1, input))?, bias: None, size: 1 })
    }

    /// Of an image `[batch, height, width, in]`.
    pub(in crate::render) fn forward(&self, x: &Tensor, window: Window, onto: Onto<'_>) -> Result<Tensor> {
        let (batch, mut height, mut width, _) = x.dims4()?;
        if window.doubled {
            (height, width) = (2 * height, 2 * width);
        }
        let (out_height, out_width) = window.results(self.size, height, width)?;
        let out = self.kernels.empty(&[batch, out_height, out_width, self.out()])?;
        self.run(x, [batch, height, width], window, onto, &out)?;
        Ok(out)
    }

    /// Of tokens `[.., in]`.
    pub(in crate::render) fn forward_tokens(&self, x: &Tensor, image: Option<&Tensor>) -> Result<Tensor> {
        let (dims, rows) = self.rows(x)?;
        let out = self.kernels.empty(&dims)?;
        self.run(x, [1, 1, rows], PIXEL, Onto { channels: None, image }, &out)?;
        Ok(out)
    }

    /// As [`Convolution::forward_tokens`], with a result of F32.
    pub(in crate::render) fn forward_to_f32(&self, x: &Tensor) -> Result<Tensor> {
        let (dims, rows) = self.rows(x)?;
        let out = self.kernels.empty_f32(&dims)?;
        self.run(x, [1, 1, rows], PIXEL, Onto::default(), &out)?;
        Ok(out)
    }

    fn out(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or_default()
    }

    /// The shape of the result, and how many tokens there are.
    fn rows(&self, x: &Tensor) -> Result<(Vec<usize>, usize)> {
        let mut dims = x.dims().to_vec();
        let input = dims.pop().unwrap_or_default().max(1);
        dims.push(self.out());
        Ok((dims, x.elem_count() / input))
    }

    fn run(&self, x: &Tensor, seen: [usize; 3], window: Window, onto: Onto<'_>, out: &Tensor) -> Result<()> {
        let kernels = &self.kernels;
        let (out_channels, taps, input) = self.weight.dims3()?;
        let [batch, height, width] = seen;
        let (out_height, out_width) = window.results(self.size, height, width)?;
        let rows = batch * out_height * out_width;
        let real = if window.doubled { height / 2 * (width / 2) } else { height * width };
        let fits = x.elem_count() == batch * real * input
            && out.elem_count() == rows * out_channels
            && onto
                .image
                .is_none_or(|image| image.elem_count() == rows * out_channels && image.dtype() == kernels.dtype)
            && onto.channels.is_none_or(|it| it.elem_count() == out_channels && it.dtype() == DType::F32)
            && x.dtype() == kernels.dtype
            && input.is_multiple_of(EIGHT)
            && out_channels.is_multiple_of(EIGHT);
        if !fits {
            bail!("a convolution with a weight of {:?} does not take {x:?} to {out:?}", self.weight.dims())
        }
        let depth = taps * input;
        let row_elements = ROW_BYTES / kernels.dtype.size_in_bytes();
        let plan = Plan::of(rows, out_channels, depth.div_ceil(row_elements), kernels.machine.multiprocessors());
        let partial = if plan.splits > 1 { Some(kernels.empty_f32(&[plan.splits, rows, out_channels])?) } else { None };
        let parameters = Parameters {
            x: address(x)?,
            weight: address(&self.weight)?,
            bias: address_or_null(self.bias.as_ref())?,
            channels: address_or_null(onto.channels)?,
            image: address_or_null(onto.image)?,
            out: address(out)?,
            partial: address_or_null(partial.as_ref())?,
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
            doubled: i32::from(window.doubled),
            splits: int(plan.splits)?,
            keep_f32: i32::from(out.dtype() == DType::F32),
        };
        let tile = plan.tile;
        let grid = [rows.div_ceil(tile.rows), out_channels.div_ceil(tile.columns), plan.splits];
        // SAFETY: every tensor has the size that the kernel is told, as was compared above.
        unsafe { kernels.launch(tile.kernel, grid, tile.threads, tile.shared(), &parameters)? };
        if plan.splits > 1 {
            // SAFETY: the same tensors.
            unsafe { kernels.launch_each("sum_splits", rows * out_channels / EIGHT, &parameters)? };
        }
        Ok(())
    }
}

/// Bytes of the depth that a step takes.
const ROW_BYTES: usize = 128;

/// A kernel by the part of the result that a block makes.
#[derive(Debug, PartialEq)]
struct Tile {
    kernel: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
    /// Steps of the depth that lie in shared memory at a time.
    stages: usize,
    /// How much it makes of a multiprocessor's arithmetic, against the largest. A guess from the values that are read
    /// from shared memory for each product; no card has measured it.
    worth: f64,
}

impl Tile {
    fn shared(&self) -> usize {
        (self.rows + self.columns) * ROW_BYTES * self.stages
    }
}

const TILES: [Tile; 3] = [
    Tile { kernel: "convolve_128x128", rows: 128, columns: 128, threads: 128, stages: 3, worth: 1.0 },
    Tile { kernel: "convolve_128x64", rows: 128, columns: 64, threads: 128, stages: 3, worth: 0.9 },
    Tile { kernel: "convolve_64x64", rows: 64, columns: 64, threads: 128, stages: 4, worth: 0.7 },
];

/// Who makes the result, and in how many parts of the depth.
#[derive(Debug, PartialEq)]
struct Plan {
    tile: &'static Tile,
    splits: usize,
}

impl Plan {
    /// The quickest one, by an estimate: the busiest multiprocessor's share of the tiles, and what is lost by splitting.
    fn of(rows: usize, columns: usize, steps: usize, multiprocessors: usize) -> Plan {
        // In units of one value's step in the largest tile.
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
                let of_busiest = tiles.div_ceil(multiprocessors.max(1)) as f64;
                let steps = steps.div_ceil(splits) as f64 + FILL;
                let mut cost = of_busiest * steps * (tile.rows * tile.columns) as f64 / tile.worth;
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
    fn large_results_take_large_tiles_and_small_ones_split_their_depth() {
        // 128 channels at 512x512, as the autoencoder ends; 1280 channels at 8x8, as the UNet has them in its middle.
        let large = Plan::of(512 * 512, 128, 18, 132);
        assert_eq!((large.tile.kernel, large.splits), ("convolve_128x128", 1));
        let small = Plan::of(2 * 8 * 8, 1280, 180, 132);
        assert!(small.splits > 1, "{small:?}");
    }

    #[test]
    fn every_tile_fits_into_the_shared_memory_of_every_card() {
        assert!(TILES.iter().all(|tile| tile.shared() <= 99 << 10));
    }
}
