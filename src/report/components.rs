use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::Component;
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
}

impl ComponentSummary {
    /// The figures of some tensors under a name.
    pub fn new<'a>(name: &'static str, tensors: impl Iterator<Item = &'a LazyTensor>) -> Self {
        let mut summary = ComponentSummary { name, tensors: 0, parameters: 0, bytes: 0, dtypes: BTreeMap::new() };
        for tensor in tensors {
            summary.tensors += 1;
            summary.parameters = summary.parameters.saturating_add(tensor.shape().elements());
            summary.bytes = summary.bytes.saturating_add(tensor.bytes());
            *summary.dtypes.entry(tensor.dtype().name()).or_default() += 1;
        }
        summary
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

/// The components of a state dict, those that are there.
pub fn components(state_dict: &StateDict) -> Vec<ComponentSummary> {
    let of = |component: Component| {
        let tensors = state_dict.iter().filter(move |(key, _)| Component::of_key(key) == component);
        ComponentSummary::new(component.name(), tensors.map(|(_, tensor)| tensor))
    };
    Component::ALL.iter().map(|&component| of(component)).filter(|summary| summary.tensors > 0).collect()
}
