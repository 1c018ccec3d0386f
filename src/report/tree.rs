//! The names of tensors as a tree.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::report::components::figures;
use crate::report::units::size;
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::LazyTensor;

/// The levels of a tree. A name with more parts keeps the others in the last one: the names of known models have up to 15, and
/// trees are walked recursively.
const LEVELS: usize = 32;

/// A part of the names of tensors, and the tensors whose names continue it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TensorTree {
    /// The part of the name between two dots.
    pub name: String,
    /// The number of tensors here and below.
    pub tensors: usize,
    /// The number of their elements.
    pub parameters: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The number of tensors of each dtype, by its name.
    pub dtypes: BTreeMap<&'static str, usize>,
    /// The dimensions of the tensor whose name ends here. `None` if no name ends here.
    pub shape: Option<Vec<u64>>,
    /// The parts that follow, numbers by their value; empty below the requested depth.
    pub children: Vec<TensorTree>,
}

impl TensorTree {
    /// Returns the first parts of all names, with the parts below them: `depth` levels in all.
    pub(crate) fn of(state_dict: &StateDict, depth: usize) -> Vec<Self> {
        let mut tensors: Vec<(Vec<&str>, &LazyTensor)> =
            state_dict.iter().map(|(key, tensor)| (key.splitn(LEVELS, '.').collect(), tensor)).collect();
        tensors.sort_by(|(a, _), (b, _)| by_parts(a, b));
        level(&tensors, 0, depth)
    }

    /// Writes the tree, a line for each part, with the lines that connect them after `indent`.
    pub(super) fn write(nodes: &[Self], indent: &str, out: &mut String) {
        for node in nodes {
            let _ = writeln!(out, "{indent}{}", node.to_text());
            node.write_children(indent, out);
        }
    }

    fn write_children(&self, indent: &str, out: &mut String) {
        let Some((last, others)) = self.children.split_last() else { return };
        for (node, connector, below) in others.iter().map(|node| (node, "├── ", "│   ")).chain([(last, "└── ", "    ")])
        {
            let _ = writeln!(out, "{indent}{connector}{}", node.to_text());
            node.write_children(&format!("{indent}{below}"), out);
        }
    }

    /// `decoder: 138 tensors, 49.5 k parameters, 198 kB, F32`, or of a tensor `bias: F32 [16], 64 B`.
    fn to_text(&self) -> String {
        let name = printable(&self.name);
        match (&self.shape, self.dtypes.first_key_value()) {
            (Some(shape), Some((dtype, _))) if self.tensors == 1 => {
                format!("{name}: {dtype} {shape:?}, {}", size(self.bytes))
            }
            _ => format!("{name}: {}", figures(self.tensors, self.parameters, self.bytes, &self.dtypes)),
        }
    }
}

/// The nodes of a level: one for each part that the names have there. The names are sorted by parts, and the parts before are
/// the same.
fn level(tensors: &[(Vec<&str>, &LazyTensor)], index: usize, depth: usize) -> Vec<TensorTree> {
    if depth == 0 {
        return Vec::new();
    }
    let part = |(parts, _): &(Vec<&str>, _)| parts.get(index).map_or_else(String::new, |&part| part.to_owned());
    tensors
        .chunk_by(|(a, _), (b, _)| a.get(index) == b.get(index))
        .filter_map(|group| group.first().map(|first| (part(first), group)))
        .map(|(name, group)| {
            let ends = |(parts, _): &&(Vec<&str>, _)| parts.len() == index + 1;
            let longer: Vec<_> = group.iter().filter(|it| !ends(it)).cloned().collect();
            let (mut dtypes, mut parameters, mut bytes) = (BTreeMap::new(), 0_u64, 0_u64);
            for (_, tensor) in group {
                *dtypes.entry(tensor.dtype().name()).or_default() += 1;
                // Tensors of forged files can share elements, so the sums can exceed any size.
                parameters = parameters.saturating_add(tensor.shape().elements());
                bytes = bytes.saturating_add(tensor.bytes());
            }
            let shape = group.iter().find(ends).map(|(_, tensor)| tensor.shape().dims().to_vec());
            let children = level(&longer, index + 1, depth - 1);
            TensorTree { name, tensors: group.len(), parameters, bytes, dtypes, shape, children }
        })
        .collect()
}

/// Compares the parts of two names: numbers by their value, and before words.
fn by_parts(a: &[&str], b: &[&str]) -> Ordering {
    let part = |a: &str, b: &str| match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(x), Ok(y)) => x.cmp(&y).then_with(|| a.cmp(b)),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    };
    let different = a.iter().zip(b).map(|(a, b)| part(a, b)).find(|order| order.is_ne());
    different.unwrap_or_else(|| a.len().cmp(&b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::tensor::{Dtype, Shape};

    fn tree(keys: &[&str], depth: usize) -> String {
        let mut state_dict = StateDict::new();
        for (index, key) in keys.iter().enumerate() {
            let dtype = if index == 0 { Dtype::F16 } else { Dtype::F32 };
            let shape = Shape::new([index as u64 + 1]).unwrap();
            let bytes = vec![0; shape.bytes(dtype) as usize];
            state_dict.insert(*key, LazyTensor::owned(dtype, shape, bytes).unwrap()).unwrap();
        }
        let mut out = String::new();
        TensorTree::write(&TensorTree::of(&state_dict, depth), "  ", &mut out);
        out
    }

    #[test]
    fn orders_numbers_by_value_and_joins_what_begins_alike() {
        let expected = "  \
  a: 5 tensors, 15 parameters, 58 B, F16 1 + F32 4
  ├── 2: 2 tensors, 3 parameters, 10 B, F16 1 + F32 1
  │   ├── bias: F16 [1], 2 B
  │   └── weight: F32 [2], 8 B
  ├── 10: 2 tensors, 7 parameters, 28 B, F32
  │   └── x: F32 [4], 16 B
  └── b: F32 [5], 20 B
  b: F32 [6], 24 B
";
        let keys = ["a.2.bias", "a.2.weight", "a.10", "a.10.x", "a.b", "b"];
        assert_eq!(tree(&keys, usize::MAX), expected);
        let expected = "  a: 5 tensors, 15 parameters, 58 B, F16 1 + F32 4\n  b: F32 [6], 24 B\n";
        assert_eq!(tree(&keys, 1), expected);
    }

    #[test]
    fn bounds_the_levels_of_forged_names() {
        let key = "a.".repeat(2000);
        let text = tree(&[&key, "a"], usize::MAX);
        assert_eq!(text.lines().count(), LEVELS);
        // The last level has the rest of the name.
        assert!(text.lines().last().unwrap().contains("a.a.a.a"));
    }
}
