/// A part of a fused attention projection: a third of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qkv {
    /// The query: the first third.
    Query,
    /// The key: the second third.
    Key,
    /// The value: the last third.
    Value,
}

impl Qkv {
    /// All parts, in the order of their rows.
    pub const ALL: [Qkv; 3] = [Qkv::Query, Qkv::Key, Qkv::Value];

    /// The position in the fused projection: 0, 1 or 2.
    pub fn index(self) -> u64 {
        self as u64
    }
}

/// How the elements of a tensor move between two layouts. Dimensions of size 1 do not matter here; see
/// [`Mapped::fit`](super::Mapped::fit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transform {
    /// The elements keep their order.
    None,
    /// The matrix is transposed.
    Transpose,
    /// A third of the rows is extracted.
    Split(Qkv),
    /// The elements become a third of the rows.
    Join(Qkv),
}

impl Transform {
    /// The transform in the opposite direction.
    pub fn inverse(self) -> Self {
        match self {
            Transform::None | Transform::Transpose => self,
            Transform::Split(third) => Transform::Join(third),
            Transform::Join(third) => Transform::Split(third),
        }
    }

    /// Returns the dimensions after the transform; for [`Transform::Join`], those of the fused projection. `None` if the
    /// transform does not apply: a transpose needs two dimensions, a split a row count divisible by three.
    pub fn dims(self, dims: &[u64]) -> Option<Vec<u64>> {
        let rows = |resize: fn(u64) -> Option<u64>| {
            let (first, rest) = dims.split_first()?;
            Some([&[resize(*first)?], rest].concat())
        };
        match self {
            Transform::None => Some(dims.to_vec()),
            Transform::Transpose => match dims {
                &[rows, columns] => Some(vec![columns, rows]),
                _ => None,
            },
            Transform::Split(_) => rows(|rows| rows.is_multiple_of(3).then_some(rows / 3)),
            Transform::Join(_) => rows(|rows| rows.checked_mul(3)),
        }
    }
}

/// Adds or removes trailing dimensions of size 1 until there are `rank` dimensions: [512, 512] becomes
/// [512, 512, 1, 1] for rank 4. `None` if a larger dimension would be removed, or a vector would gain dimensions.
pub(crate) fn with_rank(dims: &[u64], rank: usize) -> Option<Vec<u64>> {
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
    fn only_trailing_ones_are_added_or_removed() {
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
    fn each_transform_has_an_inverse() {
        let transforms =
            [Transform::None, Transform::Transpose, Transform::Split(Qkv::Key), Transform::Join(Qkv::Value)];
        for transform in transforms {
            assert_eq!(transform.inverse().inverse(), transform);
            let there = transform.dims(&[6, 2]).unwrap();
            assert_eq!(transform.inverse().dims(&there), Some(vec![6, 2]));
        }
        assert_eq!(Transform::Split(Qkv::Query).dims(&[4, 2]), None);
        assert_eq!(Transform::Join(Qkv::Query).dims(&[u64::MAX]), None);
        assert_eq!(Transform::Transpose.dims(&[4]), None);
        assert_eq!(Transform::Split(Qkv::Query).dims(&[]), None);
    }
}
