use crate::family::{Architecture, Prediction, Task};

/// The properties that determine the class and the configuration of a diffusers pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pipeline {
    /// The architecture of the components.
    pub(crate) architecture: Architecture,
    /// The task of the UNet.
    pub(crate) task: Task,
    /// What the UNet predicts. Unknown occurs for SD v2 only, and is treated as velocity.
    pub(crate) prediction: Prediction,
    /// Whether the schedule ends in pure noise, as for some v-prediction models.
    pub(crate) zero_terminal_snr: bool,
}
