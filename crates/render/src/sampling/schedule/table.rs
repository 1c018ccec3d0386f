//! The noise level of each timestep of a model.

use crate::single::{exp, ln};

/// The ascending noise levels of a model, and their timesteps. As in k-diffusion, values are in single precision.
#[derive(Debug, Clone)]
pub(super) struct LevelTable {
    sigmas: Vec<f32>,
    log_sigmas: Vec<f32>,
    grid: Grid,
}

/// The timesteps of a table's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grid {
    /// A level for each timestep. Times between them are interpolated.
    Dense,
    /// A level for the last of each group of timesteps. Levels are rounded to one with a timestep.
    Sparse {
        /// The number of timesteps in a group.
        stride: usize,
    },
}

impl LevelTable {
    /// Returns the table for these values of `alphas_cumprod`, of which there must be at least two.
    pub(super) fn new(alphas: impl IntoIterator<Item = f32>, grid: Grid) -> Self {
        Self::of_sigmas(alphas.into_iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect(), grid)
    }

    /// Returns the table of these ascending levels, of which there must be at least two.
    pub(super) fn of_sigmas(sigmas: Vec<f32>, grid: Grid) -> Self {
        LevelTable { log_sigmas: sigmas.iter().map(|sigma| ln(*sigma)).collect(), sigmas, grid }
    }

    /// The number of levels.
    pub(super) fn len(&self) -> usize {
        self.sigmas.len()
    }

    /// Returns the level at an index, or the highest level if the index is beyond the end.
    pub(super) fn level(&self, index: usize) -> f32 {
        at(&self.sigmas, index)
    }

    /// The lowest and the highest level.
    pub(super) fn range(&self) -> (f32, f32) {
        (self.level(0), self.level(self.len()))
    }

    /// Returns the index of the nearest level, by their difference.
    pub(super) fn nearest_index(&self, sigma: f32) -> usize {
        let above = self.sigmas.partition_point(|level| *level < sigma).min(self.len() - 1);
        let below = above.saturating_sub(1);
        if sigma - self.level(below) <= self.level(above) - sigma { below } else { above }
    }

    /// Returns the level at a timestep, which may be fractional.
    pub(super) fn sigma(&self, time: f32) -> f32 {
        let place = match self.grid {
            Grid::Dense => time,
            Grid::Sparse { stride } => (time - (stride - 1) as f32) / stride as f32,
        };
        let place = place.clamp(0.0, (self.len() - 1) as f32);
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        exp((1.0 - place.fract()) * at(&self.log_sigmas, low) + place.fract() * at(&self.log_sigmas, high))
    }

    /// Returns the timestep of a level: the input of the UNet. Levels beyond the ends are clamped to them.
    pub(super) fn time(&self, sigma: f32) -> f32 {
        let wanted = ln(sigma);
        let above = self.log_sigmas.partition_point(|&log_sigma| log_sigma <= wanted);
        let low = above.clamp(1, self.len() - 1) - 1;
        let (before, after) = (at(&self.log_sigmas, low), at(&self.log_sigmas, low + 1));
        match self.grid {
            Grid::Dense => {
                let weight = ((before - wanted) / (before - after)).clamp(0.0, 1.0);
                (1.0 - weight) * low as f32 + weight * (low + 1) as f32
            }
            Grid::Sparse { stride } => {
                let is_nearer_above = (after - wanted).abs() < (wanted - before).abs();
                ((low + usize::from(is_nearer_above)) * stride + stride - 1) as f32
            }
        }
    }
}

/// Returns the value at an index, or the last value if the index is beyond the end.
#[expect(clippy::indexing_slicing, reason = "a table has at least two levels")]
fn at(list: &[f32], index: usize) -> f32 {
    list[index.min(list.len() - 1)]
}
