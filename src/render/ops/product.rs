//! Products of a weight, kept in panels, and columns that are gathered panel by panel.

use rayon::prelude::*;

use super::cpu::zeros;
use super::kernel::{COLUMNS, ROWS, Tile, ZEROS, multiply};

/// Elements of gathered columns that are held at a time: 8 MiB, which third-level caches have.
const GATHERED: usize = 2 << 20;

/// Depth of the pieces that panels are multiplied in.
const DEPTH: usize = 256;

/// Panels of the weight, and of the columns, that one piece of work multiplies with each other. The columns of one
/// piece, `DEPTH` deep, are 256 KiB: the second-level cache keeps them while the weight passes by.
const GROUP: usize = 8;

/// A matrix `[rows, depth]` in panels `[depth][ROWS]`, the last filled up with zeros.
pub(super) struct Panels {
    rows: usize,
    depth: usize,
    elements: Vec<f32>,
}

impl Panels {
    /// Of row-major elements.
    pub(super) fn new(matrix: &[f32], depth: usize) -> Self {
        let rows = matrix.len().checked_div(depth).unwrap_or(0);
        let mut elements = zeros(rows.div_ceil(ROWS) * ROWS * depth);
        let panels = elements.chunks_exact_mut((ROWS * depth).max(1));
        panels.zip(matrix.chunks(ROWS * depth.max(1))).for_each(|(panel, rows)| pack::<ROWS>(rows, depth, panel));
        Panels { rows, depth, elements }
    }

    /// Rows of the matrix.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The panels, one after another.
    pub(super) fn panels(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.elements.chunks_exact((ROWS * self.depth).max(1))
    }

    /// Multiplies with `columns` columns.
    ///
    /// `gather` fills the panel `[depth][COLUMNS]` of the columns from the given one on; those behind the last stay
    /// zero. `put` takes the tile of the product at a row and a column, each once, from several threads.
    pub(super) fn multiply(
        &self,
        columns: usize,
        gather: impl Fn(usize, &mut [f32]) + Sync,
        put: impl Fn(usize, usize, &Tile) + Sync,
    ) {
        let size = (COLUMNS * self.depth).max(1);
        let at_once = (GATHERED / size).clamp(1, columns.div_ceil(COLUMNS).max(1));
        let mut gathered = zeros(at_once * size);
        for first in (0..columns).step_by(at_once * COLUMNS) {
            let panels = at_once.min((columns - first).div_ceil(COLUMNS));
            let strip = gathered.get_mut(..panels * size).unwrap_or_default();
            strip.par_chunks_mut(size).enumerate().for_each(|(index, panel)| {
                panel.fill(0.0);
                gather(first + index * COLUMNS, panel);
            });
            let put = |row, column, tile: &Tile| put(row, first + column, tile);
            self.multiply_strip(gathered.get(..panels * size).unwrap_or_default(), &put);
        }
    }

    fn multiply_strip(&self, columns: &[f32], put: &(impl Fn(usize, usize, &Tile) + Sync)) {
        let (left, right) = ((ROWS * self.depth).max(1), (COLUMNS * self.depth).max(1));
        let groups = columns.chunks(GROUP * right).enumerate();
        let work: Vec<_> = groups
            .flat_map(|columns| self.elements.chunks(GROUP * left).enumerate().map(move |rows| (rows, columns)))
            .collect();
        work.into_par_iter().for_each_init(
            || vec![ZEROS; GROUP * GROUP],
            |tiles, ((row, rows), (column, columns))| {
                tiles.fill(ZEROS);
                for depth in (0..self.depth).step_by(DEPTH) {
                    let piece = |panel, size| piece(panel, size, depth);
                    for (row, tiles) in rows.chunks(left).zip(tiles.chunks_mut(GROUP)) {
                        for (column, tile) in columns.chunks(right).zip(tiles) {
                            multiply(piece(row, ROWS), piece(column, COLUMNS), tile);
                        }
                    }
                }
                let rows = rows.chunks(left).zip(row * GROUP..).zip(tiles.chunks(GROUP));
                for ((_, row), tiles) in rows {
                    for ((_, column), tile) in columns.chunks(right).zip(column * GROUP..).zip(tiles) {
                        put(row * ROWS, column * COLUMNS, tile);
                    }
                }
            },
        );
    }
}

/// A piece of a panel of `size` from this depth on.
fn piece(panel: &[f32], size: usize, depth: usize) -> &[f32] {
    let end = panel.len().min((depth + DEPTH) * size);
    panel.get(depth * size..end).unwrap_or_default()
}

/// Writes rows of `depth` elements, at most `N` of them, as a panel `[depth][N]`.
pub(super) fn pack<const N: usize>(rows: &[f32], depth: usize, panel: &mut [f32]) {
    for (index, row) in rows.chunks(depth.max(1)).enumerate().take(N) {
        pack_row::<N>(row, index, panel);
    }
}

/// Writes one row as the column `index` of a panel `[depth][N]`.
pub(super) fn pack_row<const N: usize>(row: &[f32], index: usize, panel: &mut [f32]) {
    for (value, line) in row.iter().zip(panel.as_chunks_mut::<N>().0) {
        if let Some(place) = line.get_mut(index) {
            *place = *value;
        }
    }
}
