//! Winograd's convolution F(2x2, 3x3): four pixels by 16 products instead of 36.
//!
//! Its rounding is about that of the direct way, which larger tiles lose. The weight is transformed anew for each
//! strip of the image: kept, it would take 16/9 of the memory.

use rayon::prelude::*;

use super::cpu::zeros;
use super::geometry::{Geometry, Output, runs};
use super::kernel::{COLUMNS, ROWS, Tile, ZEROS, multiply, vectorized};
use super::product::Panels;

/// Products of a tile.
const POINTS: usize = 16;

/// Elements of transformed tiles that are held at a time: 16 MiB.
const HELD: usize = 4 << 20;

/// Elements of transformed weight that a thread holds: half a MiB, for the second-level cache.
const WEIGHT: usize = 128 << 10;

/// Whether it takes less time than the direct way: few pixels fill no panels of tiles, and do not pay for the
/// transformation of the weight.
pub(super) fn pays(geometry: &Geometry) -> bool {
    let tiles = geometry.batch * geometry.out_height.div_ceil(2) * geometry.out_width.div_ceil(2);
    let panels = |columns: usize| columns.div_ceil(COLUMNS);
    const TRANSFORM: usize = 8;
    let here = POINTS * panels(tiles) * COLUMNS / 16 + TRANSFORM;
    let direct = 9 * panels(geometry.columns()) * COLUMNS / 16;
    geometry.size == 3 && geometry.stride == 1 && geometry.before == 1 && here < direct
}

/// Convolves with a weight of depth `channels * 9`.
pub(super) fn convolve(geometry: &Geometry, weight: &Panels, images: &[f32], output: &Output) {
    let (high, wide) = (geometry.out_height.div_ceil(2), geometry.out_width.div_ceil(2));
    let tiles = geometry.batch * high * wide;
    let size = POINTS * geometry.channels * COLUMNS;
    let at_once = (HELD / size.max(1)).clamp(1, tiles.div_ceil(COLUMNS));
    let mut held = zeros(at_once * size);
    // Rows of the weight that are transformed together.
    let transformed = POINTS * geometry.channels * ROWS;
    let group = (WEIGHT / transformed.max(1)).clamp(1, 8);
    let groups: Vec<_> = weight.panels().collect();
    for first in (0..tiles).step_by(at_once * COLUMNS) {
        let panels = at_once.min((tiles - first).div_ceil(COLUMNS));
        let strip = held.get_mut(..panels * size).unwrap_or_default();
        strip.par_chunks_mut(size).enumerate().for_each(|(index, panel)| {
            vectorized(|| transform_images(geometry, images, first + index * COLUMNS, panel));
        });
        let strip = held.get(..panels * size).unwrap_or_default();
        groups.par_chunks(group).enumerate().for_each_init(
            || (zeros(group * transformed), vec![[ZEROS; POINTS]; group]),
            |(weights, sums), (index, panels)| {
                for (panel, weights) in panels.iter().zip(weights.chunks_mut(transformed)) {
                    vectorized(|| transform_weight(panel, weights));
                }
                for (column, tiles) in strip.chunks(size).enumerate() {
                    sums.fill([ZEROS; POINTS]);
                    for (point, tiles) in tiles.chunks(geometry.channels * COLUMNS).enumerate() {
                        for (sums, weights) in sums.iter_mut().zip(weights.chunks(transformed)).take(panels.len()) {
                            let mut points = weights.chunks(geometry.channels * ROWS);
                            if let (Some(sum), Some(weights)) = (sums.get_mut(point), points.nth(point)) {
                                multiply(weights, tiles, sum);
                            }
                        }
                    }
                    for (row, sums) in (index * group..).zip(sums.iter()).take(panels.len()) {
                        vectorized(|| write(geometry, output, first + column * COLUMNS, row * ROWS, sums));
                    }
                }
            },
        );
    }
}

/// A panel of the weight `[channels][9][ROWS]` as `[POINTS][channels][ROWS]`.
#[inline(always)]
fn transform_weight(panel: &[f32], out: &mut [f32]) {
    let channels = panel.len() / (9 * ROWS);
    let lines = panel.as_chunks::<ROWS>().0.as_chunks::<9>().0;
    let out = out.as_chunks_mut::<ROWS>().0;
    for (channel, [a, b, c, d, e, f, g, h, i]) in lines.iter().enumerate() {
        // Down the columns, and then along the rows.
        let columns = [[a, d, g], [b, e, h], [c, f, i]].map(|[x, y, z]| spread(x, y, z));
        let [left, middle, right] = columns;
        let rows = left.iter().zip(&middle).zip(&right);
        for (row, ((x, y), z)) in rows.enumerate() {
            for (column, values) in spread(x, y, z).into_iter().enumerate() {
                if let Some(place) = out.get_mut((4 * row + column) * channels + channel) {
                    *place = values;
                }
            }
        }
    }
}

