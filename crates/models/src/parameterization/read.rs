use std::path::Path;

use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};
use trinart_ckpt_formats::{Metadata, StoredCheckpoint};

use super::claim::{Claim, MOST_CHANNELS, Mark, MarkSource};
use super::value::Parameterization;
use super::yaml::SideYaml;
use super::{config, marks, metadata, statistic};
use crate::detection::Detection;
use crate::family::{Architecture, Prediction, Task};

/// Reads what a model predicts and the constants of its VAE from a checkpoint in LDM names, its metadata, its
/// configurations and the `.yaml` beside it. `stored` is the checkpoint as its file spells it.
///
/// `yaml` reads the `.yaml` beside a file: [`SideYaml::beside`], or [`SideYaml::beside_here`] to spare a request.
///
/// Reads the tensors that are marks, and for SD v2 without marks one norm of the UNet. Fails if one of them cannot be
/// read, or if the `.yaml` is malformed or exceeds a limit.
pub fn read(
    stored: &StoredCheckpoint,
    state_dict: &StateDict,
    metadata: &Metadata,
    detection: &Detection,
    yaml: fn(&Path) -> Result<Option<SideYaml>>,
) -> Result<Parameterization> {
    let mut found = Vec::new();
    keys(state_dict, &mut found).map_err(|error| error.in_file(stored.path()))?;
    metadata::read(metadata, &mut found);
    if stored.container() == Container::Diffusers {
        config::read(stored, &mut found);
    } else if detection.task.is_some()
        && let Some(yaml) = yaml(stored.path())?
    {
        found.extend(yaml.marks()?);
    }
    resolve(state_dict, detection, found).map_err(|error| error.in_file(stored.path()))
}

/// Like [`read`], from the tensors alone.
pub fn read_tensors(state_dict: &StateDict, detection: &Detection) -> Result<Parameterization> {
    let mut found = Vec::new();
    keys(state_dict, &mut found)?;
    resolve(state_dict, detection, found)
}

fn resolve(state_dict: &StateDict, detection: &Detection, mut found: Vec<Mark>) -> Result<Parameterization> {
    let architecture = detection.architecture();
    let is_open = !found.iter().any(|mark| matches!(mark.claim, Claim::Prediction(_)));
    // SD v2 with 4 input channels was published both ways.
    if is_open && architecture == Some(Architecture::Sd2) && detection.task == Some(Task::TextToImage) {
        found.extend(statistic::judge(state_dict)?);
    }
    Ok(Parameterization::resolve(architecture, detection.task, found))
}

/// Reads the tensors that are marks, in the order in which ComfyUI looks for them.
fn keys(state_dict: &StateDict, found: &mut Vec<Mark>) -> Result<()> {
    let mut add = |key: &str, claim| found.push(Mark::new(MarkSource::Key, key, claim));
    if let (Some(mean), Some(std)) = (state_dict.get(marks::EDM_MEAN), state_dict.get(marks::EDM_STD)) {
        let mean = values(marks::EDM_MEAN, mean)?;
        let std = values(marks::EDM_STD, std)?;
        add(marks::EDM_MEAN, Claim::Prediction(Prediction::Edm));
        add(marks::EDM_MEAN, Claim::LatentsMean(mean));
        add(marks::EDM_STD, Claim::LatentsStd(std));
    }
    if let Some(tensor) = state_dict.get(marks::EDM_SIGMA_MAX) {
        add(marks::EDM_SIGMA_MAX, Claim::Prediction(Prediction::EdmVelocity));
        add(marks::EDM_SIGMA_MAX, Claim::SigmaMax(value(marks::EDM_SIGMA_MAX, tensor)?));
        if let Some(tensor) = state_dict.get(marks::EDM_SIGMA_MIN) {
            add(marks::EDM_SIGMA_MIN, Claim::SigmaMin(value(marks::EDM_SIGMA_MIN, tensor)?));
        }
    }
    if state_dict.contains(marks::V_PREDICTION) {
        add(marks::V_PREDICTION, Claim::Prediction(Prediction::Velocity));
    }
    if state_dict.contains(marks::ZERO_TERMINAL_SNR) {
        add(marks::ZERO_TERMINAL_SNR, Claim::ZeroTerminalSnr(true));
    }
    Ok(())
}

/// Reads the numbers of a mark. Fails unless they are a few finite floats.
fn values(key: &str, tensor: &LazyTensor) -> Result<Vec<f64>> {
    let wrong = |found: String| Error::unsupported(found).in_tensor(key);
    let elements = tensor.shape().elements();
    if !tensor.dtype().is_float() || elements == 0 || elements > MOST_CHANNELS as u64 {
        let found = format!("{} {}, expected 1 to {MOST_CHANNELS} floats", tensor.dtype(), tensor.shape());
        return Err(wrong(found));
    }
    let singles =
        tensor.clone().cast(Dtype::F32, Overflow::Saturate)?.to_bytes().map_err(|error| error.in_tensor(key))?;
    let values: Vec<f64> = singles.as_chunks().0.iter().map(|bytes| widen(f32::from_le_bytes(*bytes))).collect();
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(wrong(format!("the value {value}, expected finite numbers"))),
        None => Ok(values),
    }
}

fn value(key: &str, tensor: &LazyTensor) -> Result<f64> {
    match values(key, tensor)?.as_slice() {
        &[only] => Ok(only),
        several => Err(Error::unsupported(format!("{} numbers, expected one", several.len())).in_tensor(key)),
    }
}

/// Returns the shortest decimal number that rounds to this f32: `0.002`, not `0.0020000000949949026`.
fn widen(single: f32) -> f64 {
    single.to_string().parse().unwrap_or(f64::from(single))
}
