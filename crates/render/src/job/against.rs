//! Compares a render with another picture, or with the render of another checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::input::RenderInput;
use crate::checks::{self, Check};
use crate::kernels::Accelerator;
use crate::observer::Trace;
use crate::picture::{Picture, PictureComparison, compare, contact_sheet, difference};
use crate::pipeline::{Model, Rendered, render};
use crate::settings::Settings;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::{Progress, parallel};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::compare::{self, pair_up};
use trinart_ckpt_models::parameterization::{MarkSource, Parameterization};
use trinart_ckpt_models::{position_ids, vae};

/// The components that a render uses, with their key prefixes.
const COMPONENTS: [(&str, &str); 5] = [
    ("UNet", "model.diffusion_model."),
    ("text encoder", "cond_stage_model."),
    ("text encoders", "conditioner."),
    ("schedule", "alphas_cumprod"),
    (VAE, "first_stage_model."),
];
const VAE: &str = "VAE";

/// The other side of a comparison.
#[derive(Clone)]
#[non_exhaustive]
pub enum Against {
    /// A picture, and its path for reports.
    Picture(PathBuf, Picture),
    /// Another checkpoint, rendered with the same settings.
    Checkpoint(RenderInput),
}

/// The comparison of a render with another picture or checkpoint.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AgainstReport {
    /// The other file.
    pub file: String,
    /// The difference of the pictures.
    #[serde(flatten)]
    pub comparison: PictureComparison,
    /// The difference of the latents, if the other is a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentDistance>,
}

/// The difference of two latents.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LatentDistance {
    /// Whether they are bit-identical.
    pub identical: bool,
    /// The norm of the difference over the norm of the first latent.
    pub relative: f64,
    /// The cosine similarity.
    pub cosine: f64,
}

/// The other picture, and details of its render if it comes from a checkpoint.
pub(super) struct Other {
    path: PathBuf,
    picture: Picture,
    render: Option<OtherRender>,
}

struct OtherRender {
    latent: Vec<f32>,
    checks: Vec<Check>,
    /// Whether the VAE is the only difference that affects a render.
    only_vae_differs: bool,
}

impl Other {
    pub(super) fn from_picture(path: &Path, picture: &Picture) -> Self {
        Other { path: path.to_owned(), picture: picture.clone(), render: None }
    }

    /// Renders the other checkpoint, and compares its weights with those of `ours`. `model` is that of the other checkpoint
    /// with LoRAs applied.
    pub(super) fn render(
        (other, model): (&RenderInput, &Model),
        ours: &RenderInput,
        settings: &Settings,
        machine: Option<&Arc<dyn Accelerator>>,
        jobs: usize,
        checks: &mut Vec<Check>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let rendered = render(model, settings, machine, &Trace::default(), progress);
        let rendered = rendered.map_err(|error| error.in_file(other.path()))?;
        let differing = differing_components(ours.state_dict(), other.state_dict(), jobs, progress)?;
        checks.push(Check::info("weights", describe(&differing)));
        let (our_model, other_model) = (ours.model()?, other.model()?);
        let parameters = differing_parameters(our_model.parameterization(), other_model.parameterization());
        if !parameters.is_empty() {
            checks.push(Check::info("parameterization", parameters.join("; ")));
        }
        // A UNet that takes an image gets it from the VAE.
        let only_vae_differs = differing.iter().all(|component| component.name == VAE)
            && parameters.is_empty()
            && (differing.is_empty() || !our_model.takes_image());
        let Rendered { picture, latent, checks, .. } = rendered;
        let render = Some(OtherRender { latent, checks, only_vae_differs });
        Ok(Other { path: other.path().to_owned(), picture, render })
    }

    /// Compares the pictures and the latents, and adds the results to `checks`.
    pub(super) fn compare(&self, ours: &Rendered, checks: &mut Vec<Check>) -> Result<AgainstReport> {
        let comparison = compare(&ours.picture, &self.picture).map_err(|error| error.in_file(&self.path))?;
        let file = self.path.to_string_lossy().into_owned();
        let mut distance = None;
        if let Some(OtherRender { latent, only_vae_differs, checks: others }) = &self.render {
            let identical = checks::is_same(&ours.latent, latent);
            checks.push(checks::same_latents(&ours.latent, latent, *only_vae_differs));
            if identical {
                checks::downgrade_shared_failures(checks, &file, others);
                checks.push(checks::same_family(&comparison));
            }
            let relative = checks::relative_distance(&ours.latent, latent);
            distance = Some(LatentDistance { identical, relative, cosine: checks::cosine(&ours.latent, latent) });
        }
        checks.push(Check::info("picture", summary(&comparison)));
        Ok(AgainstReport { file, comparison, latent: distance })
    }

