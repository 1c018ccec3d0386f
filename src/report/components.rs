use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::printable;
use crate::model::Component;
use crate::model::architecture::Architecture;
use crate::model::completeness::{Completeness, completeness};
use crate::report::{count, size};
use crate::state_dict::StateDict;
use crate::tensor::LazyTensor;

/// One component of a checkpoint in figures.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentSummary {
    /// Its name.
    pub name: &'static str,
    /// Tensors of it.
    pub tensors: usize,
    /// Their elements.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tensors by dtype.
    pub dtypes: BTreeMap<&'static str, usize>,
    /// What it lacks and what it has too much, where its schema is known.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub completeness: Option<Completeness>,
}

impl ComponentSummary {
    /// The figures of some tensors under a name.
    pub fn new<'a>(name: &'static str, tensors: impl Iterator<Item = &'a LazyTensor>) -> Self {
        let (dtypes, completeness) = (BTreeMap::new(), None);
        let mut summary = ComponentSummary { name, tensors: 0, parameters: 0, bytes: 0, dtypes, completeness };
        for tensor in tensors {
            summary.tensors += 1;
            summary.parameters = summary.parameters.saturating_add(tensor.shape().elements());
            summary.bytes = summary.bytes.saturating_add(tensor.bytes());
            *summary.dtypes.entry(tensor.dtype().name()).or_default() += 1;
        }
        summary
    }

    /// `complete`, or what is not: in a few words, with the first of the keys.
    pub fn completeness_text(&self) -> Option<String> {
        let found = self.completeness.as_ref()?;
        let part = |keys: &[String], what: &str| {
            let first = keys.first()?;
            let more = if keys.len() > 1 { ", …" } else { "" };
            Some(format!("{} {what} ({}{more})", keys.len(), printable(first)))
        };
        let parts = [part(&found.missing, "MISSING"), part(&found.extra, "unknown")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        Some(if parts.is_empty() { "complete".to_owned() } else { parts.join(", ") })
    }

    /// One line: `248 tensors, 83.7 M parameters, 335 MB, F32`.
    pub fn to_text(&self) -> String {
        let dtypes = match self.dtypes.len() {
            0 | 1 => self.dtypes.keys().copied().collect::<Vec<_>>().join(""),
            _ => self.dtypes.iter().map(|(dtype, count)| format!("{dtype} {count}")).collect::<Vec<_>>().join(" + "),
        };
        format!(
            "{}, {} parameters, {}, {dtypes}",
            count(self.tensors, "tensor"),
            short(self.parameters),
            size(self.bytes)
        )
    }
}

/// A count of parameters for people.
fn short(number: u64) -> String {
    let value = number as f64;
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1} k", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.2} G", value / 1e9),
    }
}

/// The components of a state dict in LDM names, those that are there, held against their schemas.
pub fn components(state_dict: &StateDict, architecture: Option<Architecture>) -> Vec<ComponentSummary> {
    let of = |component: Component| {
        let tensors = state_dict.iter().filter(move |(key, _)| Component::of_key(key) == component);
        let mut summary = ComponentSummary::new(component.name(), tensors.map(|(_, tensor)| tensor));
        summary.completeness = completeness(state_dict, component, architecture);
        summary
    };
    Component::ALL.iter().map(|&component| of(component)).filter(|summary| summary.tensors > 0).collect()
}
