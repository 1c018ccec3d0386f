use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::units::{count, size};
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt_models::completeness::{Completeness, completeness};
use trinart_ckpt_models::family::Architecture;
use trinart_ckpt_models::{Component, Components, FileKind};

/// The figures of one component of a checkpoint.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ComponentSummary {
    /// The component.
    #[serde(rename = "name")]
    pub component: Component,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of elements.
    pub parameters: u64,
    /// The size in bytes.
    pub bytes: u64,
    /// The size in bytes with wider floats in F16.
    pub f16_bytes: u64,
    /// The number of tensors of each dtype, by its name.
    pub dtypes: BTreeMap<&'static str, usize>,
    /// The keys, for tensors of a checkpoint that belong to no known component.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// The missing and extra tensors, if the schema of the component is known.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub completeness: Option<Completeness>,
}

impl ComponentSummary {
    /// Summarizes the tensors of a component.
    pub(crate) fn new<'a>(component: Component, tensors: impl Iterator<Item = &'a LazyTensor>) -> Self {
        let mut summary = ComponentSummary {
            component,
            tensors: 0,
            parameters: 0,
            bytes: 0,
            f16_bytes: 0,
            dtypes: BTreeMap::new(),
            keys: Vec::new(),
            completeness: None,
        };
        for tensor in tensors {
            summary.tensors += 1;
            // Tensors of forged files can share elements, so the sums can exceed any size.
            summary.parameters = summary.parameters.saturating_add(tensor.shape().elements());
            summary.bytes = summary.bytes.saturating_add(tensor.bytes());
            let is_wide = tensor.dtype().is_float() && tensor.dtype().size() > Dtype::F16.size();
            let f16_bytes = if is_wide { tensor.shape().bytes(Dtype::F16) } else { tensor.bytes() };
            summary.f16_bytes = summary.f16_bytes.saturating_add(f16_bytes);
            *summary.dtypes.entry(tensor.dtype().name()).or_default() += 1;
        }
        summary
    }

    /// `complete`, or the number of missing, unknown and duplicate tensors with the first key of each.
    pub fn completeness_text(&self) -> Option<String> {
        let found = self.completeness.as_ref()?;
        let part = |keys: &[String], what: &str| {
            let first = keys.first()?;
            let more = if keys.len() > 1 { ", …" } else { "" };
            Some(format!("{} {what} ({}{more})", keys.len(), printable(first)))
        };
        let parts = [
            part(&found.missing, "MISSING"),
            part(&found.extra, "unknown"),
            part(&found.duplicate, "in two spellings"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let complete =
            if found.unused.is_empty() { "complete" } else { "complete without its last layer, which nothing uses" };
        Some(if parts.is_empty() { complete.to_owned() } else { parts.join(", ") })
    }

    /// The first of its keys, for tensors that belong to no known component: `depth_model.model.pretrained.cls_token, …`.
    pub(crate) fn keys_text(&self) -> Option<String> {
        let more = if self.keys.len() > 1 { ", …" } else { "" };
        Some(format!("{}{more}", printable(self.keys.first()?)))
    }

    /// One line: `248 tensors, 83.7 M parameters, 335 MB, F32`.
    pub fn to_text(&self) -> String {
        figures(self.tensors, self.parameters, self.bytes, &self.dtypes)
    }
}

/// The figures of the tensors of a dtype.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DtypeSummary {
    /// The number of tensors.
    pub tensors: usize,
    /// The number of elements.
    pub parameters: u64,
    /// The size in bytes.
    pub bytes: u64,
}

impl DtypeSummary {
    /// Summarizes the tensors of each dtype, by its name.
    pub(crate) fn of(state_dict: &StateDict) -> BTreeMap<&'static str, Self> {
        let mut found: BTreeMap<&'static str, Self> = BTreeMap::new();
        for (_, tensor) in state_dict.iter() {
            let summary = found.entry(tensor.dtype().name()).or_default();
            summary.tensors += 1;
            // Tensors of forged files can share elements, so the sums can exceed any size.
            summary.parameters = summary.parameters.saturating_add(tensor.shape().elements());
            summary.bytes = summary.bytes.saturating_add(tensor.bytes());
        }
        found
    }

    /// Formats several dtypes, the one with the most bytes first: `F32 261, 391 kB (45.4 %); F16 882, …`.
    pub(crate) fn to_text(all: &BTreeMap<&'static str, Self>) -> String {
        let total = all.values().map(|it| it.bytes).fold(0, u64::saturating_add).max(1) as f64;
        let mut sorted: Vec<_> = all.iter().collect();
        sorted.sort_by_key(|(_, summary)| std::cmp::Reverse(summary.bytes));
        let text = |(dtype, it): (&&str, &Self)| {
            format!(
                "{dtype} {}, {} ({:.1} %)",
                count(it.tensors, "tensor"),
                size(it.bytes),
                it.bytes as f64 / total * 100.0
            )
        };
        sorted.into_iter().map(text).collect::<Vec<_>>().join("; ")
    }
}

/// `248 tensors, 83.7 M parameters, 335 MB, F32`.
pub(super) fn figures(tensors: usize, parameters: u64, bytes: u64, dtypes: &BTreeMap<&'static str, usize>) -> String {
    let dtypes = match dtypes.len() {
        0 | 1 => dtypes.keys().copied().collect::<Vec<_>>().join(""),
        _ => dtypes.iter().map(|(dtype, count)| format!("{dtype} {count}")).collect::<Vec<_>>().join(" + "),
    };
    format!("{}, {} parameters, {}, {dtypes}", count(tensors, "tensor"), short(parameters), size(bytes))
}

/// Formats a number of parameters.
pub(super) fn short(number: u64) -> String {
    let value = number as f64;
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1} k", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.2} G", value / 1e9),
    }
}

/// Summarizes the components of a state dict in LDM names, and compares them with the schemas of the architecture.
pub(crate) fn components(
    state_dict: &StateDict,
    kind: FileKind,
    architecture: Option<Architecture>,
) -> Vec<ComponentSummary> {
    let components = Components::of(state_dict);
    let of = |component: Component| {
        let is_plain = |key: &str| Component::from_key(key) == component;
        let tensors = || state_dict.iter().filter(|(key, _)| components.of_key(key) == component);
        // A schema has LDM names, and the widths of Stable Diffusion's autoencoder.
        let has_vae_schema = matches!(kind, FileKind::Vae | FileKind::Checkpoint | FileKind::Parts)
            || architecture == Some(Architecture::StableVideo);
        let has_ldm_names = state_dict.keys().any(is_plain) && (component != Component::Vae || has_vae_schema);
        let mut summary = ComponentSummary::new(component, tensors().map(|(_, tensor)| tensor));
        if component == Component::Other && kind == FileKind::Checkpoint {
            summary.keys = tensors().map(|(key, _)| key.to_owned()).collect();
        }
        summary.completeness = completeness(state_dict, component, architecture).filter(|_| has_ldm_names);
        summary
    };
    Component::ALL.iter().map(|&component| of(component)).filter(|summary| summary.tensors > 0).collect()
}