    /// Draws the contact sheet: our picture, the other, and the difference.
    pub(super) fn sheet(&self, path: &Path, picture: &Picture, report: &AgainstReport) -> Picture {
        let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let latent = match &report.latent {
            None => String::new(),
            Some(latent) if latent.identical => "\nlatents bit-identical".to_owned(),
            Some(latent) => {
                format!("\nlatents differ by {:.2} %, cosine {:.4}", 100.0 * latent.relative, latent.cosine)
            }
        };
        let captions = [
            format!("A: {}", name(path)),
            format!("B: {}", name(&self.path)),
            format!("A - B, x8: {}{latent}", summary(&report.comparison)),
        ];
        let [a, b, both] = captions.each_ref().map(String::as_str);
        contact_sheet(&[(picture, a), (&self.picture, b), (&difference(picture, &self.picture), both)])
    }
}

fn summary(comparison: &PictureComparison) -> String {
    match comparison.psnr {
        None => "identical pixels".to_owned(),
        Some(psnr) => format!(
            "different: PSNR {psnr:.1} dB, SSIM {:.4}, at most {} of 255, {:.1} % of values by more than 2",
            comparison.ssim,
            comparison.max_difference,
            100.0 * comparison.changed
        ),
    }
}

/// Returns what the marks of two checkpoints say about their UNets and do not agree on.
fn differing_parameters(ours: &Parameterization, other: &Parameterization) -> Vec<String> {
    let source = |it: &Parameterization| it.prediction_source().map_or("default", MarkSource::name);
    let prediction = |it: &Parameterization| format!("{} (source: {})", it.prediction.text(), source(it));
    let mut found = Vec::new();
    if ours.prediction != other.prediction {
        let (ours, other) = (prediction(ours), prediction(other));
        found.push(format!("the UNet predicts {ours} here, and {other} in the other checkpoint"));
    }
    if ours.zero_terminal_snr != other.zero_terminal_snr {
        let place = if ours.zero_terminal_snr { "here" } else { "in the other checkpoint" };
        found.push(format!("zero terminal SNR only {place}"));
    }
    let sigma = |it: Option<f64>| it.map_or_else(|| "none".to_owned(), |sigma| sigma.to_string());
    for (name, ours, other) in [
        ("smallest sigma", ours.sigma_min, other.sigma_min),
        ("largest sigma", ours.sigma_max, other.sigma_max),
        ("deviation of the latents", ours.sigma_data, other.sigma_data),
    ] {
        if ours != other {
            found.push(format!("{name}: {} here, {} in the other checkpoint", sigma(ours), sigma(other)));
        }
    }
    found
}

/// A component that differs between two checkpoints.
struct DifferingComponent {
    name: &'static str,
    /// Number of tensors that differ or are missing on one side.
    tensors: usize,
    first: String,
}

/// Compares the weights that a render uses, and returns the components that differ. Reads both checkpoints.
fn differing_components(
    a: &StateDict,
    b: &StateDict,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<DifferingComponent>> {
    let mut pairs = pair_up(a, b, |key| vae::canonical_key(key).into_owned());
    // A render does not use the stored position_ids.
    let is_used =
        |key: &str| COMPONENTS.iter().any(|(_, prefix)| key.starts_with(prefix)) && !position_ids::is_key(key);
    pairs.retain(|(key, ..)| is_used(key));
    progress.begin("comparing", a.bytes());
    let same = parallel::map(
        jobs,
        &pairs,
        || (),
        |(), (key, a, b)| match (a, b) {
            (Some(a), Some(b)) => {
                let found = compare::compare(a, b, progress).map_err(|error| error.in_tensor(key.as_str()))?;
                Ok::<_, Error>(found == compare::TensorComparison::Equal)
            }
            _ => Ok(false),
        },
    )?;
    let different: Vec<&str> =
        pairs.iter().zip(same).filter(|(_, is_same)| !is_same).map(|((key, ..), _)| key.as_str()).collect();
    let component = |(name, prefix): (&'static str, &str)| {
        let mut keys = different.iter().filter(|key| key.starts_with(prefix));
        let first = (*keys.next()?).to_owned();
        Some(DifferingComponent { name, tensors: 1 + keys.count(), first })
    };
    Ok(COMPONENTS.into_iter().filter_map(component).collect())
}

fn describe(differing: &[DifferingComponent]) -> String {
    if differing.is_empty() {
        return "all weights that a render uses are identical".to_owned();
    }
    let component = |it: &DifferingComponent| match it.tensors {
        1 => format!("{}: {} differs", it.name, it.first),
        count => format!("{}: {count} tensors differ, the first is {}", it.name, it.first),
    };
    let rest = if differing.len() == 1 { "; the rest is identical" } else { "" };
    differing.iter().map(component).collect::<Vec<_>>().join("; ") + rest
}
