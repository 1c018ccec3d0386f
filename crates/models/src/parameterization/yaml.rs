//! The `.yaml` beside a checkpoint: the configuration of the original code, which WebUI and Forge read.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use saphyr_parser::{Event, Parser};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::{read_small, remote};
use trinart_ckpt_formats::limits;

use super::claim::{Claim, Mark, MarkSource};
use crate::family::Prediction;

/// The target of a scaling in a configuration of generative-models (sgm), and what it means.
const SCALINGS: &[(&str, Prediction)] = &[
    ("EpsScaling", Prediction::Epsilon),
    ("VScaling", Prediction::Velocity),
    ("EDMScaling", Prediction::Edm),
    ("VScalingWithEDMcNoise", Prediction::EdmVelocity),
];

/// The fields below `model.params` by which forks of the original code name zero terminal SNR.
const ZERO_SNR: &[&str] = &["zero_snr", "zero_terminal_snr", "rescale_betas_zero_snr", "ztsnr", "use_ztsnr"];

const SCALING: &str = "model.params.denoiser_config.params.scaling_config";
const DISCRETIZATIONS: &[&str] = &[
    "model.params.denoiser_config.params.discretization_config",
    "model.params.sampler_config.params.discretization_config",
];

/// A `.yaml` beside a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideYaml {
    path: PathBuf,
    text: String,
}

impl SideYaml {
    /// The path of the `.yaml` that belongs to a checkpoint file: the same name with another extension.
    pub fn path_beside(checkpoint: &Path) -> PathBuf {
        checkpoint.with_extension("yaml")
    }

    /// Reads the `.yaml` beside a checkpoint file on this machine. `None` for an address.
    pub fn beside_here(checkpoint: &Path) -> Result<Option<Self>> {
        if remote::address(checkpoint).is_some() { Ok(None) } else { Self::beside(checkpoint) }
    }

    /// Reads the `.yaml` beside a checkpoint file. Returns `None` if it does not exist. Fails if it is larger than any
    /// configuration.
    pub fn beside(checkpoint: &Path) -> Result<Option<Self>> {
        Self::open(&Self::path_beside(checkpoint))
    }

    /// Reads a `.yaml`. `None` if it does not exist or is not a regular file, and on a server that lists no files. At an
    /// address, this costs a request.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let is_there = match remote::address(path) {
            Some(_) => remote::beside(path)?.is_some_and(|files| files.iter().any(|file| file == path)),
            None => path.is_file(),
        };
        if !is_there {
            return Ok(None);
        }
        let bytes = read_small(path, "configuration", limits::YAML_FILE)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::malformed("not UTF-8 text").in_file(path))?;
        Ok(Some(SideYaml { path: path.to_owned(), text }))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns what the configuration says about the model. Empty for a `.yaml` of another kind.
    ///
    /// Fails if it is malformed, nested too deeply, or has aliases, which no published configuration has.
    pub fn marks(&self) -> Result<Vec<Mark>> {
        let fields = scalars(&self.text).map_err(|error| error.in_file(&self.path))?;
        marks(&fields, &self.path).map_err(|error| error.in_file(&self.path))
    }

    /// Returns what the configuration says the UNet predicts.
    pub fn prediction(&self) -> Result<Option<Prediction>> {
        let prediction = |mark: Mark| match mark.claim {
            Claim::Prediction(prediction) => Some(prediction),
            _ => None,
        };
        Ok(self.marks()?.into_iter().find_map(prediction))
    }
}

