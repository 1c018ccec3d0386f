//! Records a parameterization in an output: as tensors and metadata of a file, and in a `.yaml` beside it.

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::metadata::Metadata;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

use crate::Component;
use crate::family::{Architecture, Prediction, Task};
use crate::ledger::{Change, DropReason, Ledger, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::{
    self, Claim, EDM_SCALING_FACTOR, MarkSource, Parameterization, SD_SCALING_FACTOR, Sigmas, VaeConstants, metadata,
};
use crate::pipeline;
use crate::plan::{Account, Resolved, video};

/// A file whose tensors and metadata record a parameterization.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Expressed {
    /// The file.
    pub resolved: Resolved,
    /// The text of the `.yaml` that WebUI needs beside the file; `None` if it needs none.
    pub yaml: Option<String>,
}

/// Records a parameterization in a single file.
///
/// `as_stored` says that the tensors and the metadata come from a single file and nothing else was requested: then they
/// stay as they are, because they record whatever the input recorded.
///
/// Fails if a file cannot record it: flow or sample prediction, or EDM constants other than those that ComfyUI, Forge and
/// WebUI assume.
pub fn in_file(resolved: Resolved, wanted: &Parameterization, as_stored: bool) -> Result<Expressed> {
    let mut resolved = resolved;
    let account = Account::of_ledger(&resolved.ledger);
    video::for_file(&mut resolved)?;
    let has = |component| resolved.state_dict.keys().any(|key| Component::from_key(key) == component);
    let (has_unet, has_vae) = (has_unet(&resolved.state_dict), has(Component::Vae));
    let mut expressed = Expressed { resolved, yaml: None };
    let Expressed { resolved, yaml } = &mut expressed;
    if has_unet && !as_stored {
        set_keys(resolved, wanted)?;
        let is_default = match wanted.architecture {
            Some(Architecture::Sd2) => false,
            Some(Architecture::StableVideo) => wanted.prediction == Prediction::Velocity,
            _ => wanted.prediction == Prediction::Epsilon,
        };
        metadata::set_prediction(&mut resolved.metadata, wanted.prediction, !is_default);
        let judged = judged(&resolved.state_dict, wanted)?;
        let needs_yaml = needs_yaml(wanted, judged);
        *yaml = needs_yaml.then(|| parameterization::configuration(&resolved.state_dict, wanted)).flatten();
        note_unread(resolved, wanted, judged, yaml.is_some());
    }
    if !as_stored || (has_vae && !has_unet) {
        set_constants(resolved, wanted, has_unet, has_vae);
    }
    let resolved = expressed.resolved.recheck(&account)?;
    Ok(Expressed { resolved, yaml: expressed.yaml })
}

/// Returns whether a state dict in LDM names has a UNet, under its prefix or alone.
pub fn has_unet(state_dict: &StateDict) -> bool {
    state_dict.keys().any(|key| key.starts_with("model.diffusion_model.") || key.starts_with("input_blocks."))
}

/// Removes from the metadata of a folder what its configurations record. A folder of a UNet alone has no scheduler, so the
/// metadata records the prediction.
pub(crate) fn in_folder(
    metadata: &mut Metadata,
    wanted: &Parameterization,
    has_scheduler: bool,
    has_unet: bool,
) -> Option<Notice> {
    metadata::remove_own(metadata);
    if has_scheduler {
        metadata.shift_remove(metadata::PREDICTION_TYPE);
        metadata::set_prediction(metadata, wanted.prediction, false);
        return None;
    }
    if !has_unet {
        return None;
    }
    let is_default = wanted.prediction == Prediction::Epsilon && !wanted.zero_terminal_snr;
    metadata::set_prediction(metadata, wanted.prediction, wanted.prediction == Prediction::Velocity);
    if is_default || wanted.prediction == Prediction::Unknown {
        return None;
    }
    if wanted.prediction != Prediction::Velocity {
        metadata::set(metadata, &Claim::Prediction(wanted.prediction));
    }
    if wanted.zero_terminal_snr {
        metadata::set(metadata, &Claim::ZeroTerminalSnr(true));
    }
    let sigmas = [
        wanted.sigma_min.map(Claim::SigmaMin),
        wanted.sigma_max.map(Claim::SigmaMax),
        wanted.sigma_data.map(Claim::SigmaData),
    ];
    sigmas.iter().flatten().for_each(|claim| metadata::set(metadata, claim));
    let zero = if wanted.zero_terminal_snr { " and zero terminal SNR" } else { "" };
    let text = format!(
        "a folder with only a UNet has no scheduler; the pipeline that loads it must set {}{zero}",
        wanted.prediction.text()
    );
    Some(Notice::new(NoticeCode::PredictionNotRead, text))
}

