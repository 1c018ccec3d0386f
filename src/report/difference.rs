use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::report::colors::{Colors, DOUBTFUL, GOOD};
use crate::report::tip::{NO_TIPS, Tip, TipWords, ending};
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, NonFiniteTensor, non_finite};
use trinart_ckpt_models::Component;
use trinart_ckpt_models::compare::{BothRead, TensorComparison};
use trinart_ckpt_models::measures::{Measures, Sums};

/// Different tensors per component that the text lists, unless they are measured. JSON lists all.
const LISTED: usize = 8;

/// The differences between two checkpoints, as [`Compare`](crate::Compare) returns them.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Difference {
    /// The path of the first checkpoint.
    pub a: String,
    /// The path of the second checkpoint.
    pub b: String,
    /// Whether all compared tensors are equal.
    pub equal: bool,
    /// The differences of each component that one side has.
    pub components: Vec<ComponentDifference>,
    /// The number of tensors that were not compared, because one side is a diffusers folder, which cannot hold them.
    pub not_compared: usize,
    /// The names of metadata that only one side has, or both with other values. They make no difference.
    pub metadata: Vec<String>,
    /// The compared tensors with NaN or infinite values.
    pub non_finite: NonFiniteSides,
}

/// The tensors with NaN or infinite values on each side of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NonFiniteSides {
    /// Those of the first checkpoint.
    pub a: Vec<NonFiniteTensor>,
    /// Those of the second checkpoint.
    pub b: Vec<NonFiniteTensor>,
}

/// The differences of one component.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ComponentDifference {
    /// The component.
    #[serde(rename = "name")]
    pub component: Component,
    /// The number of equal tensors.
    pub equal: usize,
    /// The tensors that differ.
    pub different: Vec<TensorDifference>,
    /// How far the values of all its tensors are apart, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measures>,
}

/// A key whose tensors differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TensorDifference {
    /// The key in LDM names.
    pub key: String,
    /// How the tensors differ.
    #[serde(flatten)]
    pub found: KeyDifference,
}

/// How the tensors of a key differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "found", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyDifference {
    /// Only the first checkpoint has the key.
    OnlyInA,
    /// Only the second checkpoint has the key.
    OnlyInB,
    /// Both checkpoints have the key.
    Both {
        /// The tensor of the first checkpoint.
        a: TensorSummary,
        /// The tensor of the second checkpoint.
        b: TensorSummary,
        /// The result of comparing them.
        #[serde(flatten)]
        comparison: TensorComparison,
        /// How far the values are apart, if that was requested. Complex numbers and tensors of different shapes are not
        /// measured.
        #[serde(skip_serializing_if = "Option::is_none")]
        measures: Option<Measures>,
    },
}

/// The dtype and the shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TensorSummary {
    /// The dtype.
    pub dtype: Dtype,
    /// The dimensions.
    pub shape: Vec<u64>,
}

impl TensorSummary {
    fn new(tensor: &LazyTensor) -> Self {
        TensorSummary { dtype: tensor.dtype(), shape: tensor.shape().dims().to_vec() }
    }
}

/// A key, its tensors on both sides, and what reading them told if both sides have the key.
pub(crate) struct ComparedTensors<'a> {
    pub(crate) key: String,
    pub(crate) a: Option<&'a LazyTensor>,
    pub(crate) b: Option<&'a LazyTensor>,
    pub(crate) found: Option<BothRead>,
}

impl Difference {
    /// Groups compared tensors by component.
    pub(crate) fn new(
        a: String,
        b: String,
        compared: Vec<ComparedTensors<'_>>,
        not_compared: usize,
        non_finite: NonFiniteSides,
    ) -> Self {
        let mut components = BTreeMap::new();
        for ComparedTensors { key, a, b, found } in compared {
            let component = Component::from_key(&key);
            let (difference, all) = components.entry(component).or_insert_with(|| {
                (ComponentDifference { component, equal: 0, different: Vec::new(), measures: None }, None::<Sums>)
            });
            let sums = found.and_then(|found| found.sums);
            if let Some(sums) = &sums {
                all.get_or_insert_default().join(sums);
            }
            let found = match (a, b, found.map(|found| found.comparison)) {
                (_, _, Some(TensorComparison::Equal)) => {
                    difference.equal += 1;
                    continue;
                }
                (Some(a), Some(b), Some(comparison)) => {
                    let (a, b) = (TensorSummary::new(a), TensorSummary::new(b));
                    KeyDifference::Both { a, b, comparison, measures: sums.map(|sums| sums.finish()) }
                }
                (Some(_), _, _) => KeyDifference::OnlyInA,
                _ => KeyDifference::OnlyInB,
            };
            difference.different.push(TensorDifference { key, found });
        }
        let finish = |(mut difference, sums): (ComponentDifference, Option<Sums>)| {
            difference.measures = sums.map(|sums| sums.finish());
            difference
        };
        let components: Vec<_> = components.into_values().map(finish).collect();
        let equal = components.iter().all(|component| component.different.is_empty());
        Difference { a, b, equal, components, not_compared, metadata: Vec::new(), non_finite }
    }

