use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::formats::error::printable;
use crate::formats::tensor::LazyTensor;
use crate::models::Component;
use crate::models::compare::TensorComparison;

/// Different tensors per component that the text lists. JSON lists all.
const LISTED: usize = 8;

/// The differences between two checkpoints.
#[derive(Debug, Serialize)]
pub struct Difference {
    a: String,
    b: String,
    /// Whether all compared tensors are equal.
    pub equal: bool,
    components: Vec<ComponentDifference>,
    /// Tensors that were not compared, because one side is a folder, which cannot hold them.
    not_compared: usize,
}

#[derive(Debug, Serialize)]
struct ComponentDifference {
    name: Component,
    equal: usize,
    /// The tensors that differ.
    different: Vec<TensorDifference>,
}

/// A key whose tensors differ.
#[derive(Debug, Serialize)]
struct TensorDifference {
    key: String,
    #[serde(flatten)]
    found: KeyDifference,
}

#[derive(Debug, Serialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
enum KeyDifference {
    OnlyInA,
    OnlyInB,
    Both {
        a: TensorSummary,
        b: TensorSummary,
        #[serde(flatten)]
        comparison: TensorComparison,
    },
}

#[derive(Debug, Serialize)]
struct TensorSummary {
    dtype: &'static str,
    shape: Vec<u64>,
}

impl TensorSummary {
    fn new(tensor: &LazyTensor) -> Self {
        TensorSummary { dtype: tensor.dtype().name(), shape: tensor.shape().dims().to_vec() }
    }
}

/// A key, its tensors on both sides, and their comparison if both sides have the key.
pub type ComparedTensors<'a> = (String, Option<&'a LazyTensor>, Option<&'a LazyTensor>, Option<TensorComparison>);

impl Difference {
    /// Groups compared tensors by component.
    pub fn new(a: String, b: String, compared: Vec<ComparedTensors<'_>>) -> Self {
        let mut components = BTreeMap::new();
        for (key, left, right, comparison) in compared {
            let name = Component::from_key(&key);
            let component =
                components.entry(name).or_insert_with(|| ComponentDifference { name, equal: 0, different: Vec::new() });
            let found = match (left, right, comparison) {
                (_, _, Some(TensorComparison::Equal)) => {
                    component.equal += 1;
                    continue;
                }
                (Some(left), Some(right), Some(comparison)) => {
                    KeyDifference::Both { a: TensorSummary::new(left), b: TensorSummary::new(right), comparison }
                }
                (Some(_), _, _) => KeyDifference::OnlyInA,
                _ => KeyDifference::OnlyInB,
            };
            component.different.push(TensorDifference { key, found });
        }
        let components: Vec<_> = components.into_values().collect();
        let equal = components.iter().all(|component| component.different.is_empty());
        Difference { a, b, equal, components, not_compared: 0 }
    }

    /// Sets the number of tensors that were not compared, because a folder cannot hold them.
    #[must_use]
    pub fn with_not_compared(mut self, count: usize) -> Self {
        self.not_compared = count;
        self
    }

    /// Formats one line per component, and the first tensors that differ.
    pub fn to_text(&self) -> String {
        let verdict = if self.equal { "equal" } else { "different" };
        let mut out = format!("A {}\nB {}\n{verdict}\n", printable(&self.a), printable(&self.b));
        for component in &self.components {
            let _ = writeln!(out, "  {:<17} {}", component.name.text(), component.to_text());
            for tensor in component.different.iter().take(LISTED) {
                let _ = writeln!(out, "    {}: {}", printable(&tensor.key), tensor.found.to_text());
            }
            if component.different.len() > LISTED {
                let _ = writeln!(out, "    and {} more; --json lists all", component.different.len() - LISTED);
            }
        }
        if self.not_compared > 0 {
            let _ =
                writeln!(out, "  not compared      {} tensors that diffusers folders do not hold", self.not_compared);
        }
        out
    }
}

impl ComponentDifference {
    fn to_text(&self) -> String {
        let mut counts: Vec<(&str, usize)> = vec![("equal", self.equal)];
        for tensor in &self.different {
            let word = tensor.found.word();
            match counts.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += 1,
                None => counts.push((word, 1)),
            }
        }
        let counts = counts.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

impl KeyDifference {
    fn word(&self) -> &'static str {
        match self {
            KeyDifference::OnlyInA => "only in A",
            KeyDifference::OnlyInB => "only in B",
            KeyDifference::Both { comparison, .. } => match comparison {
                TensorComparison::Equal => "equal",
                TensorComparison::SameValues => "equal except for dtype",
                TensorComparison::Shape => "with different shapes",
                TensorComparison::Values { .. } => "with different values",
            },
        }
    }

    fn to_text(&self) -> String {
        let KeyDifference::Both { a, b, comparison } = self else { return self.word().to_owned() };
        match comparison {
            TensorComparison::Shape => format!("{:?} and {:?}", a.shape, b.shape),
            TensorComparison::Values { elements, max_abs } => {
                let dtypes = if a.dtype == b.dtype { String::new() } else { format!("{} and {}, ", a.dtype, b.dtype) };
                format!("{dtypes}{elements} elements differ by at most {max_abs:.3e}")
            }
            _ => format!("{} and {}", a.dtype, b.dtype),
        }
    }
}
