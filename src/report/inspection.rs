use std::fmt::Write;

use indexmap::IndexMap;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::danger::Finding;
use crate::error::printable;
use crate::format::Container;
use crate::model::Component;
use crate::model::architecture::{Detection, Prediction};
use crate::model::position_ids::{self, State};
use crate::report::{ComponentSummary, LeftOut, count, size};
use crate::state_dict::StateDict;
use crate::tensor::LazyTensor;

/// Characters of a metadata value that text shows; JSON has all of it.
const SHOWN: usize = 100;

/// What a file holds.
#[derive(Debug, Serialize)]
pub struct Inspection {
    file: String,
    bytes: u64,
    container: &'static str,
    /// The architecture that keys and shapes show, and for what; `None` where they show none.
    architecture: Option<String>,
    /// What was seen, and what each thing says.
    evidence: Vec<String>,
    /// Where the tensors are in the file's object; empty for the object itself.
    root: String,
    tensors: usize,
    parameters: u64,
    tensor_bytes: u64,
    components: Vec<ComponentSummary>,
    /// The text encoder's position_ids: right, or what is wrong with them.
    position_ids: Option<String>,
    /// The published file it is, if its size and sha256 say so.
    published: Option<String>,
    metadata: IndexMap<String, String>,
    /// Values that stay in the file whatever is done with it.
    opaque: Vec<LeftOut>,
    /// What loading the file with Python could run.
    dangers: Vec<String>,
    /// Tensors that no output can hold.
    unreadable: Vec<LeftOut>,
    /// Global names the pickle mentions, with how often.
    globals: IndexMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<Key>>,
}

/// `SD v1, text to image`.
fn architecture_text(detection: &Detection) -> Option<String> {
    let architecture = detection.architecture()?;
    let task = detection.task.map(|task| format!(", {}", task.name())).unwrap_or_default();
    let prediction = match detection.prediction {
        Prediction::Velocity => ", v-prediction",
        Prediction::Epsilon | Prediction::Unknown => "",
    };
    Some(format!("{}{task}{prediction}", architecture.name()))
}

/// What position_ids are like; `None` where there are none. The one thing an inspection reads beyond the headers.
fn position_ids_text(state_dict: &StateDict) -> Option<String> {
    let Some((key, tensor)) = state_dict.iter().find(|(key, _)| position_ids::is_key(key)) else {
        let embedding = state_dict.keys().find_map(position_ids::key_beside);
        return embedding.map(|_| "missing; --fix-position-ids puts them in".to_owned());
    };
    let dtype = tensor.dtype();
    Some(match position_ids::judge(tensor, position_ids::positions(state_dict, key)) {
        Ok(State::Right) => "right".to_owned(),
        Ok(State::WrongDtype) => {
            format!("{dtype} instead of I64, but the right numbers; --fix-position-ids mends them")
        }
        Ok(State::WrongValues) => format!("{dtype}, WRONG numbers; --fix-position-ids mends them"),
        Err(error) => error.to_string(),
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
    /// Looks at an opened checkpoint; its components as they are in LDM names, and
    /// its tensors, if `keys`. Reads no tensor but position_ids.
    pub fn new(
        checkpoint: &Checkpoint,
        components: Vec<ComponentSummary>,
        detection: &Detection,
        published: Option<String>,
        keys: bool,
    ) -> Self {
        let contents = checkpoint.contents();
        let mut globals = IndexMap::new();
        for global in &contents.globals {
            *globals.entry(global.name.to_string()).or_default() += 1;
        }
        let list = || {
            let key = |(key, tensor): (&str, &LazyTensor)| Key {
                key: key.to_owned(),
                dtype: tensor.dtype().name(),
                shape: tensor.shape().dims().to_vec(),
            };
            contents.state_dict.iter().map(key).collect()
        };
        Inspection {
            file: checkpoint.path().to_string_lossy().into_owned(),
            bytes: checkpoint.file_bytes(),
            container: contents.container.name(),
            architecture: architecture_text(detection),
            evidence: detection
                .evidence
                .iter()
                .map(|seen| format!("{} {:?}: {}", seen.key, seen.dims, seen.says))
                .collect(),
            root: contents.root.clone(),
            tensors: contents.state_dict.len(),
            parameters: components.iter().map(|summary| summary.parameters).sum(),
            tensor_bytes: contents.state_dict.bytes(),
            components,
            // Folders of today have none, and need none.
            position_ids: position_ids_text(&contents.state_dict)
                .filter(|_| contents.container != Container::Diffusers),
            published,
            metadata: contents.metadata.iter().map(|(name, value)| (name.clone(), value.to_text())).collect(),
            opaque: LeftOut::opaque(contents),
            dangers: contents.dangers.iter().map(Finding::to_text).collect(),
            unreadable: LeftOut::unreadable(contents),
            globals,
            keys: keys.then(list),
        }
    }

    /// A block of lines for people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, "  {label:<17} {text}");
        };
        let under =
            if self.root.is_empty() { String::new() } else { format!(", tensors under {}", printable(&self.root)) };
        line("container", &format!("{}, {}{under}", self.container, size(self.bytes)));
        let is_unet = self.components.iter().any(|component| component.name == Component::Unet.name());
        if let Some(architecture) = &self.architecture {
            line("architecture", architecture);
        } else if is_unet {
            line("architecture", "unknown");
        }
        if let Some(published) = &self.published {
            line("published as", published);
        }
        line("tensors", &format!("{} in all, {}", self.tensors, size(self.tensor_bytes)));
        for component in &self.components {
            let completeness = component.completeness_text().map(|text| format!(", {text}")).unwrap_or_default();
            line(component.name, &format!("{}{completeness}", component.to_text()));
        }
        if let Some(position_ids) = &self.position_ids {
            line("position_ids", position_ids);
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
            line("not readable", &unreadable.to_text());
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
