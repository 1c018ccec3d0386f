//! Reads the elements of a strided view in row-major order.

use crate::error::{Error, OrInternal, Result};
use crate::tensor::View;

/// Reads bytes of a storage at an offset.
type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<()>;

/// Fills `out` with the elements of `view` from index `first` on. `len` is the length of the storage in bytes, `size` that
/// of an element.
///
/// Trailing dimensions without gaps are copied as one run; the cost is one step per run. Short runs are copied from cached
/// lines of the storage, because the next runs often lie beside them, as in a transposed matrix.
///
/// Fails if the view reaches past the storage.
pub(super) fn gather(
    read_at: ReadAt<'_>,
    len: u64,
    view: &View,
    size: usize,
    first: u64,
    out: &mut [u8],
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let (outer, run) = split_runs(view);
    let mut lines = LineCache { read_at, len, slots: Vec::new() };
    let mut position = first;
    let mut rest = out;
    while !rest.is_empty() {
        let (row, column) = (position / run, position % run);
        // Cannot overflow: `read` checks that the element belongs to the view, which lies within its storage.
        let element = view.start() + offset_of_row(&outer, row) + column;
        let wanted = (run - column).min(rest.len() as u64 / size as u64);
        if wanted == 0 {
            return Err(Error::internal("a strided read is not a whole number of elements"));
        }
        let start = element.checked_mul(size as u64).ok_or_else(outside)?;
        let (head, tail) =
            rest.split_at_mut_checked(wanted as usize * size).or_internal("a run is longer than the read")?;
        lines.copy(start, head)?;
        rest = tail;
        position += wanted;
    }
    Ok(())
}

fn outside() -> Error {
    Error::malformed("a strided view reaches past its storage")
}

/// Bytes of a line: few enough that reading them costs little more than the system call.
const LINE: u64 = 4096;

/// Lines in the cache, 16 MB: enough to read a matrix of four thousand rows by its columns in one pass.
const LINES: u64 = 4096;

/// A direct-mapped cache of lines of a storage.
struct LineCache<'a> {
    read_at: ReadAt<'a>,
    len: u64,
    /// The number and bytes of a line, in the slot of its number modulo the count of slots.
    slots: Vec<Option<(u64, Vec<u8>)>>,
}

impl LineCache<'_> {
    /// Fills `out` with the bytes at `start`.
    fn copy(&mut self, start: u64, out: &mut [u8]) -> Result<()> {
        let end = start.checked_add(out.len() as u64).filter(|&end| end <= self.len).ok_or_else(outside)?;
        let (number, at) = (start / LINE, (start % LINE) as usize);
        // Cannot overflow: storages end at `limits::FILE_BYTES`, far below the largest number.
        if out.len() as u64 * 2 > LINE || end > (number + 1) * LINE {
            return (self.read_at)(start, out);
        }
        if self.slots.is_empty() {
            self.slots.resize_with(LINES.min(self.len.div_ceil(LINE)) as usize, || None);
        }
        let slot = number.checked_rem(self.slots.len() as u64).or_internal("a storage without bytes was read")?;
        let slot = self.slots.get_mut(slot as usize).or_internal("a cache slot is missing")?;
        let line = match slot {
            Some((found, line)) if *found == number => line,
            _ => {
                // Reuses the buffer of the line that is evicted, if there is one.
                let mut line = slot.take().map_or_else(Vec::new, |(_, line)| line);
                line.resize((self.len - number * LINE).min(LINE) as usize, 0);
                (self.read_at)(number * LINE, &mut line)?;
                &mut slot.insert((number, line)).1
            }
        };
        out.copy_from_slice(line.get(at..at + out.len()).or_internal("a range lies outside its line")?);
        Ok(())
    }
}

/// Splits a view that is not empty into the outer dimensions, as `(size, stride)`, and the number of elements in each
/// contiguous run. Leaves out dimensions of size 1.
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
    (dims, run)
}

/// Returns the offset, in elements, of the run with index `row`.
fn offset_of_row(outer: &[(u64, u64)], mut row: u64) -> u64 {
    let mut offset = 0;
    for &(dim, stride) in outer.iter().rev() {
        offset += row % dim * stride;
        row /= dim;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    /// Reads one element at a time, by the definition of a stride.
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
    fn matches_the_definition_for_any_split_of_the_read() {
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
    fn reads_views_larger_than_the_line_cache() {
        // More rows than the cache has lines, and runs that cross from one line into the next.
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
