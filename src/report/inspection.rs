use std::fmt::Write;

use indexmap::IndexMap;
use serde::{Serialize, Serializer};

use crate::formats::StoredCheckpoint;
use crate::formats::containers::Container;
use crate::formats::danger::Finding;
use crate::formats::error::printable;
use crate::formats::state_dict::StateDict;
use crate::formats::tensor::LazyTensor;
use crate::models::Component;
use crate::models::detection::{Detection, Evidence};
use crate::models::family::Prediction;
use crate::models::position_ids::{self, State};
use crate::models::published::Published;
use crate::report::components::ComponentSummary;
use crate::report::published_file::PublishedFile;
use crate::report::units::{count, size};
use crate::report::write_report::LeftOut;

/// Characters of a metadata value that the text shows. JSON has the whole value.
const SHOWN: usize = 100;

/// The contents of a file.
#[derive(Debug, Serialize)]
pub struct Inspection {
    file: String,
    bytes: u64,
    container: String,
    /// The architecture, if keys and shapes show one.
    architecture: Option<&'static str>,
    /// The task of the UNet, if there is one.
    task: Option<&'static str>,
    /// What the UNet predicts, if there is one.
    prediction: Option<&'static str>,
    /// The evidence for the architecture.
    evidence: Vec<EvidenceLine>,
    /// The path of the state dict in the pickled object; empty if it is the object itself.
    root: String,
    tensors: usize,
    parameters: u64,
    tensor_bytes: u64,
    components: Vec<ComponentSummary>,
    /// The state of the text encoder's position_ids; `None` without a text encoder.
    position_ids: Option<PositionIds>,
    /// The published file with this size and sha256.
    published: Option<PublishedFile>,
    metadata: IndexMap<String, String>,
    /// Values that no output can hold.
    opaque: Vec<LeftOut>,
    /// What the file could run when loaded with Python.
    dangers: Vec<String>,
    /// Tensors that no output can hold.
    unreadable: Vec<LeftOut>,
    /// The global names in the pickle, with their number of occurrences.
    globals: IndexMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<Key>>,
    #[serde(skip)]
    container_text: &'static str,
    #[serde(skip)]
    architecture_text: Option<String>,
}

/// One piece of evidence for the architecture.
#[derive(Debug, Serialize)]
struct EvidenceLine {
    key: String,
    shape: Vec<u64>,
    finding: String,
    candidates: Vec<&'static str>,
}

impl From<&Evidence> for EvidenceLine {
    fn from(evidence: &Evidence) -> Self {
        EvidenceLine {
            key: evidence.key.clone(),
            shape: evidence.dims.clone(),
            finding: evidence.finding.clone(),
            candidates: evidence.candidates.iter().map(|candidate| candidate.name()).collect(),
        }
    }
}

/// The state of position_ids: a word for scripts, a text for people.
#[derive(Debug)]
struct PositionIds {
    state: &'static str,
    text: String,
}

impl Serialize for PositionIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.state)
    }
}

/// `SD v1, text to image`.
fn architecture_text(detection: &Detection) -> Option<String> {
    let architecture = detection.architecture()?;
    let task = detection.task.map_or_else(String::new, |task| format!(", {}", task.text()));
    let prediction = if detection.prediction == Prediction::Velocity { ", v-prediction" } else { "" };
    Some(format!("{}{task}{prediction}", architecture.text()))
}

/// Checks position_ids; `None` without a text encoder. This is the only tensor that an inspection reads.
fn position_ids(state_dict: &StateDict) -> Option<PositionIds> {
    let Some((key, tensor)) = state_dict.iter().find(|(key, _)| position_ids::is_key(key)) else {
        state_dict.keys().find_map(position_ids::key_beside)?;
        return Some(PositionIds { state: "missing", text: "missing; --fix-position-ids adds them".to_owned() });
    };
    let dtype = tensor.dtype();
    Some(match position_ids::check(tensor, position_ids::positions(state_dict, key)) {
        Ok(state) => PositionIds {
            state: state.name(),
            text: match state {
                State::Correct => "ok".to_owned(),
                State::WrongDtype => format!("{dtype} instead of I64; --fix-position-ids corrects them"),
                State::WrongValues => format!("WRONG values, {dtype}; --fix-position-ids corrects them"),
            },
        },
        Err(error) => PositionIds { state: "unreadable", text: error.to_string() },
    })
}

