//! Values of hyperparameters, and the betas of a scheduler.

/// Hyperparameters of a text encoder. What is `None` is that of the published models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextHyperparameters {
    /// The attention heads.
    pub heads: Option<usize>,
    /// The activation of the MLPs.
    pub activation: Option<Activation>,
}

/// The activation of a text encoder's MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU, as in OpenCLIP.
    Gelu,
    /// The approximation of GELU that OpenAI's CLIP was trained with.
    QuickGelu,
}

/// The name of the scheduler among the configurations.
pub(super) const SCHEDULER: &str = "scheduler";

/// The number of timesteps that Stable Diffusion was trained with.
pub(super) const TIMESTEPS: u64 = 1000;

/// Returns values from `first` to `last`, one for each timestep, at equal distances.
pub(super) fn linear(first: f64, last: f64) -> impl Iterator<Item = f64> {
    (0..TIMESTEPS).map(move |time| first + (last - first) * time as f64 / (TIMESTEPS - 1) as f64)
}

/// Returns the betas from `first` to `last`, one for each timestep, whose square roots are at equal distances.
pub fn scaled_linear(first: f64, last: f64) -> impl Iterator<Item = f64> {
    linear(first.sqrt(), last.sqrt()).map(|root| root.powi(2))
}
