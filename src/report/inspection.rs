use std::collections::BTreeMap;
use std::fmt::Write;

use indexmap::IndexMap;
use serde::{Serialize, Serializer};

use crate::report::colors::{BAD, Colors, DOUBTFUL};
use crate::report::components::{ComponentSummary, DtypeSummary, short};
use crate::report::lora;
use crate::report::lora_fit;
use crate::report::position_ids::PositionIds;
use crate::report::tip::{NO_TIPS, Tip, TipWords, ending};
use crate::report::tree::TensorTree;
use crate::report::units::{count, short_value, size};
use crate::report::write_report::LeftOut;
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::danger::Finding;
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt_models::completeness::Completeness;
use trinart_ckpt_models::detection::{Detection, Evidence};
use trinart_ckpt_models::family::{Architecture, Prediction, Task};
use trinart_ckpt_models::file_kind::{Identity, Model, Use};
use trinart_ckpt_models::lora::{LoraFit, LoraSummary};
use trinart_ckpt_models::parameterization::{MarkSource, Parameterization};
use trinart_ckpt_models::plan::repair::Repair;
use trinart_ckpt_models::published::PublishedFile;
use trinart_ckpt_models::quantization::Method;
use trinart_ckpt_models::statistics::Statistics;
use trinart_ckpt_models::{Component, FileKind};

/// The size in percent that a checkpoint has at most once it is pruned and in F16, for the text to show it.
const WASTE: u64 = 95;

/// Characters of a metadata value that the text shows. JSON has the whole value.
const SHOWN: usize = 100;

/// The contents of a file, as [`Inspect`](crate::Inspect) returns them.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Inspection {
    /// The path of the file or folder.
    pub file: String,
    /// The size in bytes of the file, or of all weight files of a folder.
    pub bytes: u64,
    /// The container.
    pub container: Container,
    /// What the file is: a checkpoint, a VAE, a LoRA.
    pub kind: FileKind,
    /// The model that the file is, or that it belongs to, if its keys tell.
    pub model: Option<Model>,
    /// What the file is, in words.
    pub name: String,
    /// Other kinds of files whose keys are in this file too.
    pub also: Vec<FileKind>,
    /// What this program can do with the file, beside the commands that take any file.
    pub uses: Vec<Use>,
    /// The architecture, if keys and shapes show exactly one.
    pub architecture: Option<Architecture>,
    /// The task of the UNet; `None` without a UNet.
    pub task: Option<Task>,
    /// What the UNet predicts; `None` without a UNet.
    pub prediction: Option<Prediction>,
    /// What the UNet predicts, the noise schedule and the constants of the VAE, with the marks that say so; `None` without
    /// a UNet and a VAE.
    pub parameterization: Option<Parameterization>,
    /// The evidence for the architecture.
    pub evidence: Vec<Evidence>,
    /// The path of the state dict in the pickled object; empty if it is the object itself.
    pub root: String,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of elements in all components.
    pub parameters: u64,
    /// The size of all tensors in bytes.
    pub tensor_bytes: u64,
    /// The size in bytes of what inference needs, with wider floats in F16: without EMA weights and training residue.
    pub pruned_bytes: u64,
    /// The tensors of each dtype, by its name.
    pub dtypes: BTreeMap<&'static str, DtypeSummary>,
    /// The components that the file has tensors of.
    pub components: Vec<ComponentSummary>,
    /// The components that a checkpoint needs, and that the file lacks.
    pub missing_components: Vec<Component>,
    /// The number of quantized weights, by how they are quantized.
    pub quantization: IndexMap<Method, usize>,
    /// What a LoRA changes, its ranks and scales; `None` for other files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSummary>,
    /// How a LoRA fits the model that it was checked against, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_fit: Option<LoraFit>,
    /// The state of the text encoder's position_ids; `None` without a text encoder, and for diffusers folders.
    pub position_ids: Option<PositionIds>,
    /// The defects that a repair removes.
    pub repairs: Vec<Repair>,
    /// The defect that a repair cannot remove, in words; `None` without one.
    pub unrepairable: Option<String>,
    /// The published file with this size and sha256.
    pub published: Option<&'static PublishedFile>,
    /// Which VAE it is, in words, if that was asked for: a file with the same values, or a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub which_vae: Option<String>,
    /// The plain values beside the tensors, as text.
    pub metadata: IndexMap<String, String>,
    /// Values that no output can hold.
    pub opaque: Vec<LeftOut>,
    /// What the pickle could run when loaded with Python.
    #[serde(serialize_with = "as_texts")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub dangers: Vec<Finding>,
    /// Tensors that no output can hold.
    pub unreadable: Vec<LeftOut>,
    /// The global names in the pickle, with their number of occurrences.
    pub globals: IndexMap<String, usize>,
    /// All tensors, if they were requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<TensorEntry>>,
    /// The names of the tensors as a tree, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<Vec<TensorTree>>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TensorEntry {
    /// The key in the file.
    pub key: String,
    /// The dtype.
    pub dtype: Dtype,
    /// The dimensions.
    pub shape: Vec<u64>,
    /// Statistics of the values, if they were requested; `None` for complex numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Statistics>,
}