/// Replaces the marks of a state dict by those of a parameterization. A mark that is there already keeps its bytes.
fn set_keys(resolved: &mut Resolved, wanted: &Parameterization) -> Result<()> {
    let wanted_keys = keys(wanted)?;
    // A `v_pred` in an SD v1 or v2 file is true, although its readers do not look for it.
    let is_true = |key: &str| key == parameterization::V_PREDICTION && wanted.prediction == Prediction::Velocity;
    let is_wanted = |key: &str| is_true(key) || wanted_keys.iter().any(|(wanted, _)| *wanted == key);
    let mut state_dict = StateDict::new();
    for (key, tensor) in resolved.state_dict.iter() {
        if !parameterization::is_mark_key(key) || is_wanted(key) {
            state_dict.insert(key, tensor.clone())?;
        }
    }
    drop_lines(&mut resolved.ledger, &|key| parameterization::is_mark_key(key) && !is_wanted(key));
    for (key, tensor) in wanted_keys {
        if !state_dict.contains(key) {
            state_dict.insert(key, tensor)?;
            resolved.ledger.written(Origin::Program, key, key, vec![Change::Inserted]);
        }
    }
    resolved.state_dict = state_dict;
    Ok(())
}

/// Records marks that another prediction supersedes.
fn drop_lines(ledger: &mut Ledger, is_superseded: &dyn Fn(&str) -> bool) {
    use crate::ledger::Disposition;
    ledger.rewrite(|mut line| {
        if matches!(&line.disposition, Disposition::Written { key, .. } if is_superseded(key)) {
            line.disposition = Disposition::Dropped { reason: DropReason::Superseded };
        }
        vec![line]
    });
}

/// Returns the tensors that mark a parameterization.
fn keys(wanted: &Parameterization) -> Result<Vec<(&'static str, LazyTensor)>> {
    let empty = || LazyTensor::owned(Dtype::F32, Shape::new([0])?, []);
    let floats = |values: &[f64], dims: &[u64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        LazyTensor::owned(Dtype::F32, Shape::new(dims.to_vec())?, bytes)
    };
    let is_xl = wanted.architecture.is_some_and(Architecture::is_xl);
    let mut keys = Vec::new();
    match wanted.prediction {
        Prediction::Epsilon | Prediction::Unknown => {}
        // Readers of SD v1 and v2 files do not look for the key.
        Prediction::Velocity => {
            if is_xl {
                keys.push((parameterization::V_PREDICTION, empty()?));
            }
        }
        Prediction::Edm => {
            let VaeConstants { latents_mean, latents_std, scaling_factor, .. } = &wanted.vae;
            refuse_sigmas(wanted)?;
            let (Some(mean), Some(std)) = (latents_mean, latents_std) else {
                return Err(cannot(wanted, "without the mean and standard deviation of its latents"));
            };
            if *scaling_factor != EDM_SCALING_FACTOR || mean.len() != std.len() {
                let found = format!("with the scaling factor {scaling_factor}, where readers use {EDM_SCALING_FACTOR}");
                return Err(cannot(wanted, &found));
            }
            let dims = [1, mean.len() as u64, 1, 1];
            keys.push((parameterization::EDM_MEAN, floats(mean, &dims)?));
            keys.push((parameterization::EDM_STD, floats(std, &dims)?));
        }
        Prediction::EdmVelocity => {
            refuse_sigmas(wanted)?;
            let (Some(max), Some(min)) = (wanted.sigma_max, wanted.sigma_min) else {
                return Err(cannot(wanted, "without bounds of sigma"));
            };
            keys.push((parameterization::EDM_SIGMA_MAX, floats(&[max], &[])?));
            keys.push((parameterization::EDM_SIGMA_MIN, floats(&[min], &[])?));
        }
        Prediction::Flow | Prediction::Sample => return Err(cannot(wanted, "in any mark")),
    }
    if wanted.prediction != Prediction::Edm && (wanted.vae.latents_mean.is_some() || wanted.vae.latents_std.is_some()) {
        return Err(cannot(wanted, "with a mean and standard deviation of the latents, which mark EDM models"));
    }
    if wanted.zero_terminal_snr {
        keys.push((parameterization::ZERO_TERMINAL_SNR, empty()?));
    }
    Ok(keys)
}