fn marks(fields: &IndexMap<String, String>, path: &Path) -> Result<Vec<Mark>> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let get = |field: &str| fields.get(field).map(String::as_str);
    let number = |field: &str| get(field).and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
    let mut marks = Vec::new();
    let mut add = |field: &str, claim| marks.push(Mark::new(MarkSource::Yaml, format!("{name}: {field}"), claim));
    let class = |target: &str| target.rsplit('.').next().unwrap_or_default().to_owned();
    const PARAMETERIZATION: &str = "model.params.parameterization";
    let target_field = format!("{SCALING}.target");
    if let Some(word) = get(PARAMETERIZATION) {
        let prediction = match word {
            "eps" => Prediction::Epsilon,
            "v" => Prediction::Velocity,
            "x0" => Prediction::Sample,
            other => return Err(Error::unsupported(format!("{PARAMETERIZATION} is {other:?}, expected eps, v or x0"))),
        };
        add(PARAMETERIZATION, Claim::Prediction(prediction));
    } else if let Some(target) = get(&target_field) {
        let scaling = SCALINGS.iter().find(|(name, _)| *name == class(target));
        let Some(&(_, prediction)) = scaling else {
            let names = SCALINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Error::unsupported(format!("{target_field} is {target:?}, expected one of {names}")));
        };
        add(&target_field, Claim::Prediction(prediction));
    } else if get("model.target").is_some_and(|target| target.contains(".diffusion.ddpm")) {
        // The default of the original code.
        add("model.target, without parameterization", Claim::Prediction(Prediction::Epsilon));
    }
    for field in ZERO_SNR.iter().map(|name| format!("model.params.{name}")) {
        if let Some(is_zero) = get(&field).and_then(boolean) {
            add(&field, Claim::ZeroTerminalSnr(is_zero));
        }
    }
    for discretization in DISCRETIZATIONS {
        let field = format!("{discretization}.target");
        if get(&field).is_some_and(|target| class(target).starts_with("ZeroSNR")) {
            add(&field, Claim::ZeroTerminalSnr(true));
        }
        for (name, claim) in [("sigma_min", Claim::SigmaMin as fn(f64) -> Claim), ("sigma_max", Claim::SigmaMax)] {
            let field = format!("{discretization}.params.{name}");
            if let Some(value) = number(&field) {
                add(&field, claim(value));
            }
        }
    }
    let field = format!("{SCALING}.params.sigma_data");
    if let Some(value) = number(&field) {
        add(&field, Claim::SigmaData(value));
    }
    if let Some(value) = number("model.params.scale_factor") {
        add("model.params.scale_factor", Claim::ScalingFactor(value));
    }
    Ok(marks)
}

/// Reads a boolean as YAML 1.1 spells it, which the original code's parser follows.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A mapping or a sequence that the parser is in.
enum Level {
    /// A mapping: the length of its path, and whether a key waits for its value.
    Mapping { path: usize, has_key: bool },
    /// A sequence. Its items have no path.
    Sequence,
}

/// Returns the scalars of the first document by the keys of the mappings around them, joined by dots. Leaves out what is
/// in sequences. Of a repeated key the last one counts, as in PyYAML.
fn scalars(text: &str) -> Result<IndexMap<String, String>> {
    let mut levels: Vec<Level> = Vec::new();
    let mut path = String::new();
    let mut found = IndexMap::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Error::malformed(format!("not valid YAML: {error}")))?;
        let is_in_sequence = levels.iter().any(|level| matches!(level, Level::Sequence));
        match event {
            Event::Alias(_) => {
                let line = span.start.line();
                return Err(Error::unsupported(format!(
                    "line {line}: an alias; expected a configuration without aliases"
                )));
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if levels.len() >= limits::YAML_DEPTH {
                    return Err(Error::limit(format!("nested more than {} levels deep", limits::YAML_DEPTH)));
                }
                if let Some(Level::Mapping { has_key: false, .. }) = levels.last() {
                    return Err(Error::unsupported("a mapping or a sequence as a key; expected text"));
                }
                let is_mapping = matches!(event, Event::MappingStart(..));
                levels.push(if is_mapping {
                    Level::Mapping { path: path.len(), has_key: false }
                } else {
                    Level::Sequence
                });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                levels.pop();
                finish_value(&mut levels, &mut path);
            }
            Event::Scalar(value, ..) => match levels.last_mut() {
                Some(Level::Mapping { has_key, .. }) if !*has_key => {
                    *has_key = true;
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&value);
                }
                Some(Level::Mapping { .. }) => {
                    if !is_in_sequence && path.len() <= limits::YAML_KEYS_BYTES {
                        found.insert(path.clone(), value.into_owned());
                    }
                    finish_value(&mut levels, &mut path);
                }
                _ => {}
            },
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    Ok(found)
}

/// Ends the value of the innermost mapping's current key.
fn finish_value(levels: &mut [Level], path: &mut String) {
    if let Some(Level::Mapping { path: length, has_key }) = levels.last_mut() {
        *has_key = false;
        path.truncate(*length);
    }
}
