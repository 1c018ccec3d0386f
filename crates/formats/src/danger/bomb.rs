//! Detects expansion bombs: values that are small in a file but have endlessly many elements, or nest too deep, for a
//! program that traverses them.

use crate::pickle::{Id, Node, Pickle};

/// Most elements a value may expand to. A checkpoint has less than a million.
const MOST_ELEMENTS: u64 = 1 << 28;

/// Deepest nesting of containers. CPython's own pickler fails near a thousand.
const DEEPEST: usize = 20_000;

/// How a value exhausts a program that traverses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bomb {
    /// It expands to too many elements, counting shared values each time.
    Wide,
    /// It nests too deep.
    Deep,
}

/// The expanded size of a container.
#[derive(Debug, Clone, Copy)]
struct Size {
    elements: u64,
    depth: usize,
}

impl Size {
    /// A value that is not a container, or an empty one.
    const LEAF: Size = Size { elements: 1, depth: 1 };

    /// A container within itself. Traversals stop at it.
    const CYCLE: Size = Size { elements: 0, depth: 0 };
}

/// The sizes of containers that were entered, by id.
struct Sizes(Vec<Option<Size>>);

#[expect(clippy::indexing_slicing, reason = "there is one element for each id of the pickle")]
impl Sizes {
    fn get(&self, id: Id) -> Option<Size> {
        self.0[id.index()]
    }

    fn set(&mut self, id: Id, size: Size) {
        self.0[id.index()] = Some(size);
    }
}

/// Returns the first bomb in a pickle, reachable or not. The results of calls hold the items that were added
/// to them.
pub(super) fn find_bomb(pickle: &Pickle) -> Option<Bomb> {
    let mut sizes = Sizes(vec![None; pickle.nodes().len()]);
    let is_new = |sizes: &Sizes, id: Id| sizes.get(id).is_none() && content(pickle, id, 0).is_some();
    // Containers that are being traversed, each with the index of its next child.
    let mut pending: Vec<(Id, usize)> = Vec::new();
    for root in pickle.ids() {
        if is_new(&sizes, root) {
            pending.push((root, 0));
        }
        while let Some((id, next)) = pending.pop() {
            if next == 0 {
                if sizes.get(id).is_some() {
                    continue;
                }
                sizes.set(id, Size::CYCLE);
            }
            if let Some(inner) = content(pickle, id, next) {
                pending.push((id, next + 1));
                if pending.len() > DEEPEST {
                    return Some(Bomb::Deep);
                }
                if is_new(&sizes, inner) {
                    pending.push((inner, 0));
                }
                continue;
            }
            let children = (0..next).filter_map(|index| content(pickle, id, index));
            let mut size = Size { elements: 1, depth: 1 };
            for inner in children.map(|child| sizes.get(child).unwrap_or(Size::LEAF)) {
                // Cannot overflow: a pickle has less than 2^25 opcodes, and no size exceeds 2^28.
                size.elements += inner.elements;
                size.depth = size.depth.max(inner.depth + 1);
            }
            if size.elements > MOST_ELEMENTS {
                return Some(Bomb::Wide);
            }
            if size.depth > DEEPEST {
                return Some(Bomb::Deep);
            }
            sizes.set(id, size);
        }
    }
    None
}

/// Returns a child of a container by its index. The children of a dict are its keys and values in turn.
pub(super) fn child(pickle: &Pickle, id: Id, index: usize) -> Option<Id> {
    match pickle.node(id) {
        Node::Tuple(items) | Node::List(items) | Node::Set(items) => items.get(index).copied(),
        Node::Dict(items) => part(items, index),
        _ => None,
    }
}

/// Returns a child of a container, or of the result of a call: the items and the pairs that were added to it.
fn content(pickle: &Pickle, id: Id, index: usize) -> Option<Id> {
    match pickle.node(id) {
        Node::Object(object) => {
            let item = object.items.get(index).copied();
            item.or_else(|| part(&object.pairs, index.checked_sub(object.items.len())?))
        }
        _ => child(pickle, id, index),
    }
}

fn part(pairs: &[(Id, Id)], index: usize) -> Option<Id> {
    pairs.get(index / 2).map(|&(key, value)| if index.is_multiple_of(2) { key } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::{op, parse};

    fn found(body: &[u8]) -> Option<Bomb> {
        find_bomb(&parse(&[b"\x80\x02", body, b"."].concat()).unwrap())
    }

    #[test]
    fn finds_doubling_and_nesting_but_not_sharing() {
        let doublings = |count| [&b"N"[..], &[op::DUP, op::TUPLE2].repeat(count)].concat();
        assert_eq!(found(&doublings(27)), None);
        assert_eq!(found(&doublings(28)), Some(Bomb::Wide));
        let nested = |count| [&b"]"[..], &b"]".repeat(count - 1), &b"a".repeat(count - 1)].concat();
        assert_eq!(found(&nested(DEEPEST)), None);
        assert_eq!(found(&nested(DEEPEST + 1)), Some(Bomb::Deep));
        let tuples = |count| [&b")"[..], &[op::TUPLE1].repeat(count - 1)].concat();
        assert_eq!(found(&tuples(DEEPEST)), None);
        assert_eq!(found(&tuples(DEEPEST + 1)), Some(Bomb::Deep));
        // A chain of ordered dicts, each of which holds the one before twice.
        let dicts = |count| [&b"N"[..], &b"q\x000cx\ny\n)R(Nh\x00K\x01h\x00u".repeat(count)].concat();
        assert_eq!(found(&dicts(20)), None);
        assert_eq!(found(&dicts(28)), Some(Bomb::Wide));
        // A list that contains itself, and a tuple with the same list a thousand times.
        assert_eq!(found(b"]q\x00h\x00a"), None);
        assert_eq!(
            found(&[b"(", [&b"]q\x00(KKNe0"[..]].concat().as_slice(), &b"h\x00".repeat(1000), b"t"].concat()),
            None
        );
    }
}
