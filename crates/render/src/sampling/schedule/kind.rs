/// How the noise levels of the steps are spaced: WebUI's "Schedule type".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ScheduleType {
    /// Evenly spaced timesteps.
    #[default]
    Uniform,
    /// As in Karras et al. (2022), with rho = 7.
    Karras,
    /// Evenly spaced logarithms of the noise levels.
    Exponential,
    /// Evenly spaced logarithms to a power, with rho = 1: the same levels as Exponential.
    Polyexponential,
    /// Evenly spaced timesteps, as in Stability AI's generative-models: the lowest level is not among them.
    SgmUniform,
    /// Evenly spaced arctangents of the noise levels (Sabour et al., 2024). The last level is the lowest of the model, not 0.
    KlOptimal,
    /// Levels optimized for SD v1 (Sabour et al., 2024).
    AlignYourSteps,
    /// Evenly spaced timesteps of the model's list, rounded, as in ComfyUI.
    Simple,
    /// Evenly spaced timesteps, as in ComfyUI.
    Normal,
    /// The timesteps of DDIM. There may be one step more than asked for.
    Ddim,
    /// Quantiles of a beta distribution (Lee et al., 2024), with alpha = beta = 0.6.
    Beta,
}

impl ScheduleType {
    /// WebUI's name for the schedule type that it chooses for a sampler. Not the name of any of [`ScheduleType::ALL`].
    pub const AUTOMATIC: &str = "Automatic";

    /// All schedule types, in WebUI's order.
    pub const ALL: &'static [ScheduleType] = &[
        ScheduleType::Uniform,
        ScheduleType::Karras,
        ScheduleType::Exponential,
        ScheduleType::Polyexponential,
        ScheduleType::SgmUniform,
        ScheduleType::KlOptimal,
        ScheduleType::AlignYourSteps,
        ScheduleType::Simple,
        ScheduleType::Normal,
        ScheduleType::Ddim,
        ScheduleType::Beta,
    ];

    /// WebUI's name.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleType::Uniform => "Uniform",
            ScheduleType::Karras => "Karras",
            ScheduleType::Exponential => "Exponential",
            ScheduleType::Polyexponential => "Polyexponential",
            ScheduleType::SgmUniform => "SGM Uniform",
            ScheduleType::KlOptimal => "KL Optimal",
            ScheduleType::AlignYourSteps => "Align Your Steps",
            ScheduleType::Simple => "Simple",
            ScheduleType::Normal => "Normal",
            ScheduleType::Ddim => "DDIM",
            ScheduleType::Beta => "Beta",
        }
    }

    /// Returns the schedule type with this name. Ignores case, spaces and underscores, so it accepts WebUI's labels ("SGM
    /// Uniform"), the names in its API ("sgm_uniform") and its aliases ("SGMUniform").
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = |name: &str| name.replace([' ', '_'], "").to_ascii_lowercase();
        Self::ALL.iter().copied().find(|schedule| plain(schedule.name()) == plain(name))
    }
}
