use crate::family::{Architecture, Task};
use crate::parameterization::Parameterization;

/// The properties that determine the class and the configuration of a diffusers pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pipeline<'a> {
    /// The architecture of the components.
    pub(crate) architecture: Architecture,
    /// Whether the model is SD-Turbo, by the prefix of its text encoder.
    pub(crate) is_turbo: bool,
    /// The task of the UNet.
    pub(crate) task: Task,
    /// What the UNet predicts, the noise schedule and the constants of the VAE. An unknown prediction occurs for SD v2 only,
    /// and is treated as velocity.
    pub(crate) parameterization: &'a Parameterization,
}
