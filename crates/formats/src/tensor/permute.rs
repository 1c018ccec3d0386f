//! Copies elements in memory from one order to another.

use crate::error::{Error, OrInternal, Result};

/// A dimension of a block of elements: its size, and the distance of neighbors in the source and in the destination, in
/// elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub len: u64,
    pub from: u64,
    pub to: u64,
}

/// Merges each axis with the next one if together they are one axis of more elements. The outermost is first.
pub(super) fn merge(axes: impl IntoIterator<Item = Axis>) -> Vec<Axis> {
    let mut merged: Vec<Axis> = Vec::new();
    for axis in axes.into_iter().filter(|axis| axis.len != 1) {
        match merged.last_mut() {
            Some(outer) if outer.from == axis.len * axis.from && outer.to == axis.len * axis.to => {
                *outer = Axis { len: outer.len * axis.len, ..axis };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

/// Counts through all indices below the sizes, the last one fastest.
pub(super) struct Odometer {
    sizes: Vec<u64>,
    index: Vec<u64>,
    done: bool,
}

impl Odometer {
    /// Starts at the index of zeros.
    pub(super) fn new(sizes: Vec<u64>) -> Self {
        Odometer { index: vec![0; sizes.len()], done: sizes.contains(&0), sizes }
    }

    /// Returns the current index; `None` behind the last one.
    pub(super) fn index(&self) -> Option<&[u64]> {
        (!self.done).then_some(&*self.index)
    }

    /// Goes on to the next index.
    pub(super) fn advance(&mut self) {
        for (index, &size) in self.index.iter_mut().zip(&self.sizes).rev() {
            *index += 1;
            if *index < size {
                return;
            }
            *index = 0;
        }
        self.done = true;
    }
}

/// Copies all elements of a block from `source` to `destination`. An element has `size` bytes.
///
/// Fails with an internal error if an element lies outside of a slice.
pub(super) fn permute(size: usize, axes: &[Axis], source: &[u8], destination: &mut [u8]) -> Result<()> {
    let copied = match size {
        1 => elements::<1, LINE>(axes, source, destination),
        2 => elements::<2, { LINE / 2 }>(axes, source, destination),
        4 => elements::<4, { LINE / 4 }>(axes, source, destination),
        8 => elements::<8, { LINE / 8 }>(axes, source, destination),
        16 => elements::<16, { LINE / 16 }>(axes, source, destination),
        _ => return Err(Error::internal(format!("no dtype has elements of {size} bytes"))),
    };
    copied.or_internal("an element lies outside the block that is permuted")
}

/// Bytes of a cache line. The squares that are copied together have rows and columns of one line, so that each line is read
/// and written once, even where strides of powers of two put all lines into one set of the cache.
const LINE: usize = 64;

/// Lines of the source that are copied together where its rows are far apart. The processor fetches neighboring lines ahead.
const GROUP: usize = 16;

fn elements<const N: usize, const SIDE: usize>(axes: &[Axis], source: &[u8], destination: &mut [u8]) -> Option<()> {
    let (source, destination) = (source.as_chunks::<N>().0, destination.as_chunks_mut::<N>().0);
    let axes = merge(axes.iter().copied());
    // The two axes to copy a plane of: neighbors in the destination, and neighbors in the source.
    let one = Axis { len: 1, from: 0, to: 0 };
    let row = axes.iter().enumerate().min_by_key(|(_, axis)| axis.to).map(|(at, _)| at);
    let column = axes.iter().enumerate().filter(|&(at, axis)| Some(at) != row && axis.from > 0);
    let column = column.min_by_key(|(_, axis)| axis.from).map(|(at, _)| at);
    let axis = |at: Option<usize>| at.and_then(|at| axes.get(at).copied()).unwrap_or(one);
    let plane = (axis(row), axis(column));
    let mut outer: Vec<Axis> = axes
        .iter()
        .enumerate()
        .filter(|&(at, _)| Some(at) != row && Some(at) != column)
        .map(|(_, &axis)| axis)
        .collect();
    let (row, column) = plane;
    let is_transposed = column.from == 1 && row.to == 1 && row.from != 1;
    let composite = (is_transposed && (row.len as usize).min(column.len as usize) < SIDE).then(|| {
        let columns = extend(&mut outer, column, |axis| (axis.from, axis.to), SIDE);
        let rows = extend(&mut outer, row, |axis| (axis.to, axis.from), SIDE);
        (rows, columns)
    });
    let mut odometer = Odometer::new(outer.iter().map(|axis| axis.len).collect());
    while let Some(index) = odometer.index() {
        let place = |step: fn(&Axis) -> u64| {
            index.iter().zip(&outer).map(|(index, axis)| index * step(axis)).sum::<u64>() as usize
        };
        let source = source.get(place(|axis| axis.from)..)?;
        let destination = destination.get_mut(place(|axis| axis.to)..)?;
        match &composite {
            Some((rows, columns)) => copy_composite::<N, SIDE>((rows, columns), source, destination)?,
            None => copy_plane::<N, SIDE>(plane, source, destination)?,
        }
        odometer.advance();
    }
    Some(())
}

fn copy_plane<const N: usize, const SIDE: usize>(
    (row, column): (Axis, Axis),
    source: &[[u8; N]],
    destination: &mut [[u8; N]],
) -> Option<()> {
    let (row_len, column_len) = (row.len as usize, column.len as usize);
    let (row_from, row_to) = (row.from as usize, row.to as usize);
    let (column_from, column_to) = (column.from as usize, column.to as usize);
    if row_from == 1 && row_to == 1 {
        for index in 0..column_len {
            let run = source.get(index * column_from..)?.get(..row_len)?;
            destination.get_mut(index * column_to..)?.get_mut(..row_len)?.copy_from_slice(run);
        }
        return Some(());
    }
    let is_transposed = column_from == 1 && row_to == 1;
    let copy_square = |destination: &mut [[u8; N]], first: usize, row: usize| {
        let columns = SIDE.min(column_len - first);
        let count = SIDE.min(row_len - row);
        let source = source.get(first * column_from + row * row_from..)?;
        let destination = destination.get_mut(first * column_to + row * row_to..)?;
        if is_transposed && count == SIDE && columns == SIDE {
            let (from, to) = (|index| Some(index * row_from), |index| Some(index * column_to));
            return transpose_square::<N, SIDE>(source, from, destination, to);
        }
        for column in 0..columns {
            let source = source.get(column * column_from..)?;
            let destination = destination.get_mut(column * column_to..)?;
            copy_strided(count, (source, row_from), (destination, row_to))?;
        }
        Some(())
    };
    // The side that is further apart is the one that is not in the cache: its neighboring lines are used one after the other.
    let columns = if row_len * row_from >= column_len * column_to { GROUP * SIDE } else { SIDE };
    for group in (0..column_len).step_by(columns) {
        for row in (0..row_len).step_by(SIDE) {
            for first in (group..column_len.min(group + columns)).step_by(SIDE) {
                copy_square(destination, first, row)?;
            }
        }
    }
    Some(())
}

/// Joins an axis with others that follow it on one side, until there are enough elements for a square. Takes them from
/// `outer`. Returns the place of each element on the other side. `sides` gives the distances on both sides.
fn extend(outer: &mut Vec<Axis>, axis: Axis, sides: fn(&Axis) -> (u64, u64), enough: usize) -> Vec<usize> {
    /// More places take too much of the cache.
    const MOST: u64 = 1 << 12;
    let step = sides(&axis).1;
    let mut places: Vec<usize> = (0..axis.len).map(|index| (index * step) as usize).collect();
    while places.len() < enough {
        let len = places.len() as u64;
        let next = outer.iter().position(|axis| sides(axis).0 == len && axis.len * len <= MOST);
        let Some(next) = next.map(|at| outer.remove(at)) else { break };
        let step = sides(&next).1;
        places = (0..next.len).flat_map(|index| places.iter().map(move |at| at + (index * step) as usize)).collect();
    }
    places
}

/// Copies a plane whose columns are adjacent in the source and whose rows are adjacent in the destination. `rows` has the
/// places of rows in the source, `columns` those of columns in the destination.
fn copy_composite<const N: usize, const SIDE: usize>(
    (rows, columns): (&[usize], &[usize]),
    source: &[[u8; N]],
    destination: &mut [[u8; N]],
) -> Option<()> {
    for (first, columns) in (0..).step_by(SIDE).zip(columns.chunks(SIDE)) {
        for (row, rows) in (0..).step_by(SIDE).zip(rows.chunks(SIDE)) {
            if let (Some(rows), Some(columns)) = (rows.first_chunk::<SIDE>(), columns.first_chunk::<SIDE>()) {
                transpose_square::<N, SIDE>(
                    source,
                    |index| Some(rows.get(index)? + first),
                    destination,
                    |index| Some(columns.get(index)? + row),
                )?;
                continue;
            }
            for (column, &to) in columns.iter().enumerate() {
                let destination = destination.get_mut(to + row..)?.get_mut(..rows.len())?;
                let source = source.get(first + column..)?;
                for (out, &from) in destination.iter_mut().zip(rows) {
                    *out = *source.get(from)?;
                }
            }
        }
    }
    Some(())
}

/// Transposes a square whose rows are at the places `from` of the source and at the places `to` of the destination.
///
/// Each round interleaves the two halves of the square, which rotates the bits of an element's index by one. After as many
/// rounds as the index of a row has bits, rows and columns have changed places. The compiler makes vector instructions of
/// this.
fn transpose_square<const N: usize, const SIDE: usize>(
    source: &[[u8; N]],
    from: impl Fn(usize) -> Option<usize>,
    destination: &mut [[u8; N]],
    to: impl Fn(usize) -> Option<usize>,
) -> Option<()> {
    let mut square = [[[0; N]; SIDE]; SIDE];
    let mut other = square;
    for (index, row) in square.iter_mut().enumerate() {
        row.copy_from_slice(source.get(from(index)?..)?.get(..SIDE)?);
    }
    // References change places, because swapping the squares would copy them.
    let (mut square, mut next) = (&mut square, &mut other);
    for _ in 0..SIDE.ilog2() {
        interleave(square.as_flattened(), next.as_flattened_mut());
        (square, next) = (next, square);
    }
    for (index, row) in square.iter().enumerate() {
        destination.get_mut(to(index)?..)?.get_mut(..SIDE)?.copy_from_slice(row);
    }
    Some(())
}

fn interleave<const N: usize>(elements: &[[u8; N]], out: &mut [[u8; N]]) {
    let (first, second) = elements.split_at(elements.len() / 2);
    for (pair, (first, second)) in out.as_chunks_mut::<2>().0.iter_mut().zip(first.iter().zip(second)) {
        *pair = [*first, *second];
    }
}

/// Copies `count` elements, each some steps behind the one before.
fn copy_strided<const N: usize>(
    count: usize,
    (source, from): (&[[u8; N]], usize),
    (destination, to): (&mut [[u8; N]], usize),
) -> Option<()> {
    // The last elements must exist. The iterators then need no further checks.
    source.get((count - 1) * from)?;
    destination.get((count - 1) * to)?;
    let destination = destination.iter_mut().step_by(to.max(1)).take(count);
    if from == 0 {
        let &element = source.first()?;
        destination.for_each(|out| *out = element);
    } else {
        destination.zip(source.iter().step_by(from)).for_each(|(out, element)| *out = *element);
    }
    Some(())
}
