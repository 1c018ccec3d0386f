//! The family of models that metadata names.

/// A family of models whose layers differ from those of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimedFamily {
    Sd1,
    Sd2,
    Sdxl,
    Flux,
}

impl ClaimedFamily {
    /// The family that a value of `modelspec.architecture` or of kohya's `ss_base_model_version` names.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let name = name.to_lowercase().replace(['_', '.'], "-");
        let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        Some(match () {
            () if starts(&["sdxl", "stable-diffusion-xl"]) => ClaimedFamily::Sdxl,
            () if starts(&["sd-v1", "stable-diffusion-v1"]) => ClaimedFamily::Sd1,
            () if starts(&["sd-v2", "stable-diffusion-v2"]) => ClaimedFamily::Sd2,
            () if starts(&["flux1", "flux-1"]) => ClaimedFamily::Flux,
            () => return None,
        })
    }
}
