//! Multiplies a packed weight with columns that are gathered panel by panel.
//!
//! The tiles of the microkernel are wider than high. A convolution packs the rows of its weight in panels of [`ROWS`], and a
//! tile has a line of pixels for each output channel. A linear layer packs them in panels of [`COLUMNS`], and a tile has a
//! line of outputs for each token. So the lines of a tile are always adjacent in the result.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::zeros;
use super::elements::{Arrange, Elements};
use super::microkernel::{COLUMNS, ROWS, Tile, ZEROS, multiply};

/// Number of gathered elements in memory at a time: 8 MiB, the size of common third-level caches.
const STRIP_ELEMENTS: usize = 2 << 20;

/// Depth of the pieces in which panels are multiplied.
const DEPTH: usize = 256;

/// Panels of the weight, and of the columns, in one unit of work. The wider panels of a unit, `DEPTH` deep, are 256 KiB:
/// they stay in the second-level cache.
const GROUP: usize = 8;

/// A matrix `[rows, depth]` stored in panels `[depth][SIDE]`, where `SIDE` is [`ROWS`] or [`COLUMNS`]. The last panel is
/// padded with zeros.
pub(super) struct PackedMatrix<const SIDE: usize> {
    rows: usize,
    depth: usize,
    elements: Elements,
}

/// Arranges the rows of a matrix in panels `[depth][SIDE]`.
struct Panels<const SIDE: usize> {
    depth: usize,
}

impl<const SIDE: usize> Arrange for Panels<SIDE> {
    fn arrange<T: Copy + Default + Send + Sync>(&self, matrix: &[T]) -> Result<Vec<T>> {
        let depth = self.depth;
        let rows = matrix.len() / depth;
        let mut elements = vec![T::default(); rows.div_ceil(SIDE) * SIDE * depth];
        let panels = elements.chunks_exact_mut(SIDE * depth);
        panels.zip(matrix.chunks(SIDE * depth)).for_each(|(panel, rows)| pack::<SIDE, T>(rows, depth, panel));
        Ok(elements)
    }
}

impl<const SIDE: usize> PackedMatrix<SIDE> {
    /// Columns in a panel that is multiplied with one of this matrix.
    const OTHER: usize = ROWS + COLUMNS - SIDE;

    /// Packs the elements of a tensor, in row-major order.
    ///
    /// Fails if `depth` is zero or does not divide the number of elements.
    pub(super) fn new(matrix: &Tensor, depth: usize) -> Result<Self> {
        let count = matrix.elem_count();
        if depth == 0 || !count.is_multiple_of(depth) {
            bail!("a weight of {count} values cannot have rows of {depth}")
        }
        Ok(PackedMatrix { rows: count / depth, depth, elements: Elements::of(matrix, &Panels::<SIDE> { depth })? })
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns, at least 1.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The number of panels.
    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(SIDE)
    }

    /// Returns the part of a panel from `depth` on, of at most `count` lines. Uses `buffer` to widen it.
    #[inline]
    pub(super) fn piece<'a>(&'a self, panel: usize, depth: usize, count: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let count = count.min(self.depth - depth.min(self.depth));
        let start = (panel * self.depth + depth) * SIDE;
        self.elements.widened(start..start + count * SIDE, buffer)
    }

    /// Multiplies the matrix with `columns` columns.
    ///
    /// `gather(column, panel)` fills a zeroed panel `[depth][ROWS or COLUMNS]`, whichever is not `SIDE`, with the columns
    /// starting at `column`. `put(row, column, tile)` receives each tile of the product exactly once, from several threads:
    /// the product if `SIDE` is [`ROWS`], and its transpose if `SIDE` is [`COLUMNS`]. The tiles at the edges extend beyond
    /// the product.
    pub(super) fn multiply(
        &self,
        columns: usize,
        gather: impl Fn(usize, &mut [f32]) + Sync,
        put: impl Fn(usize, usize, &Tile) + Sync,
    ) {
        let size = Self::OTHER * self.depth;
        let at_once = (STRIP_ELEMENTS / size).clamp(1, columns.div_ceil(Self::OTHER).max(1));
        let mut gathered = zeros(at_once * size);
        for first in (0..columns).step_by(at_once * Self::OTHER) {
            let panels = at_once.min((columns - first).div_ceil(Self::OTHER));
            let strip = gathered.split_at_mut(panels * size).0;
            strip.par_chunks_exact_mut(size).enumerate().for_each(|(index, panel)| {
                panel.fill(0.0);
                gather(first + index * Self::OTHER, panel);
            });
            self.multiply_strip(strip, &|row, column, tile: &Tile| put(row, first + column, tile));
        }
    }

    fn multiply_strip(&self, columns: &[f32], put: &(impl Fn(usize, usize, &Tile) + Sync)) {
        let size = Self::OTHER * self.depth;
        let groups = columns.chunks(GROUP * size).enumerate();
        let rows: Vec<usize> = (0..self.panels()).step_by(GROUP).collect();
        let work: Vec<_> = groups.flat_map(|columns| rows.iter().map(move |row| (*row, columns))).collect();
        work.into_par_iter().for_each_init(
            || (vec![ZEROS; GROUP * GROUP], Vec::new()),
            |(tiles, buffer), (first, (column, columns))| {
                tiles.fill(ZEROS);
                let panels = first..self.panels().min(first + GROUP);
                for depth in (0..self.depth).step_by(DEPTH) {
                    for (panel, tiles) in panels.clone().zip(tiles.chunks_mut(GROUP)) {
                        let rows = self.piece(panel, depth, DEPTH, buffer);
                        for (column, tile) in columns.chunks_exact(size).zip(tiles) {
                            let column = piece(column, Self::OTHER, depth);
                            if SIDE == ROWS { multiply(rows, column, tile) } else { multiply(column, rows, tile) }
                        }
                    }
                }
                for (panel, tiles) in panels.zip(tiles.chunks(GROUP)) {
                    for ((_, column), tile) in columns.chunks_exact(size).zip(column * GROUP..).zip(tiles) {
                        put(panel * SIDE, column * Self::OTHER, tile);
                    }
                }
            },
        );
    }
}

/// Returns the part of a panel `[..][size]` between `depth` and `depth + DEPTH`.
fn piece(panel: &[f32], size: usize, depth: usize) -> &[f32] {
    let rest = panel.split_at(depth * size).1;
    rest.split_at(rest.len().min(DEPTH * size)).0
}

/// Transposes at most `N` rows of `depth` elements, which is at least 1, into a panel `[depth][N]`.
pub(super) fn pack<const N: usize, T: Copy>(rows: &[T], depth: usize, panel: &mut [T]) {
    for (index, row) in rows.chunks(depth).enumerate().take(N) {
        pack_row::<N, T>(row, index, panel);
    }
}

/// Writes one row as the column `index`, less than `N`, of a panel `[depth][N]`.
pub(super) fn pack_row<const N: usize, T: Copy>(row: &[T], index: usize, panel: &mut [T]) {
    for (value, line) in row.iter().zip(panel.as_chunks_mut::<N>().0) {
        #[expect(clippy::indexing_slicing, reason = "the contract: `index` is less than `N`")]
        {
            line[index] = *value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_depth_that_does_not_fit() {
        let six = Tensor::zeros(6, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        for depth in [0, 4] {
            assert!(PackedMatrix::<ROWS>::new(&six, depth).is_err());
        }
    }
}
