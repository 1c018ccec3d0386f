//! Numbers of published models that no tensor shows.

/// The first and the last beta of Stable Diffusion: the variance of the noise that a timestep adds. Their square roots are at
/// equal distances.
pub const BETAS: [f64; 2] = [0.000_85, 0.012];

/// The attention heads of the UNet of SD v1 at each resolution.
pub(crate) const HEADS: u64 = 8;

/// The size of an attention head, except in SD v1 and in ViT-H.
pub(crate) const HEAD: u64 = 64;

/// The groups of each group norm.
pub(crate) const GROUPS: u64 = 32;
