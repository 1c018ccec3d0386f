use serde::Serialize;

use super::VaeConstants;
use super::claim::{Claim, Mark, MarkSource};
use crate::family::{Architecture, Prediction, Task};

/// What a model predicts, its schedule and the constants of its VAE, with the marks that say so.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Parameterization {
    /// What the UNet predicts.
    pub prediction: Prediction,
    /// Whether the noise schedule ends in pure noise.
    pub zero_terminal_snr: bool,
    /// How diffusers spaces the timesteps; `None` leaves it to the scheduler.
    pub timestep_spacing: Option<String>,
    /// The smallest sigma; `None` except for EDM models.
    pub sigma_min: Option<f64>,
    /// The largest sigma; `None` except for EDM models.
    pub sigma_max: Option<f64>,
    /// The standard deviation of the latents; `None` except for EDM models.
    pub sigma_data: Option<f64>,
    /// The constants of the VAE.
    #[serde(flatten)]
    pub vae: VaeConstants,
    /// All marks, in order of precedence.
    pub evidence: Vec<Mark>,
    /// The architecture, which the defaults depend on.
    #[serde(skip)]
    pub(crate) architecture: Option<Architecture>,
    /// The task of the UNet; `None` without a UNet.
    #[serde(skip)]
    pub(crate) task: Option<Task>,
}

/// The bounds of sigma, and the standard deviation of the latents.
pub(crate) struct Sigmas {
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) data: f64,
}

impl Sigmas {
    /// The constants of the published model: Playground 2.5 for EDM (its scheduler configuration; ComfyUI has the same
    /// ones in its code), CosXL for EDM with v-prediction. `None` for other models.
    pub(crate) fn of(prediction: Prediction) -> Option<Self> {
        match prediction {
            Prediction::Edm => Some(Sigmas { min: 0.002, max: 80.0, data: 0.5 }),
            Prediction::EdmVelocity => Some(Sigmas { min: 0.002, max: 120.0, data: 1.0 }),
            _ => None,
        }
    }
}

impl Parameterization {
    /// Resolves marks: for each field the first mark in order of precedence decides, otherwise the default of the
    /// architecture.
    pub(crate) fn resolve(architecture: Option<Architecture>, task: Option<Task>, mut marks: Vec<Mark>) -> Self {
        marks.sort_by_key(|mark| mark.source);
        if !marks.iter().any(|mark| matches!(mark.claim, Claim::Prediction(_))) && task.is_some() {
            let (prediction, place) = default(architecture, task);
            marks.push(Mark::new(MarkSource::Default, place, Claim::Prediction(prediction)));
        }
        let first = |pick: &dyn Fn(&Claim) -> bool| marks.iter().map(|mark| &mark.claim).find(|claim| pick(claim));
        macro_rules! decided {
            ($kind:ident) => {
                match first(&|claim| matches!(claim, Claim::$kind(_))) {
                    Some(Claim::$kind(value)) => Some(value.clone()),
                    _ => None,
                }
            };
        }
        let prediction = decided!(Prediction).unwrap_or(Prediction::Unknown);
        let sigmas = Sigmas::of(prediction);
        let bound =
            |own: Option<f64>, published: fn(&Sigmas) -> f64| sigmas.as_ref().map(|it| own.unwrap_or(published(it)));
        // A VAE alone is taken for that of SD v1; `vae_is_assumed` tells.
        let published = VaeConstants::of(architecture.unwrap_or(Architecture::Sd1));
        let (latents_mean, latents_std) = (decided!(LatentsMean), decided!(LatentsStd));
        let scaling_factor = match decided!(ScalingFactor) {
            Some(factor) => factor,
            None if latents_mean.is_some() && latents_std.is_some() => super::EDM_SCALING_FACTOR,
            None => published.scaling_factor,
        };
        Parameterization {
            prediction,
            zero_terminal_snr: decided!(ZeroTerminalSnr).unwrap_or(false),
            timestep_spacing: decided!(TimestepSpacing),
            sigma_min: bound(decided!(SigmaMin), |it| it.min),
            sigma_max: bound(decided!(SigmaMax), |it| it.max),
            sigma_data: bound(decided!(SigmaData), |it| it.data),
            vae: VaeConstants {
                scaling_factor,
                shift_factor: decided!(ShiftFactor),
                latents_mean,
                latents_std,
                force_upcast: decided!(ForceUpcast).unwrap_or(published.force_upcast),
            },
            evidence: marks,
            architecture,
            task,
        }
    }

