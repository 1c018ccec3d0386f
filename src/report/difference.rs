use std::fmt::Write;

use serde::Serialize;

use crate::checkpoint::compare::Comparison;
use crate::error::printable;
use crate::model::Component;
use crate::tensor::LazyTensor;

/// Tensors that differ, of one component, that text lists; JSON has all of them.
const LISTED: usize = 8;

/// What differs between two checkpoints.
#[derive(Debug, Serialize)]
pub struct Difference {
    a: String,
    b: String,
    /// Whether nothing differs.
    pub equal: bool,
    components: Vec<ComponentDifference>,
    /// Tensors that one side has and a folder, the other side, cannot hold.
    not_compared: usize,
}

#[derive(Debug, Serialize)]
struct ComponentDifference {
    name: &'static str,
    equal: usize,
    /// The tensors that are not equal.
    different: Vec<TensorDifference>,
}

/// One key that is not the same on both sides.
#[derive(Debug, Serialize)]
struct TensorDifference {
    key: String,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
enum Found {
    OnlyInA,
    OnlyInB,
    Both {
        a: Side,
        b: Side,
        #[serde(flatten)]
        comparison: Comparison,
    },
}

#[derive(Debug, Serialize)]
struct Side {
    dtype: &'static str,
    shape: Vec<u64>,
}

impl Side {
    fn new(tensor: &LazyTensor) -> Self {
        Side { dtype: tensor.dtype().name(), shape: tensor.shape().dims().to_vec() }
    }
}

/// One key of the comparison: its tensors, and how they compare if both are there.
pub type Compared<'a> = (String, Option<&'a LazyTensor>, Option<&'a LazyTensor>, Option<Comparison>);

impl Difference {
    /// Sorts what was compared by component.
    pub fn new(a: String, b: String, compared: Vec<Compared<'_>>) -> Self {
        let mut components: Vec<ComponentDifference> = Component::ALL
            .iter()
            .map(|component| ComponentDifference { name: component.name(), equal: 0, different: Vec::new() })
            .collect();
        for (key, left, right, comparison) in compared {
            let name = Component::of_key(&key).name();
            let Some(component) = components.iter_mut().find(|component| component.name == name) else { continue };
            let found = match (left, right, comparison) {
                (_, _, Some(Comparison::Equal)) => {
                    component.equal += 1;
                    continue;
                }
                (Some(left), Some(right), Some(comparison)) => {
                    Found::Both { a: Side::new(left), b: Side::new(right), comparison }
                }
                (Some(_), _, _) => Found::OnlyInA,
                _ => Found::OnlyInB,
            };
            component.different.push(TensorDifference { key, found });
        }
        components.retain(|component| component.equal > 0 || !component.different.is_empty());
        let equal = components.iter().all(|component| component.different.is_empty());
        Difference { a, b, equal, components, not_compared: 0 }
    }

    /// Notes how many tensors were left out of the comparison, because a folder cannot hold them.
    #[must_use]
    pub fn with_not_compared(mut self, count: usize) -> Self {
        self.not_compared = count;
        self
    }

    /// A line for each component, and the first tensors that differ.
    pub fn to_text(&self) -> String {
        let verdict = if self.equal { "equal" } else { "different" };
        let mut out = format!("A {}\nB {}\n{verdict}\n", printable(&self.a), printable(&self.b));
        for component in &self.components {
            let _ = writeln!(out, "  {:<17} {}", component.name, component.to_text());
            for tensor in component.different.iter().take(LISTED) {
                let _ = writeln!(out, "    {}: {}", printable(&tensor.key), tensor.found.to_text());
            }
            if component.different.len() > LISTED {
                let _ = writeln!(out, "    and {} more; --json lists all", component.different.len() - LISTED);
            }
        }
        if self.not_compared > 0 {
            let _ = writeln!(
                out,
                "  not compared      {} tensors that a diffusers folder does not hold",
                self.not_compared
            );
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

impl Found {
    fn word(&self) -> &'static str {
        match self {
            Found::OnlyInA => "only in A",
            Found::OnlyInB => "only in B",
            Found::Both { comparison, .. } => match comparison {
                Comparison::Equal => "equal",
                Comparison::SameValues => "equal but for dtype",
                Comparison::Shape => "of another shape",
                Comparison::Values { .. } => "with other values",
            },
        }
    }

    fn to_text(&self) -> String {
        let Found::Both { a, b, comparison } = self else { return self.word().to_owned() };
        match comparison {
            Comparison::Shape => format!("{:?} against {:?}", a.shape, b.shape),
            Comparison::Values { elements, max_abs } => {
                let dtypes =
                    if a.dtype == b.dtype { String::new() } else { format!("{} against {}, ", a.dtype, b.dtype) };
                format!("{dtypes}{elements} elements differ, by at most {max_abs:.3e}")
            }
            _ => format!("{} against {}", a.dtype, b.dtype),
        }
    }
}
