//! Values that are small in a file and endless to whoever walks over them.

use crate::pickle::{Id, Node, Pickle};

/// More values than anything can walk over; a checkpoint has less than a million.
const TOO_MANY: u64 = 1 << 36;

/// Containers within containers; CPython's own pickler stops near a thousand.
const TOO_DEEP: usize = 20_000;

/// A value that ends a program which walks over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bomb {
    /// It unfolds to too many values, if those that are referred to again and again are counted again and again.
    Wide,
    /// It nests too deep.
    Deep,
}

/// The first bomb of a pickle. What calls make is not gone into.
pub(super) fn bomb(pickle: &Pickle) -> Option<Bomb> {
    // Of each value gone into: how many it unfolds to, and how deep it nests.
    let mut sizes: Vec<Option<(u64, usize)>> = vec![None; pickle.nodes().len()];
    let mut pending: Vec<(Id, usize)> = Vec::new();
    for root in pickle.ids() {
        if sizes.get(root.index()).is_none_or(Option::is_some) || child(pickle, root, 0).is_none() {
            continue;
        }
        pending.push((root, 0));
        while let Some((id, next)) = pending.pop() {
            let Some(size) = sizes.get_mut(id.index()) else { continue };
            if next == 0 {
                if size.is_some() {
                    continue;
                }
                // What comes back to itself counts as nothing there.
                *size = Some((0, 0));
            }
            let Some(inner) = child(pickle, id, next) else {
                let children = (0..next).filter_map(|index| child(pickle, id, index));
                let inner = children.map(|child| sizes.get(child.index()).copied().flatten().unwrap_or((1, 1)));
                let (sum, deepest) = inner
                    .fold((1_u64, 0), |(sum, deepest), (size, depth)| (sum.saturating_add(size), depth.max(deepest)));
                if sum > TOO_MANY {
                    return Some(Bomb::Wide);
                }
                if deepest >= TOO_DEEP {
                    return Some(Bomb::Deep);
                }
                if let Some(size) = sizes.get_mut(id.index()) {
                    *size = Some((sum, deepest + 1));
                }
                continue;
            };
            pending.push((id, next + 1));
            if pending.len() > TOO_DEEP {
                return Some(Bomb::Deep);
            }
            if sizes.get(inner.index()).is_some_and(Option::is_none) && child(pickle, inner, 0).is_some() {
                pending.push((inner, 0));
            }
        }
    }
    None
}

/// The value at this place in a container: keys and values of dicts in turn.
fn child(pickle: &Pickle, id: Id, index: usize) -> Option<Id> {
    match pickle.node(id) {
        Node::Tuple(items) | Node::List(items) | Node::Set(items) => items.get(index).copied(),
        Node::Dict(items) => {
            items.get(index / 2).map(|&(key, value)| if index.is_multiple_of(2) { key } else { value })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::{op, parse};

    fn found(body: &[u8]) -> Option<Bomb> {
        bomb(&parse(&[b"\x80\x02", body, b"."].concat()).unwrap())
    }

    #[test]
    fn doubling_and_nesting_are_bombs_and_sharing_is_none() {
        let doublings = |count| [&b"N"[..], &[op::DUP, op::TUPLE2].repeat(count)].concat();
        assert_eq!(found(&doublings(35)), None);
        assert_eq!(found(&doublings(36)), Some(Bomb::Wide));
        let nested = |count| [&b"]"[..], &b"]".repeat(count - 1), &b"a".repeat(count - 1)].concat();
        assert_eq!(found(&nested(TOO_DEEP)), None);
        assert_eq!(found(&nested(TOO_DEEP + 1)), Some(Bomb::Deep));
        let tuples = |count| [&b")"[..], &[op::TUPLE1].repeat(count - 1)].concat();
        assert_eq!(found(&tuples(TOO_DEEP)), None);
        assert_eq!(found(&tuples(TOO_DEEP + 1)), Some(Bomb::Deep));
        // A list within itself, and the same list a thousand times.
        assert_eq!(found(b"]q\x00h\x00a"), None);
        assert_eq!(
            found(&[b"(", [&b"]q\x00(KKNe0"[..]].concat().as_slice(), &b"h\x00".repeat(1000), b"t"].concat()),
            None
        );
    }
}
