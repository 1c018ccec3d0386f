//! The family of models that metadata names.

use crate::file_kind::Model;

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

    /// The families that a model can be of: both versions of Stable Diffusion if its keys do not tell them apart, and none for
    /// other models.
    fn of_model(model: Model) -> &'static [Self] {
        use Model::*;
        match model {
            Sd1 | BkSdm => &[ClaimedFamily::Sd1],
            Sd2 | SdTurbo | Sd2Unclip => &[ClaimedFamily::Sd2],
            Sd1Or2 => &[ClaimedFamily::Sd1, ClaimedFamily::Sd2],
            SdxlBase | SdxlRefiner | Ssd1b | Vega | Koala | Playground25 | CosXl => &[ClaimedFamily::Sdxl],
            Flux | FluxDev | FluxSchnell | FluxFill | FluxControl => &[ClaimedFamily::Flux],
            _ => &[],
        }
    }

    /// Returns whether a model can be of this family.
    pub(crate) fn can_be(self, model: Model) -> bool {
        let families = Self::of_model(model);
        families.is_empty() || families.contains(&self)
    }

    /// Returns whether the layers of two models can have the same names and shapes.
    pub(crate) fn can_be_same(a: Model, b: Model) -> bool {
        a == b || Self::of_model(a).iter().any(|family| Self::of_model(b).contains(family))
    }
}
