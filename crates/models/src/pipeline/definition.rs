use crate::family::{Architecture, Prediction, Task};

/// The properties that determine the class and the configuration of a diffusers pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipeline {
    /// The architecture of the components.
    pub architecture: Architecture,
    /// The task of the UNet.
    pub task: Task,
    /// What the UNet predicts. Unknown occurs for SD v2 only, and is treated as velocity.
    pub prediction: Prediction,
    /// Whether the schedule ends in pure noise, as for some v-prediction models.
    pub zero_terminal_snr: bool,
}
