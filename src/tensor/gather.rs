//! Elements of a strided view, in row-major order.

use crate::error::{Error, Result};
use crate::tensor::View;

/// Reads bytes of a storage, from an offset on.
type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<()>;

/// Copies the logical elements `first..` of `view` out of its storage of `len` bytes, as many as `out` holds.
///
/// Trailing dimensions that lie without gaps are copied as one run; cost is one step per run. Short runs are taken from
/// lines of the storage that are kept for the next ones, as those of a transposed matrix lie beside one another.
pub(super) fn gather(
    read_at: ReadAt<'_>,
    len: u64,
    view: &View,
    size: usize,
    first: u64,
    out: &mut [u8],
) -> Result<()> {
    let (outer, run) = split_runs(view);
    let mut lines = Lines { read_at, len, kept: Vec::new() };
    let mut position = first;
    let mut rest = out;
    while !rest.is_empty() {
        let (row, column) = (position / run, position % run);
        let element = view.start() + offset_of_row(&outer, row) + column;
        let wanted = (run - column).min(rest.len() as u64 / size as u64);
        if wanted == 0 {
            return Err(Error::malformed("a read that is not a whole number of elements"));
        }
        // Both within `rest`, or within the storage, or refused.
        let (start, length) = (element.saturating_mul(size as u64), wanted.saturating_mul(size as u64) as usize);
        let (head, tail) = rest.split_at_mut_checked(length).ok_or_else(outside)?;
        lines.copy(start, head)?;
        rest = tail;
        position += wanted;
    }
    Ok(())
}

fn outside() -> Error {
    Error::malformed("a strided view reaches past its storage")
}

/// Bytes of a line: what one more read costs nothing beside.
const LINE: u64 = 4096;

/// Lines kept at once: 16 MB, so that a matrix of four thousand rows is read once by its columns.
const LINES: u64 = 4096;

/// Pieces of a storage, each kept until another one takes its place.
struct Lines<'a> {
    read_at: ReadAt<'a>,
    len: u64,
    /// By the line's number, modulo their count: the number, and the bytes.
    kept: Vec<Option<(u64, Vec<u8>)>>,
}

impl Lines<'_> {
    fn copy(&mut self, start: u64, out: &mut [u8]) -> Result<()> {
        let end = start.checked_add(out.len() as u64).filter(|&end| end <= self.len).ok_or_else(outside)?;
        let (number, at) = (start / LINE, (start % LINE) as usize);
        if out.len() as u64 * 2 > LINE || end > (number + 1) * LINE {
            return (self.read_at)(start, out);
        }
        if self.kept.is_empty() {
            self.kept.resize_with(LINES.min(self.len.div_ceil(LINE)) as usize, || None);
        }
        let place = (number % self.kept.len().max(1) as u64) as usize;
        let kept = self.kept.get_mut(place).ok_or_else(outside)?;
        let line = match kept {
            Some((found, line)) if *found == number => line,
            _ => {
                let mut line = kept.take().map(|(_, line)| line).unwrap_or_default();
                line.resize((self.len - number * LINE).min(LINE) as usize, 0);
                (self.read_at)(number * LINE, &mut line)?;
                &mut kept.insert((number, line)).1
            }
        };
        out.copy_from_slice(line.get(at..at + out.len()).ok_or_else(outside)?);
        Ok(())
    }
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
        let read_at = |offset: u64, out: &mut [u8]| {
            out.copy_from_slice(&storage[offset as usize..][..out.len()]);
            Ok(())
        };
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
                gather(&read_at, 256, &view, 1, 0, head).unwrap();
                gather(&read_at, 256, &view, 1, split as u64, tail).unwrap();
                assert_eq!(out, expected, "{dims:?} {strides:?} {start} split at {split}");
            }
        }
    }
    #[test]
    fn what_is_larger_than_the_lines_kept_is_read_all_the_same() {
        // More rows than lines are kept, and runs that begin in one line and end in the next.
        let (rows, columns) = (LINES + 3, 1500);
        let len = rows * columns * 3;
        let byte = |offset: u64| (offset % 251) as u8;
        let read_at = |offset: u64, out: &mut [u8]| {
            assert!(offset + out.len() as u64 <= len);
            out.iter_mut().enumerate().for_each(|(index, out)| *out = byte(offset + index as u64));
            Ok(())
        };
        let view = View::new(Shape::new([columns, rows]).unwrap(), vec![1, columns], 0, rows * columns).unwrap();
        let mut out = vec![0; 3 * 10_000];
        gather(&read_at, len, &view, 3, rows - 2, &mut out).unwrap();
        for (index, element) in out.as_chunks::<3>().0.iter().enumerate() {
            let position = rows - 2 + index as u64;
            let at = (position % rows * columns + position / rows) * 3;
            assert_eq!(element, &[byte(at), byte(at + 1), byte(at + 2)], "{position}");
        }
        assert!(gather(&read_at, len - 1, &view, 3, rows * columns - 1, &mut [0; 3]).is_err());
    }
}