/// What was found out about a file.
pub(crate) struct Contents {
    pub(crate) identity: Identity,
    pub(crate) uses: Vec<Use>,
    /// The components of the checkpoint in LDM names.
    pub(crate) components: Vec<ComponentSummary>,
    pub(crate) detection: Detection,
    pub(crate) parameterization: Parameterization,
    pub(crate) quantization: IndexMap<Method, usize>,
    pub(crate) lora: Option<LoraSummary>,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) unrepairable: Option<String>,
    pub(crate) published: Option<&'static PublishedFile>,
}

fn as_texts<S: Serializer>(findings: &[Finding], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(findings.iter().map(Finding::to_text))
}

impl Inspection {
    /// Reports on a file; `keys` adds the list of all tensors. Reads no tensor data except position_ids.
    pub(crate) fn new(checkpoint: &StoredCheckpoint, contents: Contents, keys: bool) -> Self {
        let Contents { identity, uses, components, detection, parameterization, .. } = contents;
        let mut globals = IndexMap::new();
        for global in checkpoint.globals() {
            *globals.entry(global.name.to_string()).or_default() += 1;
        }
        let list = || {
            let key = |(key, tensor): (&str, &LazyTensor)| TensorEntry {
                key: key.to_owned(),
                dtype: tensor.dtype(),
                shape: tensor.shape().dims().to_vec(),
                statistics: None,
            };
            checkpoint.state_dict().iter().map(key).collect()
        };
        let is_inferred = |it: &&ComponentSummary| !matches!(it.component, Component::Ema | Component::TrainingResidue);
        let is_part = |component: &ComponentSummary| matches!(component.component, Component::Unet | Component::Vae);
        let has_model = detection.task.is_some() || components.iter().any(is_part);
        Inspection {
            file: checkpoint.path().to_string_lossy().into_owned(),
            bytes: checkpoint.file_bytes(),
            container: checkpoint.container(),
            kind: identity.kind,
            model: identity.model,
            name: identity.to_text(),
            uses,
            also: identity.also,
            architecture: detection.architecture(),
            task: detection.task,
            prediction: detection.task.map(|_| parameterization.prediction),
            parameterization: has_model.then_some(parameterization),
            evidence: detection.evidence,
            root: checkpoint.root().to_owned(),
            tensors: checkpoint.state_dict().len(),
            parameters: components.iter().map(|summary| summary.parameters).sum(),
            tensor_bytes: checkpoint.state_dict().bytes(),
            pruned_bytes: components
                .iter()
                .filter(|it| is_inferred(it))
                .map(|it| it.f16_bytes)
                .fold(0, u64::saturating_add),
            dtypes: DtypeSummary::of(checkpoint.state_dict()),
            missing_components: missing(identity.kind, &components),
            components,
            quantization: contents.quantization,
            lora: contents.lora,
            lora_fit: None,
            // Newer folders omit them, and programs that read folders do not use them.
            position_ids: match checkpoint.container() {
                Container::Diffusers => None,
                _ => PositionIds::of(checkpoint.state_dict()),
            },
            repairs: contents.repairs,
            unrepairable: contents.unrepairable,
            published: contents.published,
            which_vae: None,
            metadata: checkpoint.metadata().iter().map(|(name, value)| (name.clone(), value.to_text())).collect(),
            opaque: LeftOut::opaque(checkpoint),
            dangers: checkpoint.dangers().to_vec(),
            unreadable: LeftOut::unreadable(checkpoint),
            globals,
            keys: keys.then(list),
            tree: None,
        }
    }

    /// `SD v1, text to image`; `None` if the architecture is unknown.
    fn architecture_text(&self) -> Option<String> {
        let task = self.task.map_or_else(String::new, |task| format!(", {}", task.text()));
        let prediction = if self.prediction == Some(Prediction::Velocity) { ", v-prediction" } else { "" };
        Some(format!("{}{task}{prediction}", self.architecture?.text()))
    }

    /// Formats the contents, one fact per line.
    pub fn to_text(&self) -> String {
        self.to_text_with(NO_TIPS, Colors::Off)
    }

