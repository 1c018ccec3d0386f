//! Winograd's convolution F(2x2, 3x3), which computes four pixels with 16 products instead of 36.
//!
//! Its rounding error is similar to that of a direct convolution; larger tiles would be less accurate. The weight is
//! transformed again for each strip of the image, because a stored transform would take 16/9 of the weight's memory.

use rayon::prelude::*;

use super::cpu::zeros;
use super::geometry::{Geometry, Output, Run, runs};
use super::matmul::PackedMatrix;
use super::microkernel::{COLUMNS, ROWS, Tile, ZEROS, multiply};
use super::simd::simd;

/// Values of a transformed tile of 4x4 pixels.
const POINTS: usize = 16;

/// Number of elements of transformed tiles in memory at a time: 16 MiB.
const STRIP_ELEMENTS: usize = 4 << 20;

/// Number of elements of the transformed weight per thread: 512 KiB, to fit into the second-level cache.
const WEIGHT_ELEMENTS: usize = 128 << 10;

/// Whether this is faster than the direct convolution. Small images neither fill the panels of tiles nor amortize the
/// transform of the weight.
pub(super) fn is_faster(geometry: &Geometry) -> bool {
    const TRANSFORM: usize = 8;
    let tiles = geometry.batch * geometry.out_height.div_ceil(2) * geometry.out_width.div_ceil(2);
    let panels = |columns: usize| columns.div_ceil(COLUMNS);
    let winograd = POINTS * panels(tiles) * COLUMNS / 16 + TRANSFORM;
    let direct = 9 * panels(geometry.columns()) * COLUMNS / 16;
    geometry.size == 3 && geometry.stride == 1 && geometry.before == 1 && winograd < direct
}

/// Convolves with a packed weight of depth `channels * 9`.
pub(super) fn convolve(geometry: &Geometry, weight: &PackedMatrix<ROWS>, images: &[f32], output: &Output) {
    let tiles = geometry.batch * geometry.out_height.div_ceil(2) * geometry.out_width.div_ceil(2);
    let size = POINTS * geometry.channels * COLUMNS;
    let at_once = (STRIP_ELEMENTS / size).clamp(1, tiles.div_ceil(COLUMNS));
    let mut transformed = zeros(at_once * size);
    // Panels of the weight that are transformed together.
    let group = (WEIGHT_ELEMENTS / (POINTS * geometry.channels * ROWS)).clamp(1, 8);
    let groups: Vec<usize> = (0..weight.panels()).step_by(group).collect();
    for first in (0..tiles).step_by(at_once * COLUMNS) {
        let panels = at_once.min((tiles - first).div_ceil(COLUMNS));
        let strip = transformed.split_at_mut(panels * size).0;
        strip.par_chunks_exact_mut(size).enumerate().for_each(|(index, panel)| {
            transform_images(geometry, images, first + index * COLUMNS, panel);
        });
        groups.par_iter().for_each_init(
            || Group::new(geometry.channels, group),
            |scratch, &panel| {
                let panels = group.min(weight.panels() - panel);
                scratch.transform(weight, panel, panels);
                for (column, tiles) in strip.chunks_exact(size).enumerate() {
                    scratch.multiply(panels, tiles);
                    scratch.write(geometry, output, first + column * COLUMNS, panel, panels);
                }
            },
        );
    }
}

/// The buffers for a group of panels of the weight.
struct Group {
    channels: usize,
    /// `[panels][POINTS][channels][ROWS]`
    weights: Vec<f32>,
    /// The products of the panels with one panel of tiles.
    products: Vec<[Tile; POINTS]>,
    /// A part of a widened panel.
    widened: Vec<f32>,
}

/// Channels of a panel that are widened and transformed together.
const CHANNELS: usize = 64;

impl Group {
    fn new(channels: usize, panels: usize) -> Self {
        let weights = zeros(panels * POINTS * channels * ROWS);
        Group { channels, weights, products: vec![[ZEROS; POINTS]; panels], widened: Vec::new() }
    }

