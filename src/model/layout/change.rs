/// A third of a fused projection, by its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Third {
    /// The first third of the rows.
    Query,
    /// The second.
    Key,
    /// The last.
    Value,
}

impl Third {
    /// In the order of their rows.
    pub const ALL: [Third; 3] = [Third::Query, Third::Key, Third::Value];

    /// Its place: 0, 1 or 2.
    pub fn index(self) -> u64 {
        self as u64
    }
}

/// What becomes of a tensor's elements between two layouts. Ones in the shape are no change: see
/// [`Mapped::fit`](super::Mapped::fit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// They stay in their order.
    None,
    /// Rows become columns.
    Transpose,
    /// A third of the rows is taken.
    Split(Third),
    /// They are a third of the rows.
    Join(Third),
}

impl Change {
    /// The way back.
    pub fn inverse(self) -> Self {
        match self {
            Change::None | Change::Transpose => self,
            Change::Split(third) => Change::Join(third),
            Change::Join(third) => Change::Split(third),
        }
    }

    /// The dimensions of the tensor that comes out, of all three parts together for [`Change::Join`]. `None` where the
    /// change cannot be made: a transposition of anything but two dimensions, a third of what is not three times
    /// something.
    pub fn dims(self, dims: &[u64]) -> Option<Vec<u64>> {
        let rows = |change: fn(u64) -> Option<u64>| {
            let (first, rest) = dims.split_first()?;
            Some([&[change(*first)?], rest].concat())
        };
        match self {
            Change::None => Some(dims.to_vec()),
            Change::Transpose => match dims {
                &[rows, columns] => Some(vec![columns, rows]),
                _ => None,
            },
            Change::Split(_) => rows(|rows| rows.is_multiple_of(3).then_some(rows / 3)),
            Change::Join(_) => rows(|rows| rows.checked_mul(3)),
        }
    }
}

/// These dimensions with ones added or dropped at the end until there are `rank`: [512, 512] is [512, 512, 1, 1].
/// `None` where something other than a one would have to go, or a single dimension would have to become more.
pub fn with_rank(dims: &[u64], rank: usize) -> Option<Vec<u64>> {
    let (kept, dropped) = dims.split_at(rank.min(dims.len()));
    let is_layer = dims.len() == rank || (dims.len() >= 2 && rank >= 2);
    (is_layer && dropped.iter().all(|&dim| dim == 1)).then(|| {
        let mut kept = kept.to_vec();
        kept.resize(rank, 1);
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_come_and_go_at_the_end_alone() {
        assert_eq!(with_rank(&[512, 512, 1, 1], 2), Some(vec![512, 512]));
        assert_eq!(with_rank(&[512, 512, 1], 2), Some(vec![512, 512]));
        assert_eq!(with_rank(&[512, 512], 4), Some(vec![512, 512, 1, 1]));
        assert_eq!(with_rank(&[512, 512, 3, 3], 2), None);
        assert_eq!(with_rank(&[512], 1), Some(vec![512]));
        assert_eq!(with_rank(&[512, 1], 1), None);
        assert_eq!(with_rank(&[512], 2), None);
        assert_eq!(with_rank(&[], 0), Some(vec![]));
        assert_eq!(with_rank(&[], 1), None);
    }

    #[test]
    fn every_change_has_its_way_back() {
        let changes = [Change::None, Change::Transpose, Change::Split(Third::Key), Change::Join(Third::Value)];
        for change in changes {
            assert_eq!(change.inverse().inverse(), change);
            let there = change.dims(&[6, 2]).unwrap();
            assert_eq!(change.inverse().dims(&there), Some(vec![6, 2]));
        }
        assert_eq!(Change::Split(Third::Query).dims(&[4, 2]), None);
        assert_eq!(Change::Join(Third::Query).dims(&[u64::MAX]), None);
        assert_eq!(Change::Transpose.dims(&[4]), None);
        assert_eq!(Change::Split(Third::Query).dims(&[]), None);
    }
}