    /// Formats the contents as [`Self::to_text`], with these words for tips, and in colors.
    pub fn to_text_with(&self, words: TipWords<'_>, colors: Colors) -> String {
        let mut out = String::new();
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, "  {label:<17} {text}");
        };
        if let Some(fit) = &self.lora_fit {
            lora_fit::lines(fit, self.keys.is_some(), colors, &mut line);
        }
        let under =
            if self.root.is_empty() { String::new() } else { format!(", tensors under {}", printable(&self.root)) };
        line("container", &format!("{}, {}{under}", self.container.text(), size(self.bytes)));
        line("kind", &self.name);
        for kind in &self.also {
            line("CONTRADICTION", &format!("also has the keys of: {}", kind.text()));
        }
        if !self.uses.is_empty() {
            line("usable for", &self.uses.iter().map(|it| it.text()).collect::<Vec<_>>().join(", "));
        }
        let is_unet = self.components.iter().any(|component| component.component == Component::Unet);
        if let Some(architecture) = self.architecture_text() {
            line("architecture", &architecture);
        } else if is_unet {
            line("architecture", "unknown");
        }
        if let (Some(prediction), Some(found)) = (self.prediction, &self.parameterization) {
            let default = found.evidence.iter().find(|mark| mark.source == MarkSource::Default);
            let by_default = default.map_or_else(String::new, |mark| format!(" ({})", mark.place));
            let zero = if found.zero_terminal_snr { ", zero terminal SNR" } else { "" };
            line("prediction", &format!("{}{zero}{by_default}", prediction.text()));
        }
        for mark in self.parameterization.iter().flat_map(|found| &found.evidence) {
            if mark.source != MarkSource::Default {
                let (field, value) = (mark.claim.field(), mark.claim.value());
                line("mark", &format!("{field} {}, from {}", printable(&value), printable(&mark.place)));
            }
        }
        if let Some(published) = &self.published {
            line("published as", &published.to_text());
        }
        if let Some(which) = &self.which_vae {
            line("which VAE", &printable(which));
        }
        let has_waste = self.kind == FileKind::Checkpoint && self.pruned_bytes < self.tensor_bytes / 100 * WASTE;
        let pruned = if has_waste { format!(", pruned to F16 {}", size(self.pruned_bytes)) } else { String::new() };
        let parameters = short(self.parameters);
        line("tensors", &format!("{}, {parameters} parameters, {}{pruned}", self.tensors, size(self.tensor_bytes)));
        if self.dtypes.len() > 1 {
            line("dtypes", &DtypeSummary::to_text(&self.dtypes));
        }
        for component in &self.components {
            let is_complete = component.completeness.as_ref().is_some_and(Completeness::is_complete);
            let paint = |text: String| if is_complete { text } else { colors.paint(&text, DOUBTFUL) };
            let completeness = component.completeness_text();
            let completeness = completeness.map_or_else(String::new, |text| format!(", {}", paint(text)));
            let keys = component.keys_text().map_or_else(String::new, |keys| format!(" ({keys})"));
            line(component.component.text(), &format!("{}{keys}{completeness}", component.to_text()));
        }
        for component in &self.missing_components {
            line(component.text(), &colors.paint("MISSING", DOUBTFUL));
        }
        if let Some(found) = &self.lora {
            lora::lines(found, &mut line);
        }
        for (method, weights) in &self.quantization {
            line("quantized", &format!("{}, {}", count(*weights, "weight"), method.text()));
        }
        if let Some(position_ids) = &self.position_ids {
            let ending = position_ids.tip().map_or_else(String::new, |tip| ending(tip, words));
            let text = position_ids.to_text();
            let is_correct = *position_ids == PositionIds::Correct;
            let text = if is_correct { text } else { colors.paint(&text, DOUBTFUL) };
            line("position_ids", &format!("{text}{ending}"));
        }
        for repair in &self.repairs {
            line("defect", &format!("{}{}", printable(&repair.to_text()), ending(Tip::Repairable, words)));
        }
        if let Some(defect) = &self.unrepairable {
            line("defect", &printable(defect));
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
            let text = format!("the pickle {}", printable(&danger.to_text()));
            line("DANGER", &colors.paint(&text, BAD));
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
            let found = key.statistics.as_ref().map_or_else(String::new, statistics_text);
            let _ = writeln!(out, "  {:<7} {:?} {}{found}", key.dtype, key.shape, printable(&key.key));
        }
        self.lora.iter().for_each(|found| lora::write_modules(found, &mut out));
        TensorTree::write(self.tree.as_deref().unwrap_or_default(), "  ", &mut out);
        format!("{}\n{out}", printable(&self.file))
    }
}

/// The components that a file of this kind needs and lacks. An image encoder takes the place of a text encoder.
fn missing(kind: FileKind, components: &[ComponentSummary]) -> Vec<Component> {
    let has = |component: Component| components.iter().any(|it| it.component == component);
    let has_encoder = has(Component::TextEncoder) || has(Component::ImageEncoder);
    let needed = [(Component::TextEncoder, has_encoder), (Component::Vae, has(Component::Vae))];
    let lacks = needed.iter().filter(|(_, is_there)| kind == FileKind::Checkpoint && !is_there);
    lacks.map(|(component, _)| *component).collect()
}

/// `, min -1, max 2.5, mean 0.25, std 1.5, 3 zeros, 1 NaN`.
fn statistics_text(found: &Statistics) -> String {
    let numbers = [("min", found.min), ("max", found.max), ("mean", found.mean), ("std", found.std)];
    let numbers = numbers.into_iter().filter_map(|(name, value)| Some(format!(", {name} {}", short_value(value?))));
    let counts = [(found.zeros, "zeros"), (found.nan, "NaN"), (found.infinite, "infinite")];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    numbers.chain(counts).collect()
}