/// The error for what a single file cannot record.
fn cannot(wanted: &Parameterization, how: &str) -> Error {
    let found = format!("a single file cannot record {} {how}; write a diffusers folder", wanted.prediction.text());
    Error::unsupported(found)
}

/// Fails if the sigmas differ from those that readers of single files assume.
fn refuse_sigmas(wanted: &Parameterization) -> Result<()> {
    let Some(read) = Sigmas::of(wanted.prediction) else { return Ok(()) };
    let has_bounds = wanted.prediction == Prediction::EdmVelocity;
    let differs = |name: &str, own: Option<f64>, read: f64| match own {
        Some(own) if own != read => Err(cannot(wanted, &format!("with {name} {own}, where readers use {read}"))),
        _ => Ok(()),
    };
    if !has_bounds {
        differs("sigma_min", wanted.sigma_min, read.min)?;
        differs("sigma_max", wanted.sigma_max, read.max)?;
    }
    differs("sigma_data", wanted.sigma_data, read.data)
}

/// Returns what ComfyUI takes an SD v2 model for; `None` for other models.
fn judged(state_dict: &StateDict, wanted: &Parameterization) -> Result<Option<Prediction>> {
    if (wanted.architecture, wanted.task) != (Some(Architecture::Sd2), Some(Task::TextToImage)) {
        return Ok(None);
    }
    Ok(parameterization::judge(state_dict)?.and_then(|mark| match mark.claim {
        Claim::Prediction(prediction) => Some(prediction),
        _ => None,
    }))
}

/// Returns whether WebUI would load an SD v1 or v2 file wrongly without a `.yaml`. It assumes epsilon for SD v1, and older
/// versions for SD v2 too; newer ones judge SD v2 by its output.
fn needs_yaml(wanted: &Parameterization, judged: Option<Prediction>) -> bool {
    wanted.prediction == Prediction::Velocity
        || wanted.vae.scaling_factor != SD_SCALING_FACTOR
        || judged.is_some_and(|judged| judged != wanted.prediction)
}

/// Adds notices about what the readers of a single file will not see.
fn note_unread(resolved: &mut Resolved, wanted: &Parameterization, judged: Option<Prediction>, has_yaml: bool) {
    let mut note = |text: String| resolved.notices.push(Notice::new(NoticeCode::PredictionNotRead, text));
    let is_sd = matches!(wanted.architecture, Some(Architecture::Sd1 | Architecture::Sd2));
    if is_sd && wanted.prediction == Prediction::Velocity && !has_yaml {
        note("WebUI cannot be told that this model predicts v; only the metadata records it".to_owned());
    }
    if let Some(judged) = judged.filter(|&judged| judged != wanted.prediction) {
        let (wanted, judged) = (wanted.prediction.text(), judged.text());
        note(format!("ComfyUI judges SD v2 by its weights and will take this model for {judged}, not {wanted}"));
    }
}