    /// The verdict in words: `equal`, `equal except for dtype`, or the components that differ.
    pub fn verdict(&self) -> String {
        if self.equal {
            return "equal".to_owned();
        }
        let (mut different, mut in_a, mut in_b, mut dtype) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for component in self.components.iter().filter(|it| !it.different.is_empty()) {
            let list = match component.words().as_slice() {
                ["only in A"] if component.equal == 0 => &mut in_a,
                ["only in B"] if component.equal == 0 => &mut in_b,
                ["equal except for dtype"] => &mut dtype,
                _ => &mut different,
            };
            list.push(component.component.text());
        }
        let kinds =
            [(different, "different: "), (dtype, "other dtype: "), (in_a, "only in A: "), (in_b, "only in B: ")];
        let only_dtype = kinds.iter().enumerate().all(|(index, (list, _))| index == 1 || list.is_empty());
        if only_dtype {
            return "equal except for dtype".to_owned();
        }
        let parts = kinds.iter().filter(|(list, _)| !list.is_empty());
        parts.map(|(list, what)| format!("{what}{}", list.join(", "))).collect::<Vec<_>>().join("; ")
    }

    /// Formats one line per component, and the first tensors that differ.
    pub fn to_text(&self) -> String {
        self.to_text_with(NO_TIPS, Colors::Off)
    }

    /// Formats the differences as [`Self::to_text`], with these words for tips, and in colors.
    pub fn to_text_with(&self, words: TipWords<'_>, colors: Colors) -> String {
        let verdict = colors.paint(&self.verdict(), if self.equal { GOOD } else { DOUBTFUL });
        let mut out = format!("{verdict}\nA {}\nB {}\n", printable(&self.a), printable(&self.b));
        for component in &self.components {
            let _ = writeln!(out, "  {:<17} {}", component.component.text(), component.to_text());
            // What one side lacks whole needs no list.
            if component.is_one_sided() {
                continue;
            }
            let listed = if component.measures.is_some() { usize::MAX } else { LISTED };
            for tensor in component.different.iter().take(listed) {
                let _ = writeln!(out, "    {}: {}", printable(&tensor.key), tensor.found.to_text());
            }
            if component.different.len() > listed {
                let (more, ending) = (component.different.len() - listed, ending(Tip::MoreEntries, words));
                let _ = writeln!(out, "    and {more} more{ending}");
            }
        }
        if self.not_compared > 0 {
            let _ =
                writeln!(out, "  not compared      {} tensors that diffusers folders do not hold", self.not_compared);
        }
        if !self.metadata.is_empty() {
            let names = self.metadata.iter().take(LISTED).map(|name| printable(name)).collect::<Vec<_>>().join(", ");
            let more = self.metadata.len().saturating_sub(LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = writeln!(out, "  metadata          differs in {names}{more}");
        }
        for (side, tensors) in [("A", &self.non_finite.a), ("B", &self.non_finite.b)] {
            if let Some(text) = non_finite::to_text(tensors) {
                let _ = writeln!(out, "  note              {side}: {}", printable(&text));
            }
        }
        out
    }
}

impl ComponentDifference {
    /// How its tensors differ, each kind once.
    fn words(&self) -> Vec<&'static str> {
        let mut words: Vec<&str> = Vec::new();
        for word in self.different.iter().map(|tensor| tensor.found.word()) {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }

    /// Whether only one side has the component.
    fn is_one_sided(&self) -> bool {
        self.equal == 0 && matches!(self.words().as_slice(), ["only in A" | "only in B"])
    }

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
        let measures = self.measures.filter(|_| !self.different.is_empty()).map(|found| found.to_text());
        counts.chain(measures).collect::<Vec<_>>().join(", ")
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
        let KeyDifference::Both { a, b, comparison, measures } = self else { return self.word().to_owned() };
        let text = match comparison {
            TensorComparison::Shape => format!("{:?} and {:?}", a.shape, b.shape),
            TensorComparison::Values { elements, max_abs } => {
                let dtypes = if a.dtype == b.dtype { String::new() } else { format!("{} and {}, ", a.dtype, b.dtype) };
                format!("{dtypes}{elements} elements differ by at most {max_abs:.3e}")
            }
            _ => format!("{} and {}", a.dtype, b.dtype),
        };
        let measures = measures.map_or_else(String::new, |found| format!(", {}", found.to_text()));
        text + &measures
    }
}
