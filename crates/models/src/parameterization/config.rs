//! The configurations of a diffusers folder: what they say about a model, and how to correct them.

use serde_json::{Map, Value};
use trinart_ckpt_formats::StoredCheckpoint;

use super::claim::{Claim, MOST_CHANNELS, Mark, MarkSource};
use super::value::Parameterization;
use super::{SD_SCALING_FACTOR, VaeConstants};
use crate::family::Prediction;

const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// Returns the marks in the configurations of a folder. Absent fields have the defaults of diffusers.
pub(super) fn read(stored: &StoredCheckpoint, marks: &mut Vec<Mark>) {
    if let Some(Value::Object(config)) = stored.configs().get("scheduler") {
        scheduler(config, marks);
    }
    if let Some(Value::Object(config)) = stored.configs().get("vae") {
        vae(config, marks);
    }
}

fn scheduler(config: &Map<String, Value>, marks: &mut Vec<Mark>) {
    let mut add =
        |field: &str, claim| marks.push(Mark::new(MarkSource::Config, format!("{SCHEDULER}: {field}"), claim));
    let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    let kind = config.get("prediction_type").and_then(Value::as_str);
    let is_edm = class.starts_with("EDM");
    let prediction = match kind {
        _ if class.starts_with("FlowMatch") => Prediction::Flow,
        None | Some("epsilon") => {
            if is_edm {
                Prediction::Edm
            } else {
                Prediction::Epsilon
            }
        }
        Some("v_prediction") => {
            if is_edm {
                Prediction::EdmVelocity
            } else {
                Prediction::Velocity
            }
        }
        Some("flow_prediction") => Prediction::Flow,
        Some("sample") => Prediction::Sample,
        Some(_) => Prediction::Unknown,
    };
    let field = if kind.is_some() && !is_edm { "prediction_type" } else { "_class_name, prediction_type" };
    add(field, Claim::Prediction(prediction));
    if let Some(rescales) = config.get("rescale_betas_zero_snr").and_then(Value::as_bool) {
        add("rescale_betas_zero_snr", Claim::ZeroTerminalSnr(rescales));
    }
    if let Some(spacing) = config.get("timestep_spacing").and_then(Value::as_str) {
        add("timestep_spacing", Claim::TimestepSpacing(spacing.to_owned()));
    }
    for (field, claim) in [
        ("sigma_min", Claim::SigmaMin as fn(f64) -> Claim),
        ("sigma_max", Claim::SigmaMax),
        ("sigma_data", Claim::SigmaData),
    ] {
        // Schedulers other than those of EDM have fields of the same name with another meaning.
        if let Some(number) = config.get(field).and_then(Value::as_f64).filter(|_| is_edm) {
            add(field, claim(number));
        }
    }
}

fn vae(config: &Map<String, Value>, marks: &mut Vec<Mark>) {
    let mut add =
        |field: &str, claim| marks.push(Mark::new(MarkSource::Config, format!("vae/config.json: {field}"), claim));
    let number = |field: &str| config.get(field).and_then(Value::as_f64);
    let numbers = |field: &str| -> Option<Vec<f64>> {
        let list = config.get(field)?.as_array()?;
        let numbers: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
        let is_whole = numbers.len() == list.len() && (1..=MOST_CHANNELS).contains(&list.len());
        is_whole.then_some(numbers)
    };
    add("scaling_factor", Claim::ScalingFactor(number("scaling_factor").unwrap_or(SD_SCALING_FACTOR)));
    if let Some(shift) = number("shift_factor") {
        add("shift_factor", Claim::ShiftFactor(shift));
    }
    if let (Some(mean), Some(std)) = (numbers("latents_mean"), numbers("latents_std")) {
        add("latents_mean", Claim::LatentsMean(mean));
        add("latents_std", Claim::LatentsStd(std));
    }
    add("force_upcast", Claim::ForceUpcast(config.get("force_upcast").and_then(Value::as_bool).unwrap_or(true)));
}

/// The result of [`patch_scheduler`].
pub(crate) enum Patch {
    /// The configuration says so already.
    None,
    /// The configuration with corrected fields.
    Fields(Value),
    /// The class of the scheduler does not fit: it has to be replaced.
    Class,
}

/// Corrects the configuration of a scheduler for a parameterization.
pub(crate) fn patch_scheduler(config: &Value, wanted: &Parameterization) -> Patch {
    let Value::Object(fields) = config else { return Patch::Class };
    let mut marks = Vec::new();
    scheduler(fields, &mut marks);
    let own = Parameterization::resolve(None, wanted.task, marks);
    let same_sigmas =
        [own.sigma_min, own.sigma_max, own.sigma_data] == [wanted.sigma_min, wanted.sigma_max, wanted.sigma_data];
    if own.prediction == wanted.prediction && same_sigmas && own.zero_terminal_snr == wanted.zero_terminal_snr {
        return Patch::None;
    }
    let word = match wanted.prediction {
        Prediction::Epsilon => "epsilon",
        Prediction::Velocity => "v_prediction",
        _ => return Patch::Class,
    };
    let is_flow = own.prediction == Prediction::Flow;
    let class = fields.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    if own.prediction.is_edm() || is_flow || (wanted.zero_terminal_snr && !rescales(class)) {
        return Patch::Class;
    }
    let mut fields = fields.clone();
    fields.insert("prediction_type".to_owned(), word.into());
    if own.zero_terminal_snr != wanted.zero_terminal_snr {
        fields.insert("rescale_betas_zero_snr".to_owned(), wanted.zero_terminal_snr.into());
    }
    Patch::Fields(Value::Object(fields))
}

/// Returns whether a scheduler of diffusers has the option `rescale_betas_zero_snr`.
pub(crate) fn rescales(class: &str) -> bool {
    matches!(
        class,
        "DDIMScheduler"
            | "DDIMParallelScheduler"
            | "DDPMScheduler"
            | "DDPMParallelScheduler"
            | "DPMSolverMultistepScheduler"
            | "EulerDiscreteScheduler"
            | "EulerAncestralDiscreteScheduler"
            | "LCMScheduler"
            | "TCDScheduler"
            | "UniPCMultistepScheduler"
    )
}

/// Corrects the configuration of a VAE. `None` if it has these constants already.
pub(crate) fn patch_vae(config: &Value, wanted: &VaeConstants) -> Option<Value> {
    let Value::Object(fields) = config else { return None };
    let mut marks = Vec::new();
    vae(fields, &mut marks);
    let own = Parameterization::resolve(None, None, marks).vae;
    if own == *wanted {
        return None;
    }
    let mut fields = fields.clone();
    let mut set = |name: &str, value: Value, differs: bool| {
        if differs {
            fields.insert(name.to_owned(), value);
        }
    };
    set("scaling_factor", wanted.scaling_factor.into(), own.scaling_factor != wanted.scaling_factor);
    set("shift_factor", wanted.shift_factor.into(), own.shift_factor != wanted.shift_factor);
    set("latents_mean", wanted.latents_mean.clone().into(), own.latents_mean != wanted.latents_mean);
    set("latents_std", wanted.latents_std.clone().into(), own.latents_std != wanted.latents_std);
    set("force_upcast", wanted.force_upcast.into(), own.force_upcast != wanted.force_upcast);
    Some(Value::Object(fields))
}