/// One tensor.
#[derive(Debug, Serialize)]
struct Key {
    key: String,
    dtype: &'static str,
    shape: Vec<u64>,
}

impl Inspection {
    /// Inspects a checkpoint. `components` are those of its translation into LDM names; `keys` includes all tensors. Reads
    /// no tensor data except position_ids.
    pub fn new(
        checkpoint: &StoredCheckpoint,
        components: Vec<ComponentSummary>,
        detection: &Detection,
        published: Option<&'static Published>,
        keys: bool,
    ) -> Self {
        let mut globals = IndexMap::new();
        for global in checkpoint.globals() {
            *globals.entry(global.name.to_string()).or_default() += 1;
        }
        let list = || {
            let key = |(key, tensor): (&str, &LazyTensor)| Key {
                key: key.to_owned(),
                dtype: tensor.dtype().name(),
                shape: tensor.shape().dims().to_vec(),
            };
            checkpoint.state_dict().iter().map(key).collect()
        };
        Inspection {
            file: checkpoint.path().to_string_lossy().into_owned(),
            bytes: checkpoint.file_bytes(),
            container: checkpoint.container().name().replace(' ', "-"),
            container_text: checkpoint.container().name(),
            architecture: detection.architecture().map(|it| it.name()),
            task: detection.task.map(|it| it.name()),
            prediction: detection.task.map(|_| detection.prediction.name()),
            evidence: detection.evidence.iter().map(EvidenceLine::from).collect(),
            root: checkpoint.root().to_owned(),
            tensors: checkpoint.state_dict().len(),
            parameters: components.iter().map(|summary| summary.parameters).sum(),
            tensor_bytes: checkpoint.state_dict().bytes(),
            components,
            // Newer folders have none, and need none.
            position_ids: position_ids(checkpoint.state_dict())
                .filter(|_| checkpoint.container() != Container::Diffusers),
            published: published.map(PublishedFile::from),
            metadata: checkpoint.metadata().iter().map(|(name, value)| (name.clone(), value.to_text())).collect(),
            opaque: LeftOut::opaque(checkpoint),
            dangers: checkpoint.dangers().iter().map(Finding::to_text).collect(),
            unreadable: LeftOut::unreadable(checkpoint),
            globals,
            keys: keys.then(list),
            architecture_text: architecture_text(detection),
        }
    }

    /// Formats the contents, one fact per line.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, "  {label:<17} {text}");
        };
        let under =
            if self.root.is_empty() { String::new() } else { format!(", tensors under {}", printable(&self.root)) };
        line("container", &format!("{}, {}{under}", self.container_text, size(self.bytes)));
        let is_unet = self.components.iter().any(|component| component.component == Component::Unet);
        if let Some(architecture) = &self.architecture_text {
            line("architecture", architecture);
        } else if is_unet {
            line("architecture", "unknown");
        }
        if let Some(published) = &self.published {
            line("published as", &published.to_text());
        }
        line("tensors", &format!("{}, {}", self.tensors, size(self.tensor_bytes)));
        for component in &self.components {
            let completeness = component.completeness_text().map_or_else(String::new, |text| format!(", {text}"));
            line(component.component.text(), &format!("{}{completeness}", component.to_text()));
        }
        if let Some(position_ids) = &self.position_ids {
            line("position_ids", &position_ids.text);
        }
        for (name, value) in &self.metadata {
            let value = printable(value);
            let shown: String = value.chars().take(SHOWN).collect();
            let more = if shown.len() < value.len() { "…" } else { "" };
            line("metadata", &format!("{} = {shown}{more}", printable(name)));
        }
        for opaque in &self.opaque {
            line("opaque", &opaque.to_text());
        }
        for danger in &self.dangers {
            line("DANGER", &format!("the pickle {}", printable(danger)));
        }
        for unreadable in &self.unreadable {
            line("unreadable", &unreadable.to_text());
        }
        if !self.globals.is_empty() {
            let names = self.globals.iter().map(|(name, count)| format!("{} x{count}", printable(name)));
            line(
                "pickle names",
                &format!("{}: {}", count(self.globals.len(), "global"), names.collect::<Vec<_>>().join(", ")),
            );
        }
        for key in self.keys.iter().flatten() {
            let _ = writeln!(out, "  {:<7} {:?} {}", key.dtype, key.shape, printable(&key.key));
        }
        format!("{}\n{out}", printable(&self.file))
    }
}
