//! Arrays within pickles that joblib writes.
//!
//! `joblib.dump` writes an array as a call of `NumpyArrayWrapper` whose attributes describe it. Behind the BUILD that sets
//! them come the elements, which `joblib.load` reads from the file before it goes on with the pickle.
//! Source: `joblib/numpy_pickle.py`, versions 0.10 to 1.5.

use std::ops::Range;

use crate::pickle::machine::PickleMachine;
use crate::pickle::value::{Id, Node, Oddity};

/// Modules in which the class that describes an array has been.
const MODULES: [&str; 2] = ["joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle"];

/// An array that joblib reads.
struct Described {
    /// Bytes of its elements.
    bytes: u64,
    /// Whether padding precedes them.
    is_aligned: bool,
}

impl PickleMachine<'_> {
    /// Skips the elements of an array behind the BUILD that sets `state` on `target`. Does nothing if these do not describe
    /// an array, or if its elements are objects, which follow as a pickle.
    pub(super) fn skip_array(&mut self, target: Id, state: Id, offset: usize) {
        let Some(described) = self.described_array(target, state) else { return };
        let Some(skipped) = self.elements(&described) else {
            self.is_array_cut_short = true;
            return self.note(Oddity::MissingElements, offset);
        };
        self.cursor = self.cursor.at(skipped.end);
        // joblib ends a frame before an array.
        if self.frame_end == Some(skipped.start) {
            self.frame_end = None;
        }
        self.arrays.push(skipped);
    }

    fn described_array(&self, target: Id, state: Id) -> Option<Described> {
        let Node::Object(object) = self.node(target) else { return None };
        let Node::Global(name) = self.node(object.callable) else { return None };
        if !MODULES.iter().any(|module| name.is(module, "NumpyArrayWrapper")) {
            return None;
        }
        let Node::Tuple(shape) = self.node(self.attribute(state, b"shape")?) else { return None };
        let item = self.item_bytes(self.attribute(state, b"dtype")?)?;
        let bytes = shape.iter().try_fold(item, |all, &size| match self.node(size) {
            Node::Int(size) => all.checked_mul(u64::try_from(*size).ok()?),
            _ => None,
        });
        // Before version 1.2, elements were not aligned.
        let alignment = self.attribute(state, b"numpy_array_alignment_bytes").map(|id| self.node(id));
        Some(Described { bytes: bytes?, is_aligned: matches!(alignment, Some(Node::Int(_))) })
    }

    /// Where the elements are; `None` if there are too few bytes.
    fn elements(&self, array: &Described) -> Option<Range<usize>> {
        let mut cursor = self.cursor;
        let begin = cursor.position();
        if array.is_aligned {
            let padding = cursor.u8().ok()?;
            cursor.take(padding.into()).ok()?;
        }
        cursor.take(array.bytes).ok()?;
        Some(begin..cursor.position())
    }

    fn attribute(&self, state: Id, name: &[u8]) -> Option<Id> {
        let Node::Dict(pairs) = self.node(state) else { return None };
        let is_name = |key: Id| matches!(self.node(key), Node::Str(text) if self.cursor.text(text) == name);
        pairs.iter().find(|&&(key, _)| is_name(key)).map(|&(_, value)| value)
    }

    /// Bytes of an item of a dtype, from its code, such as `f8`.
    fn item_bytes(&self, dtype: Id) -> Option<u64> {
        let Node::Object(object) = self.node(dtype) else { return None };
        let Node::Tuple(args) = self.node(object.args) else { return None };
        let Node::Str(code) = self.node(*args.first()?) else { return None };
        let code = std::str::from_utf8(self.cursor.text(code)).ok()?;
        let letter = code.chars().next().filter(|letter| "biufcSUVmM".contains(*letter))?;
        let number: u64 = code.strip_prefix(letter)?.parse().ok()?;
        number.checked_mul(if letter == 'U' { 4 } else { 1 })
    }
}