    /// Transforms `panels` panels of the weight, starting at `first`.
    fn transform(&mut self, weight: &PackedMatrix<ROWS>, first: usize, panels: usize) {
        let weights = self.weights.chunks_exact_mut(POINTS * self.channels * ROWS);
        for (panel, weights) in (first..).zip(weights).take(panels) {
            for channel in (0..self.channels).step_by(CHANNELS) {
                let part = weight.piece(panel, 9 * channel, 9 * CHANNELS, &mut self.widened);
                transform_weight(part, channel, self.channels, weights);
            }
        }
    }

    /// Multiplies the first `panels` panels with tiles `[POINTS][channels][COLUMNS]`.
    fn multiply(&mut self, panels: usize, tiles: &[f32]) {
        self.products.fill([ZEROS; POINTS]);
        let products = self.products.as_flattened_mut();
        for (point, tiles) in tiles.chunks_exact(self.channels * COLUMNS).enumerate() {
            let weights = self.weights.chunks_exact(self.channels * ROWS).skip(point).step_by(POINTS);
            for (product, weights) in products.iter_mut().skip(point).step_by(POINTS).zip(weights).take(panels) {
                multiply(weights, tiles, product);
            }
        }
    }

    /// Writes the products of the first `panels` panels, for the tiles starting at `tile`. `panel` is the position of
    /// the first panel in the weight.
    fn write(&self, geometry: &Geometry, output: &Output, tile: usize, panel: usize, panels: usize) {
        for (panel, products) in (panel..).zip(&self.products).take(panels) {
            write(geometry, output, tile, panel * ROWS, products);
        }
    }
}

simd! {
    /// Transforms a part `[..][9][ROWS]` of a panel of the weight, from the channel `first` on, to `[POINTS][channels][ROWS]`.
    fn transform_weight(panel: &[f32], first: usize, channels: usize, out: &mut [f32]) {
        let lines = panel.as_chunks::<ROWS>().0.as_chunks::<9>().0;
        let out = out.as_chunks_mut::<ROWS>().0;
        for (channel, [a, b, c, d, e, f, g, h, i]) in (first..).zip(lines) {
            // First down the columns, then along the rows.
            let (left, middle, right) = (spread(a, d, g), spread(b, e, h), spread(c, f, i));
            let rows = left.iter().zip(&middle).zip(&right);
            for (row, ((x, y), z)) in rows.enumerate() {
                for (column, values) in spread(x, y, z).into_iter().enumerate() {
                    #[expect(clippy::indexing_slicing, reason = "the point is less than 16, the channel than `channels`")]
                    {
                        out[(4 * row + column) * channels + channel] = values;
                    }
                }
            }
        }
    }
}

type Line = [f32; ROWS];

/// Transforms three coefficients to four.
#[inline(always)]
fn spread(x: &Line, y: &Line, z: &Line) -> [Line; 4] {
    let mut spread = [*x, [0.0; ROWS], [0.0; ROWS], *z];
    let [_, plus, minus, _] = &mut spread;
    for ((((plus, minus), x), y), z) in plus.iter_mut().zip(minus).zip(x).zip(y).zip(z) {
        let ends = 0.5 * (x + z);
        *plus = ends + 0.5 * y;
        *minus = ends - 0.5 * y;
    }
    spread
}

type Lane = [f32; COLUMNS];

simd! {
    /// Transforms the tiles of the image, starting at `first`, to `[POINTS][channels][COLUMNS]`.
    fn transform_images(geometry: &Geometry, images: &[f32], first: usize, panel: &mut [f32]) {
        let (high, wide) = (geometry.out_height.div_ceil(2), geometry.out_width.div_ceil(2));
        let runs: Vec<_> = runs(first, geometry.batch, high, wide).collect();
        let panel = panel.as_chunks_mut::<COLUMNS>().0;
        for channel in 0..geometry.channels {
            let mut pixels = [[[0f32; COLUMNS]; 4]; 4];
            for run in &runs {
                read_tiles(geometry, geometry.channel(images, run.image, channel), run, &mut pixels);
            }
            let [top, upper, lower, bottom] = &pixels;
            let rows = [
                combined(top, lower, |a, b| a - b),
                combined(upper, lower, |a, b| a + b),
                combined(lower, upper, |a, b| a - b),
                combined(upper, bottom, |a, b| a - b),
            ];
            for (row, [a, b, c, d]) in rows.iter().enumerate() {
                let points = [
                    lane(a, c, |a, c| a - c),
                    lane(b, c, |b, c| b + c),
                    lane(c, b, |c, b| c - b),
                    lane(b, d, |b, d| b - d),
                ];
                for (column, values) in points.into_iter().enumerate() {
                    #[expect(clippy::indexing_slicing, reason = "the point is less than 16, the channel than `channels`")]
                    {
                        panel[(4 * row + column) * geometry.channels + channel] = values;
                    }
                }
            }
        }
    }
}

