//! Values that are small in a file and endless to whoever walks over them.

use crate::pickle::{Id, Node, Pickle};

/// More values than anything can walk over; a checkpoint has less than a million.
const TOO_MANY: u64 = 1 << 36;

/// The first container that unfolds to too many values if those that are referred to again and again are counted again
/// and again, with their number. What calls make is not gone into.
pub(super) fn bomb(pickle: &Pickle) -> Option<(Id, u64)> {
    let mut sizes: Vec<Option<u64>> = vec![None; pickle.nodes().len()];
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
                *size = Some(0);
            }
            let Some(inner) = child(pickle, id, next) else {
                let children = (0..next).filter_map(|index| child(pickle, id, index));
                let sum = children.map(|child| sizes.get(child.index()).copied().flatten().unwrap_or(1));
                let sum = sum.fold(1_u64, u64::saturating_add);
                if sum > TOO_MANY {
                    return Some((id, sum));
                }
                if let Some(size) = sizes.get_mut(id.index()) {
                    *size = Some(sum);
                }
                continue;
            };
            pending.push((id, next + 1));
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

    fn found(body: &[u8]) -> Option<u64> {
        bomb(&parse(&[b"\x80\x02", body, b"."].concat()).unwrap()).map(|(_, size)| size)
    }

    #[test]
    fn doubling_is_a_bomb_and_depth_is_none() {
        let doublings = |count| [&b"N"[..], &[op::DUP, op::TUPLE2].repeat(count)].concat();
        assert_eq!(found(&doublings(35)), None);
        assert_eq!(found(&doublings(36)), Some((1 << 37) - 1));
        assert_eq!(found(&[&b"N"[..], &[op::TUPLE1].repeat(100_000)].concat()), None);
        // A list within itself, and the same list a thousand times.
        assert_eq!(found(b"]q\x00h\x00a"), None);
        assert_eq!(
            found(&[b"(", [&b"]q\x00(KKNe0"[..]].concat().as_slice(), &b"h\x00".repeat(1000), b"t"].concat()),
            None
        );
    }
}
