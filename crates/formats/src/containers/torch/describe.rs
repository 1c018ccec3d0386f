//! Describes opaque values in a few words.

use std::collections::{BTreeSet, HashSet};

use super::python::{is_tensor, shorten};
use crate::limits;
use crate::pickle::{Id, Node, Pickle};

/// Describes values. Visits at most [`limits::DESCRIBED_VALUES`] of them per file.
pub(super) struct Describer<'a> {
    pickle: &'a Pickle,
    budget: usize,
}

impl<'a> Describer<'a> {
    pub(super) fn new(pickle: &'a Pickle) -> Self {
        Describer { pickle, budget: limits::DESCRIBED_VALUES }
    }

    /// Describes a value: its kind, the number of tensors in it, the classes it names.
    pub(super) fn describe(&mut self, id: Id) -> String {
        let pickle = self.pickle;
        let kind = match pickle.node(id) {
            Node::Dict(_) => "dict".to_owned(),
            Node::List(_) => "list".to_owned(),
            Node::Tuple(_) => "tuple".to_owned(),
            Node::Set(_) => "set".to_owned(),
            Node::BigInt { .. } => "integer of more than 64 bits".to_owned(),
            Node::Str(_) => "text that is not valid Unicode".to_owned(),
            Node::Bytes(_) => "bytes".to_owned(),
            Node::Global(name) => format!("class {}", shorten(&name.to_string())),
            Node::Persistent(_) => "storage".to_owned(),
            Node::Object(object) => match pickle.global(object.callable) {
                Some(_) if is_tensor(pickle, id) => "tensor".to_owned(),
                // `copyreg` builds an object of the class in its first argument.
                Some(name) if matches!(name.module.as_str(), "copy_reg" | "copyreg") => {
                    let class = pickle.tuple(object.args).and_then(|args| pickle.global(*args.first()?));
                    shorten(&class.unwrap_or(name).to_string()).to_owned()
                }
                Some(name) => shorten(&name.to_string()).to_owned(),
                None => "object".to_owned(),
            },
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Unknown => "value".to_owned(),
        };
        let (tensors, classes) = self.survey(id);
        let mut words = vec![kind.clone()];
        match tensors {
            0 => {}
            _ if kind == "tensor" => {}
            1 => words.push("1 tensor".into()),
            _ => words.push(format!("{tensors} tensors")),
        }
        words.extend(classes.into_iter().filter(|class| *class != kind).take(3));
        words.join(", ")
    }

    /// Counts the tensors in a value and collects the classes it names.
    fn survey(&mut self, id: Id) -> (usize, BTreeSet<String>) {
        let pickle = self.pickle;
        let mut tensors = 0;
        let mut classes = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            // Counts references rather than values: a thousand lists may each hold the same list a thousand times.
            if self.budget == 0 {
                break;
            }
            self.budget -= 1;
            if !seen.insert(id) {
                continue;
            }
            let before = pending.len();
            match pickle.node(id) {
                _ if is_tensor(pickle, id) => tensors += 1,
                Node::Tuple(items) | Node::List(items) | Node::Set(items) => pending.extend(items),
                Node::Dict(items) => pending.extend(items.iter().flat_map(|&(key, value)| [key, value])),
                Node::Global(name) if !is_plumbing(&name.module) => {
                    classes.insert(shorten(&name.to_string()).to_owned());
                }
                Node::Object(object) => {
                    pending.extend([object.callable, object.args]);
                    pending.extend(object.kwargs);
                    pending.extend(object.state.iter().chain(&object.items));
                    pending.extend(object.pairs.iter().flat_map(|&(key, value)| [key, value]));
                }
                _ => {}
            }
            // May exceed what is left: the next round then stops.
            self.budget = self.budget.saturating_sub(pending.len() - before);
        }
        (tensors, classes)
    }
}

/// Returns whether names of this module do not help to describe a value.
fn is_plumbing(module: &str) -> bool {
    let top = module.split_once('.').map_or(module, |(top, _)| top);
    matches!(top, "collections" | "_codecs" | "numpy" | "copy_reg" | "copyreg" | "__builtin__" | "builtins")
}
