//! Judges what a pickle does with a name that is vouched for: calls, BUILD, items and keys.

use std::collections::HashMap;

use super::checks::{array_bytes, copied_tensor, holds};
use super::names::{Judgement, is_dangerous};
use super::values::{Values, arguments};
use super::vouched::{Call, Kind};
use crate::pickle::{Id, Name, Node, Object, op};

/// Bytes and items that all calls together may take, as a multiple of the bytes of the pickle. A pickle can pass one
/// value to many calls, each of which copies it.
const MOST_COPIES: u64 = 16;

/// Bytes and items that the calls of any pickle may take.
const FEW_COPIES: u64 = 1 << 20;

/// Bytes that a `bytearray` may allocate by a number. A pickle of fewer bytes would not name them.
const LARGEST_ALLOCATION: u64 = 1 << 30;

/// Elements of a storage that may be copied, whatever its size.
const FEW_ELEMENTS: u64 = 4096;

/// Judges a call of a name and everything done with its result. Returns `None` if it is vouched for.
pub(super) fn judge_call(values: &Values<'_>, name: &Name, object: &Object) -> Option<Judgement> {
    let args = arguments(values.pickle, object);
    dangerous_call(values, name, args).or_else(|| {
        // The finding for a name that is not vouched for has its level from the name.
        let entry = values.global(object.callable)?;
        let Some(call) = entry.call else {
            return Some(Judgement::unknown("is vouched for as a name, but not to be called"));
        };
        unknown_use(values, object, &call, entry.is)
    })
}

fn unknown_use(values: &Values<'_>, object: &Object, call: &Call, is: Kind) -> Option<Judgement> {
    let pickle = values.pickle;
    let has_kwargs = object.kwargs.is_some_and(|id| !matches!(pickle.node(id), Node::Dict(pairs) if pairs.is_empty()));
    let is_called_as_class = is == Kind::Function && object.opcode != op::REDUCE;
    let is_matched = |args: &[Id]| values.accepts(call.args, args);
    if has_kwargs || is_called_as_class || !pickle.tuple(object.args).is_some_and(is_matched) {
        return Some(Judgement::unknown("is vouched for, but not with these arguments"));
    }
    let has_state = |&state: &Id| call.state.is_some_and(|pattern| values.matches(&pattern, state));
    if object.state.len() > 1 || !object.state.iter().all(has_state) {
        return Some(Judgement::unknown("is vouched for, but not with the state that BUILD sets"));
    }
    if !holds(call.check, values, object) {
        return Some(Judgement::unknown("is vouched for, but not with these arguments and this state"));
    }
    if !call.items && !object.items.is_empty() {
        return Some(Judgement::unknown("is vouched for, but not to have items appended"));
    }
    if !call.pairs && !object.pairs.is_empty() {
        return Some(Judgement::unknown("is vouched for, but not to have items assigned"));
    }
    None
}

/// Judges a call by arguments that are dangerous whatever the name is vouched for.
fn dangerous_call(values: &Values<'_>, name: &Name, args: &[Id]) -> Option<Judgement> {
    let pickle = values.pickle;
    let reason = match (name.module.as_str(), name.name.as_str(), args) {
        ("_codecs", "encode", &[_, codec, ..]) => {
            let is_plain = matches!(pickle.word(codec), Some("latin1" | "latin-1" | "utf-8" | "utf8" | "ascii"));
            (!is_plain).then_some("hides its text behind a codec")
        }
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2", &[function, ..]) => {
            let is_harmless = matches!(pickle.node(function), Node::Global(name) if !is_dangerous(name));
            (!is_harmless).then_some("calls the function in its arguments")
        }
        ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__" | "__newobj_ex__", &[class, ..]) => {
            pickle.global(class).is_none().then_some("calls the result of another call")
        }
        ("builtins" | "__builtin__", "bytearray" | "bytes", &[size]) => {
            let is_bomb = match pickle.node(size) {
                // Negative sizes fail in Python. They count as huge here.
                Node::Int(size) => *size as u64 > LARGEST_ALLOCATION,
                node => matches!(node, Node::BigInt { .. }),
            };
            is_bomb.then_some("allocates too much memory")
        }
        _ => None,
    };
    reason.map(Judgement::dangerous)
}

/// What all calls of a pickle take, and what its keys are compared with.
#[derive(Default)]
pub(super) struct Copies {
    /// Bytes and items.
    parts: u64,
    /// The elements of each storage, and how many of them tensors of other devices copy.
    storages: HashMap<String, (u64, u64)>,
}

impl Copies {
    /// Adds the arguments and the states of a call.
    pub(super) fn add(&mut self, values: &Values<'_>, object: &Object) {
        let pickle = values.pickle;
        let parts = object.state.iter().flat_map(|&state| pickle.tuple(state).unwrap_or_default());
        for &id in arguments(pickle, object).iter().chain(&object.state).chain(parts) {
            let count = match pickle.node(id) {
                Node::Str(text) | Node::Bytes(text) => pickle.text(text).len(),
                Node::Tuple(items) | Node::List(items) | Node::Set(items) => items.len(),
                Node::Dict(pairs) => pairs.len(),
                Node::Object(inner) => match arguments(pickle, inner).first().map(|&first| pickle.node(first)) {
                    Some(Node::Str(text) | Node::Bytes(text)) => pickle.text(text).len(),
                    _ => 0,
                },
                _ => 0,
            };
            self.parts = self.parts.saturating_add(count as u64);
        }
        match values.name(object.callable).map(|name| (name.module.as_str(), name.name.as_str())) {
            Some(("torch._utils", "_rebuild_device_tensor_from_numpy")) => {
                self.parts = self.parts.saturating_add(array_bytes(values, object).unwrap_or(0));
            }
            Some(("torch._utils", "_rebuild_device_tensor_from_cpu_tensor")) => {
                let Some((key, capacity, elements)) = copied_tensor(values, object) else { return };
                let storage = self.storages.entry(key.to_owned()).or_insert((capacity, 0));
                storage.1 = storage.1.saturating_add(elements);
            }
            _ => {}
        }
    }

    /// Adds a key of a dict or a member of a set. An equal key may be in it already, which Python compares with this one.
    pub(super) fn add_key(&mut self, values: &Values<'_>, key: Id) {
        self.parts = self.parts.saturating_add(values.key_bytes(key));
    }

    /// Whether they are far more than the pickle contains.
    pub(super) fn are_too_many(&self, pickle_bytes: usize) -> bool {
        let too_many = |&(capacity, copied): &(u64, u64)| {
            copied > capacity.saturating_mul(MOST_COPIES).saturating_add(FEW_ELEMENTS)
        };
        self.parts > (pickle_bytes as u64).saturating_mul(MOST_COPIES).saturating_add(FEW_COPIES)
            || self.storages.values().any(too_many)
    }
}
