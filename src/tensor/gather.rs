//! Elements of a strided view, in row-major order.

use crate::error::{Error, Result};
use crate::tensor::View;

/// Copies the logical elements `first..` of `view` out of its storage's bytes, as many as `out` holds.
///
/// Trailing dimensions that lie without gaps are copied as one run; cost is one step per run.
pub(super) fn gather(storage: &[u8], view: &View, size: usize, first: u64, out: &mut [u8]) -> Result<()> {
    let (outer, run) = split_runs(view);
    let outside = || Error::malformed("a strided view reaches past its storage");
    let mut position = first;
    let mut rest = out;
    while !rest.is_empty() {
        let (row, column) = (position / run, position % run);
        let element = view.start() + offset_of_row(&outer, row) + column;
        let wanted = (run - column).min(rest.len() as u64 / size as u64);
        if wanted == 0 {
            return Err(Error::malformed("a read that is not a whole number of elements"));
        }
        let start = usize::try_from(element).ok().and_then(|element| element.checked_mul(size));
        let length = usize::try_from(wanted).ok().and_then(|wanted| wanted.checked_mul(size));
        let (start, length) = start.zip(length).ok_or_else(outside)?;
        let found = start.checked_add(length).and_then(|end| storage.get(start..end)).ok_or_else(outside)?;
        let (head, tail) = rest.split_at_mut_checked(length).ok_or_else(outside)?;
        head.copy_from_slice(found);
        rest = tail;
        position += wanted;
    }
    Ok(())
}

/// The dimensions `(size, stride)` that have to be stepped through, and the elements in each run behind them.
fn split_runs(view: &View) -> (Vec<(u64, u64)>, u64) {
    let mut dims: Vec<(u64, u64)> =
        view.shape().dims().iter().copied().zip(view.strides().iter().copied()).filter(|&(dim, _)| dim != 1).collect();
    let mut run = 1;
    while let Some(&(dim, stride)) = dims.last() {
        if stride != run {
            break;
        }
        run *= dim;
        dims.pop();
    }
    (dims, run.max(1))
}

fn offset_of_row(outer: &[(u64, u64)], mut row: u64) -> u64 {
    let mut offset = 0;
    for &(dim, stride) in outer.iter().rev() {
        offset += row % dim.max(1) * stride;
        row /= dim.max(1);
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    /// Every element by the definition of a stride, one at a time.
    fn by_definition(storage: &[u8], dims: &[u64], strides: &[u64], start: u64) -> Vec<u8> {
        let count: u64 = dims.iter().product();
        (0..count)
            .map(|mut index| {
                let mut at = start;
                for (dim, stride) in dims.iter().zip(strides).rev() {
                    at += index % dim * stride;
                    index /= dim;
                }
                storage[at as usize]
            })
            .collect()
    }

    #[test]
    fn agrees_with_the_definition_for_any_split_of_the_read() {
        let storage: Vec<u8> = (0..=255).collect();
        let cases: &[(&[u64], &[u64], u64)] = &[
            (&[3, 4], &[1, 3], 0),
            (&[2, 3, 4], &[12, 4, 1], 5),
            (&[2, 3, 4], &[1, 8, 2], 7),
            (&[4, 2, 3], &[6, 1, 2], 0),
            (&[5, 3], &[0, 1], 9),
            (&[2, 1, 5], &[50, 99, 3], 1),
            (&[], &[], 17),
        ];
        for &(dims, strides, start) in cases {
            let view = View::new(Shape::new(dims).unwrap(), strides.to_vec(), start, 256).unwrap();
            let expected = by_definition(&storage, dims, strides, start);
            for split in 0..expected.len() {
                let mut out = vec![0; expected.len()];
                let (head, tail) = out.split_at_mut(split);
                gather(&storage, &view, 1, 0, head).unwrap();
                gather(&storage, &view, 1, split as u64, tail).unwrap();
                assert_eq!(out, expected, "{dims:?} {strides:?} {start} split at {split}");
            }
        }
    }
}