/// Records the constants of the VAE, and the spacing of the timesteps, in metadata fields where they differ from what
/// readers assume.
fn set_constants(resolved: &mut Resolved, wanted: &Parameterization, has_unet: bool, has_vae: bool) {
    metadata::remove_own(&mut resolved.metadata);
    let spacing = pipeline::timestep_spacing(wanted);
    if let Some(own) = wanted.timestep_spacing.as_ref().filter(|own| has_unet && Some(own.as_str()) != spacing) {
        metadata::set(&mut resolved.metadata, &Claim::TimestepSpacing(own.clone()));
    }
    if !has_vae {
        return;
    }
    // A VAE alone does not show its architecture, and readers take it for that of SD v1.
    let shown = wanted.architecture.filter(|_| has_unet).unwrap_or(Architecture::Sd1);
    let mut assumed = VaeConstants::of(shown);
    let is_marked = has_unet && wanted.prediction == Prediction::Edm;
    if is_marked {
        assumed.scaling_factor = EDM_SCALING_FACTOR;
    }
    let own = &wanted.vae;
    let mut unread = Vec::new();
    let mut set = |claim: Claim, differs: bool| {
        if differs {
            metadata::set(&mut resolved.metadata, &claim);
            unread.push(format!("{} {}", claim.field(), claim.value()));
        }
    };
    set(Claim::ScalingFactor(own.scaling_factor), own.scaling_factor != assumed.scaling_factor);
    if let Some(shift) = own.shift_factor {
        set(Claim::ShiftFactor(shift), true);
    }
    if let (Some(mean), Some(std), false) = (&own.latents_mean, &own.latents_std, is_marked) {
        set(Claim::LatentsMean(mean.clone()), true);
        set(Claim::LatentsStd(std.clone()), true);
    }
    let note = (has_unet && !unread.is_empty()).then(|| {
        let read = if shown == Architecture::Sd1 || shown == Architecture::Sd2 { ", or the .yaml" } else { "" };
        format!("only the metadata{read} records {}; other programs use the published values", unread.join(", "))
    });
    if own.force_upcast != assumed.force_upcast {
        metadata::set(&mut resolved.metadata, &Claim::ForceUpcast(own.force_upcast));
    }
    resolved.notices.extend(note.map(|text| Notice::new(NoticeCode::VaeConstantsNotRead, text)));
}

/// Empties the metadata of an output that holds none, for this reason. Returns notices about the fields, and about what
/// nothing in the output records then.
pub fn without_metadata(metadata: &mut Metadata, why: &str) -> Vec<Notice> {
    let dropped = std::mem::take(metadata);
    if dropped.is_empty() {
        return Vec::new();
    }
    let names = dropped.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let text = format!("left out metadata, because {why}: {names}");
    let mut notices = vec![Notice::new(NoticeCode::MetadataDropped, text)];
    let marks = metadata::claims(&dropped);
    if !marks.is_empty() {
        let marks: Vec<String> = marks.iter().map(|claim| format!("{} {}", claim.field(), claim.value())).collect();
        let text = format!("nothing else in the output records {}", marks.join(", "));
        notices.push(Notice::new(NoticeCode::PredictionNotRead, text));
    }
    notices
}

/// Returns a notice if a file records v-prediction only where WebUI, Forge and ComfyUI do not look.
pub fn unmarked(wanted: &Parameterization) -> Option<Notice> {
    let is_xl =
        wanted.architecture.is_some_and(Architecture::has_two_text_encoders) && wanted.task == Some(Task::TextToImage);
    let is_hidden =
        wanted.prediction == Prediction::Velocity && wanted.prediction_source() == Some(MarkSource::Metadata);
    let text = "only the metadata says that this model predicts v; WebUI, Forge and ComfyUI look for the key v_pred";
    (is_xl && is_hidden).then(|| Notice::new(NoticeCode::PredictionNotRead, text))
}
