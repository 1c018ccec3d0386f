//! Chooses the state dict of a pickle: where the tensors are, whatever the names of the keys.

use std::collections::{HashMap, HashSet};

use super::python::{dict_items, is_tensor};
use crate::limits;
use crate::pickle::{Id, Node, Pickle};

/// Names under which programs store a state dict, most preferred first. WebUI takes `state_dict` before anything else, and
/// readers of upscalers take `params_ema` before `params`.
const NAMES: &[&str] = &[
    "state_dict",
    "string_to_param",
    "params_ema",
    "params-ema",
    "params",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "generator",
    "net_g",
    "weights",
];

/// Beginnings of names of training state. A dict under such a name is a state dict only if there is no other.
const TRAINING: &[&str] = &[
    "optim",
    "opt_",
    "lr_sched",
    "scheduler",
    "scaler",
    "callbacks",
    "loops",
    "disc",
    "net_d",
    "loss",
    "string_to_token",
];

/// Beginnings of names of averages, which are preferred among training state.
const AVERAGES: &[&str] = &["ema", "model_ema", "g_ema"];

/// Names of dicts whose names are a part of the keys, even if there is only one of them: IP-Adapter.
const PARTS: &[&str] = &["image_proj", "ip_adapter"];

/// A named dict wins over a larger one that is less preferred if it has at least this part of its tensors.
const SHARE: usize = 4;

/// Where the state dict is.
pub(super) struct Root<'a> {
    /// The names that lead to it.
    pub path: Vec<&'a str>,
    /// The dict that holds it.
    pub dict: Id,
    /// The dicts around it, outermost first.
    pub around: Vec<Id>,
}

/// The number of tensors in a value: with dimensions, and in all. Counters have no dimensions.
type Weight = (usize, usize);

/// Finds state dicts in a pickle.
pub(super) struct RootFinder<'a> {
    pickle: &'a Pickle,
    /// Values that may still be visited.
    budget: usize,
    weights: HashMap<Id, Weight>,
}

impl<'a> RootFinder<'a> {
    pub(super) fn new(pickle: &'a Pickle) -> Self {
        RootFinder { pickle, budget: limits::DESCRIBED_VALUES, weights: HashMap::new() }
    }

    /// Returns the state dict. `None` if the object is not a dict.
    pub(super) fn find(&mut self) -> Option<Root<'a>> {
        let mut root = Root { path: Vec::new(), dict: self.pickle.root(), around: Vec::new() };
        let mut items = any_dict_items(self.pickle, root.dict)?;
        let mut seen = HashSet::from([root.dict]);
        while root.path.len() < limits::METADATA_DEPTH {
            let Some((name, inner)) = self.inner(&items).filter(|&(_, inner)| seen.insert(inner)) else {
                break;
            };
            let Some(found) = any_dict_items(self.pickle, inner) else { break };
            root.around.push(root.dict);
            root.path.push(name);
            root.dict = inner;
            items = found;
        }
        Some(root)
    }

    /// Returns the nested dict to descend into; `None` if the state dict is the dict with these items.
    fn inner(&mut self, items: &[(Id, Id)]) -> Option<(&'a str, Id)> {
        let pickle = self.pickle;
        let mut own: Weight = (0, 0);
        let mut dicts: Vec<(&str, Id, Weight)> = Vec::new();
        let mut is_split = false;
        for &(key, value) in items {
            if is_tensor(pickle, value) {
                own = add(own, (usize::from(has_dimensions(pickle, value)), 1));
            } else if let weight @ (_, 1..) = self.weight(value) {
                match pickle.word(key).filter(|_| any_dict_items(pickle, value).is_some()) {
                    Some(name) => dicts.push((name, value, weight)),
                    // Tensors under other keys, and in lists.
                    None => is_split |= !pickle.word(key).is_some_and(is_training),
                }
            }
        }
        let named = NAMES.iter().filter_map(|&name| dicts.iter().find(|dict| dict.0 == name).copied());
        let named: Vec<_> = named.collect();
        let largest = named.iter().map(|named| named.2).max().unwrap_or_default();
        let preferred = named.iter().find(|named| named.2.0 * SHARE >= largest.0 && named.2.1 * SHARE >= largest.1);
        if let Some(&(name, id, weight)) = preferred.filter(|named| named.2 >= own) {
            return (weight.1 > 0).then_some((name, id));
        }
        if own.1 > 0 {
            return None;
        }
        let (training, others): (Vec<_>, Vec<_>) =
            dicts.iter().partition(|dict| is_training(dict.0) || is_average(dict.0));
        match others.as_slice() {
            &[&(name, id, _)] if !is_split && !PARTS.contains(&name) => Some((name, id)),
            [] if !is_split => {
                let average = training.iter().find(|dict| is_average(dict.0));
                average.map(|&&(name, id, _)| (name, id))
            }
            _ => None,
        }
    }

    /// Returns how many tensors a value holds, at any depth. Counts fewer once the budget is used up.
    pub(super) fn weight(&mut self, id: Id) -> Weight {
        if let Some(&known) = self.weights.get(&id) {
            return known;
        }
        let pickle = self.pickle;
        let mut weight = (0, 0);
        let mut seen = HashSet::new();
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            if self.budget == 0 {
                break;
            }
            self.budget -= 1;
            if !seen.insert(id) {
                continue;
            }
            if is_tensor(pickle, id) {
                weight = add(weight, (usize::from(has_dimensions(pickle, id)), 1));
            } else if let Node::List(items) | Node::Tuple(items) = pickle.node(id) {
                pending.extend(items);
            } else if let Some(items) = any_dict_items(pickle, id) {
                pending.extend(items.iter().map(|&(_, value)| value));
            }
        }
        self.weights.insert(id, weight);
        weight
    }
}

fn add(a: Weight, b: Weight) -> Weight {
    (a.0 + b.0, a.1 + b.1)
}

/// Returns whether the name is one of training state beside a model.
pub(super) fn is_training(name: &str) -> bool {
    TRAINING.iter().any(|start| name.starts_with(start))
}

fn is_average(name: &str) -> bool {
    AVERAGES.iter().any(|start| name.starts_with(start))
}

/// Returns whether a call that builds a tensor gives it dimensions, as far as its arguments show.
fn has_dimensions(pickle: &Pickle, id: Id) -> bool {
    let Some((_, args, _)) = pickle.call(id) else { return false };
    match args {
        // `_rebuild_tensor_v2(storage, offset, shape, strides, …)`
        &[_, _, shape, ..] => !pickle.tuple(shape).is_some_and(<[_]>::is_empty),
        _ => true,
    }
}

/// Returns the items of a dict, or the parameters of a `ParameterDict`, in which textual inversion stores its tensors: a
/// module with the parameters among its attributes.
pub(super) fn any_dict_items(pickle: &Pickle, id: Id) -> Option<Vec<(Id, Id)>> {
    if let Some(items) = dict_items(pickle, id) {
        return Some(items);
    }
    let (name, _, object) = pickle.call(id)?;
    if !name.is("torch.nn.modules.container", "ParameterDict") {
        return None;
    }
    let attributes = dict_items(pickle, *object.state.last()?)?;
    let (_, parameters) = attributes.iter().rev().find(|&&(key, _)| pickle.word(key) == Some("_parameters"))?;
    dict_items(pickle, *parameters)
}