/// Reads the 4x4 pixels of each tile of a run. Pixels outside of the image stay unchanged.
#[inline(always)]
fn read_tiles(geometry: &Geometry, plane: &[f32], run: &Run, pixels: &mut [[Lane; 4]; 4]) {
    for (row, lanes) in pixels.iter_mut().enumerate() {
        // Two pixels for each tile, and two more for the last one.
        let mut line = [0f32; 2 * COLUMNS + 2];
        let y = (2 * run.y + row) as isize - 1;
        let x = (2 * run.x) as isize - 1;
        geometry.read(plane, y, x, 1, line.split_at_mut(2 * run.len + 2).0);
        for (column, lane) in lanes.iter_mut().enumerate() {
            let from = line.split_at(column).1.iter().step_by(2);
            for (to, from) in run.of_mut(lane).iter_mut().zip(from) {
                *to = *from;
            }
        }
    }
}

#[inline(always)]
fn combined(first: &[Lane; 4], second: &[Lane; 4], f: impl Fn(f32, f32) -> f32) -> [Lane; 4] {
    let mut out = *first;
    for (out, second) in out.iter_mut().zip(second) {
        *out = lane(out, second, &f);
    }
    out
}

#[inline(always)]
fn lane(first: &Lane, second: &Lane, f: impl Fn(f32, f32) -> f32) -> Lane {
    let mut out = *first;
    for (out, second) in out.iter_mut().zip(second) {
        *out = f(*out, *second);
    }
    out
}

simd! {
    /// Transforms products back to pixels and writes them, for the tiles starting at `first` and the channels starting at
    /// `row`.
    fn write(geometry: &Geometry, output: &Output, first: usize, row: usize, products: &[Tile; POINTS]) {
        let (high, wide) = (geometry.out_height.div_ceil(2), geometry.out_width.div_ceil(2));
        for channel in 0..ROWS {
            let mut points = [[[0f32; COLUMNS]; 4]; 4];
            for (point, tile) in points.as_flattened_mut().iter_mut().zip(products) {
                #[expect(clippy::indexing_slicing, reason = "`channel` is less than the rows of a tile")]
                {
                    *point = tile[channel];
                }
            }
            let [a, b, c, d] = &points;
            let upper = combined(&combined(a, b, |a, b| a + b), c, |a, c| a + c);
            let lower = combined(&combined(b, c, |b, c| b - c), d, |b, d| b - d);
            for run in runs(first, geometry.batch, high, wide) {
                write_row(geometry, output, row + channel, &run, 2 * run.y, &upper);
                if 2 * run.y + 1 < geometry.out_height {
                    write_row(geometry, output, row + channel, &run, 2 * run.y + 1, &lower);
                }
            }
        }
    }
}

/// Writes the pixels of a run of tiles in row `y`.
#[inline(always)]
fn write_row(geometry: &Geometry, output: &Output, channel: usize, run: &Run, y: usize, points: &[Lane; 4]) {
    let mut line = [0f32; 2 * COLUMNS];
    let [a, b, c, d] = points;
    for ((((pair, a), b), c), d) in line.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *pair = [a + b + c, b - c - d];
    }
    // The last tile of an odd width has one column of pixels.
    let len = (2 * run.len).min(geometry.out_width - 2 * run.x);
    let values = line.split_at(2 * run.start).1.split_at(len).0;
    // SAFETY: each pixel belongs to one tile and each channel to one panel of the weight, and each pair of a tile and a
    // panel is written once.
    unsafe { output.put(run.image, channel, y * geometry.out_width + 2 * run.x, values) };
}