type Line = [f32; ROWS];

/// Three coefficients as four.
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

/// Tiles of the image, from `first` on, as `[POINTS][channels][COLUMNS]`.
#[inline(always)]
fn transform_images(geometry: &Geometry, images: &[f32], first: usize, panel: &mut [f32]) {
    let (high, wide) = (geometry.out_height.div_ceil(2), geometry.out_width.div_ceil(2));
    let runs: Vec<_> = runs(first, geometry.batch, high, wide).collect();
    let panel = panel.as_chunks_mut::<COLUMNS>().0;
    for channel in 0..geometry.channels {
        let mut pixels = [[[0f32; COLUMNS]; 4]; 4];
        for run in &runs {
            let plane = geometry.channel(images, run.image, channel);
            for (row, lanes) in pixels.iter_mut().enumerate() {
                // Two pixels for each tile, and two that the last one shares with the next.
                let mut line = [0f32; 2 * COLUMNS + 2];
                let y = (2 * run.y + row) as isize - 1;
                let x = (2 * run.x) as isize - 1;
                geometry.read(plane, y, x, 1, line.get_mut(..2 * run.len + 2).unwrap_or_default());
                for (column, lane) in lanes.iter_mut().enumerate() {
                    let from = line.split_at(column).1.iter().step_by(2);
                    let to = lane.get_mut(run.at..run.at + run.len).unwrap_or_default();
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
        let [top, upper, lower, bottom] = &pixels;
        let differences = |first: &[Lane; 4], second: &[Lane; 4]| combined(first, second, |a, b| a - b);
        let rows = [
            differences(top, lower),
            combined(upper, lower, |a, b| a + b),
            differences(lower, upper),
            differences(upper, bottom),
        ];
        for (row, [a, b, c, d]) in rows.iter().enumerate() {
            let points = [
                lane(a, c, |a, c| a - c),
                lane(b, c, |b, c| b + c),
                lane(c, b, |c, b| c - b),
                lane(b, d, |b, d| b - d),
            ];
            for (column, values) in points.into_iter().enumerate() {
                if let Some(place) = panel.get_mut((4 * row + column) * geometry.channels + channel) {
                    *place = values;
                }
            }
        }
    }
}

#[inline(always)]
fn combined(first: &[Lane; 4], second: &[Lane; 4], f: impl Fn(f32, f32) -> f32) -> [Lane; 4] {
    let mut out = *first;
    out.iter_mut().zip(second).for_each(|(out, second)| *out = lane(out, second, &f));
    out
}

#[inline(always)]
fn lane(first: &Lane, second: &Lane, f: impl Fn(f32, f32) -> f32) -> Lane {
    let mut out = *first;
    out.iter_mut().zip(second).for_each(|(out, second)| *out = f(*out, *second));
    out
}

/// Turns the products back into pixels and writes those of the tiles from `first` on, of the channels from `row` on.
#[inline(always)]
fn write(geometry: &Geometry, output: &Output, first: usize, row: usize, sums: &[Tile; POINTS]) {
    let (high, wide) = (geometry.out_height.div_ceil(2), geometry.out_width.div_ceil(2));
    for channel in 0..ROWS {
        let mut points = [[0f32; COLUMNS]; POINTS];
        for (point, tile) in points.iter_mut().zip(sums) {
            if let Some(line) = tile.get(channel) {
                *point = *line;
            }
        }
        let [rows, ..] = points.as_chunks::<4>().0.as_chunks::<4>().0 else { return };
        let [a, b, c, d] = rows;
        let upper = combined(&combined(a, b, |a, b| a + b), c, |a, c| a + c);
        let lower = combined(&combined(b, c, |b, c| b - c), d, |b, d| b - d);
        for run in runs(first, geometry.batch, high, wide) {
            for (below, [a, b, c, d]) in [&upper, &lower].into_iter().enumerate() {
                let y = 2 * run.y + below;
                if y >= geometry.out_height {
                    continue;
                }
                let mut line = [0f32; 2 * COLUMNS];
                for ((((pair, a), b), c), d) in line.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    *pair = [a + b + c, b - c - d];
                }
                let len = (2 * run.len).min(geometry.out_width - 2 * run.x);
                let values = line.get_mut(2 * run.at..2 * run.at + len).unwrap_or_default();
                // SAFETY: these pixels are in no other tile, and these channels in no other panel of the weight.
                unsafe { output.put(run.image, row + channel, y * geometry.out_width + 2 * run.x, values) };
            }
        }
    }
}