    /// Returns the parameterization with another prediction, as the caller requests it. Zero terminal SNR goes with
    /// v-prediction only: for epsilon the model would have to divide by zero.
    #[must_use]
    pub fn with_prediction(&self, prediction: Prediction) -> Self {
        let mut marks = self.evidence.clone();
        let request = |claim| Mark::new(MarkSource::Request, "requested", claim);
        marks.push(request(Claim::Prediction(prediction)));
        if prediction == Prediction::Epsilon && self.zero_terminal_snr {
            marks.push(request(Claim::ZeroTerminalSnr(false)));
        }
        Self::resolve(self.architecture, self.task, marks)
    }

    /// Returns the parameterization with the defaults of this architecture. For models whose layers are not those of the
    /// published model, such as distilled ones.
    #[must_use]
    pub fn for_architecture(&self, architecture: Architecture) -> Self {
        let marks = self.evidence.iter().filter(|mark| mark.source != MarkSource::Default).cloned();
        Self::resolve(Some(architecture), self.task, marks.collect())
    }

    /// Returns the parameterization of a checkpoint whose UNet was replaced by that of `unet`: what the UNet predicts goes with
    /// the UNet, and so do the constants that its keys mark; other constants of the VAE stay.
    #[must_use]
    pub fn with_unet_of(&self, unet: &Self) -> Self {
        let is_of_vae = |mark: &&Mark| mark.claim.is_of_vae() && mark.source != MarkSource::Key;
        let is_decided = |mark: &&Mark| mark.source != MarkSource::Default;
        let of_unet = unet.evidence.iter().filter(is_decided).filter(|mark| !is_of_vae(mark));
        let marks = of_unet.chain(self.evidence.iter().filter(is_of_vae).filter(is_decided)).cloned().collect();
        Self::resolve(unet.architecture, unet.task, marks)
    }

    /// Returns whether nothing shows the constants of the VAE: a VAE alone, without metadata or configuration.
    pub fn vae_is_assumed(&self) -> bool {
        let is_shown = self.evidence.iter().any(|mark| matches!(mark.claim, Claim::ScalingFactor(_)));
        self.architecture.is_none() && !is_shown
    }

    /// Returns the source that decided what the UNet predicts; `None` without a UNet.
    pub fn prediction_source(&self) -> Option<MarkSource> {
        self.evidence.iter().find(|mark| matches!(mark.claim, Claim::Prediction(_))).map(|mark| mark.source)
    }

    /// Returns each mark that contradicts one of higher precedence, after that one. A request contradicts nothing.
    pub fn contradictions(&self) -> impl Iterator<Item = (&Mark, &Mark)> {
        let marks = || self.evidence.iter().filter(|mark| mark.source != MarkSource::Request);
        marks().filter_map(move |mark| {
            let first = marks().find(|it| it.claim.field() == mark.claim.field())?;
            (first.claim != mark.claim).then_some((first, mark))
        })
    }
}

/// Returns what the published models of an architecture predict, and a description of them. SD v2 was published both
/// ways with 4 input channels; its inpainting and depth models predict epsilon.
fn default(architecture: Option<Architecture>, task: Option<Task>) -> (Prediction, String) {
    let Some(architecture) = architecture else { return (Prediction::Unknown, "unknown architecture".to_owned()) };
    let place = format!("default of {}, {}", architecture.text(), task.map_or("no UNet", Task::text));
    match (architecture, task) {
        (Architecture::Sd2, Some(Task::TextToImage)) => (Prediction::Unknown, place),
        (Architecture::StableVideo, _) => (Prediction::Velocity, place),
        _ => (Prediction::Epsilon, place),
    }
}
