//! Reads the elements of a strided view in row-major order.
//!
//! The elements are read in tiles: blocks that are long both in the order of the storage and in that of the output. The
//! number of reads and writes is then proportional to the bytes, whatever the strides.

use crate::error::{Error, OrInternal, Result};
use crate::tensor::View;
use crate::tensor::permute::{Axis, Odometer, merge, permute};

/// Reads bytes of a storage at an offset.
pub(super) type ReadAt<'a> = &'a (dyn Fn(u64, &mut [u8]) -> Result<()> + Sync);

/// Takes bytes of the output at an offset.
pub(super) type WriteAt<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<()>;

/// Where the output goes.
enum Output<'a> {
    Pieces(WriteAt<'a>),
    Memory(&'a mut [u8]),
}

/// Bytes of a tile. A square one has rows and columns of a few kilobytes: few enough system calls.
const TILE: u64 = 4 << 20;

/// Bytes between two runs of elements up to which reading what lies between costs less than another system call.
const GAP: u64 = 1024;

/// Bytes of runs, and of the gaps between them, that are read at once.
const SPAN: u64 = 1 << 20;

/// Passes `count` elements of `view`, from index `first` on, to `write`, in pieces and in any order; offsets are those from
/// the first one. `len` is the length of the storage in bytes, `size` that of an element.
///
/// Fails if the view reaches past the storage.
pub(super) fn gather(
    read_at: ReadAt<'_>,
    len: u64,
    view: &View,
    size: usize,
    first: u64,
    count: u64,
    write: WriteAt<'_>,
) -> Result<()> {
    gather_to(read_at, len, view, size, first, count, Output::Pieces(write))
}

/// Fills `out` with the elements of `view` from index `first` on. `len` is the length of the storage in bytes, `size` that of
/// an element.
///
/// Fails if the view reaches past the storage.
pub(super) fn gather_into(
    read_at: ReadAt<'_>,
    len: u64,
    (view, size): (&View, usize),
    first: u64,
    out: &mut [u8],
) -> Result<()> {
    let count = (out.len() / size) as u64;
    gather_to(read_at, len, view, size, first, count, Output::Memory(out))
}

fn gather_to<'a>(
    read_at: ReadAt<'a>,
    len: u64,
    view: &View,
    size: usize,
    first: u64,
    count: u64,
    output: Output<'a>,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    if view.end().checked_mul(size as u64).is_none_or(|end| end > len) {
        return Err(Error::malformed("a strided view reaches past its storage"));
    }
    let mut gather = Gather { read_at, output, size, scratch: Vec::new(), span: Vec::new(), tile: Vec::new() };
    let axes = axes_of(view);
    let (mut position, mut rest) = (first, count);
    while rest > 0 {
        let (start, block, taken) = next_block(&axes, position, rest)?;
        gather.block(view.start() + start, position - first, &block)?;
        position += taken;
        rest -= taken;
    }
    Ok(())
}

/// Fills `out` with the elements of `view` from index `first` on. `bytes` are those of the storage from the first element of
/// the view on.
pub(super) fn gather_from(bytes: &[u8], (view, size): (&View, usize), first: u64, out: &mut [u8]) -> Result<()> {
    let axes = axes_of(view);
    let mut position = first;
    let mut rest = out;
    while !rest.is_empty() {
        let (from, block, taken) = next_block(&axes, position, (rest.len() / size) as u64)?;
        let source = bytes.get(from as usize * size..).or_internal("a block lies outside of its storage")?;
        let (out, behind) = rest.split_at_mut(taken as usize * size);
        permute(size, &block, source, out)?;
        position += taken;
        rest = behind;
    }
    Ok(())
}

/// The axes of a view in the order of its storage, outermost first, if the view has every element from its first to its last
/// one once. `from` is the distance in row-major order, and `to` that in the storage.
pub(super) fn dense_order(view: &View) -> Option<Vec<Axis>> {
    let mut axes: Vec<Axis> =
        axes_of(view).into_iter().map(|axis| Axis { len: axis.len, from: axis.to, to: axis.from }).collect();
    axes.sort_by_key(|axis| std::cmp::Reverse(axis.to));
    let mut elements = 1;
    for axis in axes.iter().rev() {
        if axis.to != elements {
            return None;
        }
        elements *= axis.len;
    }
    Some(axes)
}

/// Puts elements of a storage to their places in row-major order. They begin at the element `first` of what [`dense_order`]
/// describes.
pub(super) fn scatter(order: &[Axis], size: usize, first: u64, elements: &[u8], out: &mut [u8]) -> Result<()> {
    let mut position = first;
    let mut rest = elements;
    while !rest.is_empty() {
        let (to, block, taken) = next_block(order, position, (rest.len() / size) as u64)?;
        let swapped: Vec<Axis> =
            block.iter().map(|axis| Axis { len: axis.len, from: axis.to, to: axis.from }).collect();
        let (source, behind) = rest.split_at(taken as usize * size);
        let out = out.get_mut(to as usize * size..).or_internal("a block lies outside of its tensor")?;
        permute(size, &swapped, source, out)?;
        position += taken;
        rest = behind;
    }
    Ok(())
}

/// Returns whether reading the view piece by piece costs about as much as reading it at once: its elements are in the order
/// of the storage.
pub(super) fn is_cheap_in_pieces(view: &View) -> bool {
    let strides: Vec<u64> = axes_of(view).iter().map(|axis| axis.from).filter(|&from| from > 0).collect();
    strides.is_sorted_by(|outer, inner| outer >= inner)
}

/// The bytes of elements that each read yields if the view is read in pieces of `len` bytes.
pub(super) fn run_in_pieces(view: &View, size: usize, len: u64) -> u64 {
    joined_in_pieces(view, size, len, |stride, span| stride.saturating_sub(span) * size as u64 <= GAP)
}

/// The bytes of elements that lie together in the storage if the view is read in pieces of `len` bytes. Gaps may be as large
/// as what lies between them: the processor reads whole cache lines.
pub(super) fn together_in_pieces(view: &View, size: usize, len: u64) -> u64 {
    joined_in_pieces(view, size, len, |stride, span| stride <= 2 * span)
}

/// The bytes of elements of a piece of `len` bytes, joined along the axes of the storage as long as `is_joined` holds for
/// the stride of the next axis and the span of the elements so far, both in elements.
fn joined_in_pieces(view: &View, size: usize, len: u64, is_joined: impl Fn(u64, u64) -> bool) -> u64 {
    let size = size as u64;
    let Ok((_, mut block, _)) = next_block(&axes_of(view), 0, len / size) else { return 0 };
    block.retain(|axis| axis.from > 0);
    block.sort_by_key(|axis| axis.from);
    let (mut elements, mut span) = (1, 1);
    for axis in block {
        if !is_joined(axis.from, span) {
            break;
        }
        elements *= axis.len;
        span += (axis.len - 1) * axis.from;
    }
    elements * size
}

/// Bytes that reading a view costs: its elements, or the parts of the storage that are read for them if these are more.
pub(super) fn cost(view: &View, size: usize) -> u64 {
    let size = size as u64;
    let bytes = view.shape().elements().saturating_mul(size);
    let run = axes_of(view).last().filter(|axis| axis.from == 1).map_or(1, |axis| axis.len);
    let span = (view.end() - view.start()).saturating_mul(size);
    // Each run of elements costs a read of at most `GAP` more bytes, unless the whole span is fewer.
    let scattered = (view.shape().elements() / run.max(1)).saturating_mul(GAP).saturating_add(bytes);
    bytes.max(span.min(scattered))
}

/// The dimensions of a view, outermost first: at least one, none of size 1.
fn axes_of(view: &View) -> Vec<Axis> {
    let to = view.shape().contiguous_strides();
    let dims = view.shape().dims().iter().zip(view.strides()).zip(&to);
    let mut axes = merge(dims.map(|((&len, &from), &to)| Axis { len, from, to }));
    if axes.is_empty() {
        axes.push(Axis { len: 1, from: 1, to: 1 });
    }
    axes
}

/// Returns the largest block that begins at the element `position` and has at most `rest` elements, all adjacent in the
/// output: its start in the storage, its axes and its number of elements.
fn next_block(axes: &[Axis], position: u64, rest: u64) -> Result<(u64, Vec<Axis>, u64)> {
    let index = |axis: &Axis| position / axis.to % axis.len;
    // Steps along an axis are `to` elements of the output apart, because the output is row-major.
    let at = axes.iter().position(|axis| position.is_multiple_of(axis.to) && axis.to <= rest);
    let at = at.or_internal("a read of no elements has no block")?;
    let (outer, inner) = axes.split_at_checked(at).or_internal("an axis of a view is missing")?;
    let (&axis, inner) = inner.split_first().or_internal("an axis of a view is missing")?;
    let len = (rest / axis.to).min(axis.len - index(&axis));
    let start = outer.iter().chain([&axis]).map(|axis| index(axis) * axis.from).sum();
    let block = [Axis { len, ..axis }].into_iter().chain(inner.iter().copied()).collect();
    Ok((start, block, len * axis.to))
}

struct Gather<'a> {
    read_at: ReadAt<'a>,
    output: Output<'a>,
    size: usize,
    /// The elements of a tile without gaps, in the order of the storage.
    scratch: Vec<u8>,
    /// Elements and the gaps between them.
    span: Vec<u8>,
    /// The elements of a tile in the order of the output.
    tile: Vec<u8>,
}

impl Gather<'_> {
    /// Reads a block that starts at the element `start` of the storage and writes it to the element `to` of the output.
    fn block(&mut self, start: u64, to: u64, axes: &[Axis]) -> Result<()> {
        let extents = tile_extents(axes, self.size as u64);
        let tiles = axes.iter().zip(&extents).map(|(axis, extent)| axis.len.div_ceil(*extent));
        let mut odometer = Odometer::new(tiles.collect());
        while let Some(index) = odometer.index() {
            let corner = || axes.iter().zip(&extents).zip(index).map(|((axis, extent), index)| (axis, index * extent));
            let tile =
                corner().zip(&extents).map(|((axis, at), &extent)| Axis { len: extent.min(axis.len - at), ..*axis });
            let tile: Vec<Axis> = tile.collect();
            let from = start + corner().map(|(axis, at)| at * axis.from).sum::<u64>();
            let at = to + corner().map(|(axis, at)| at * axis.to).sum::<u64>();
            self.tile(from, at, &tile)?;
            odometer.advance();
        }
        Ok(())
    }

    fn tile(&mut self, from: u64, to: u64, axes: &[Axis]) -> Result<()> {
        // The order of the storage, innermost first. Repeated elements are read once.
        let mut inner: Vec<(usize, Axis)> =
            axes.iter().copied().enumerate().filter(|(_, axis)| axis.from > 0).collect();
        inner.sort_by_key(|&(at, axis)| (axis.from, axes.len() - at));
        let mut elements = 1;
        for (_, axis) in &mut inner {
            axis.to = elements;
            elements *= axis.len;
        }
        self.scratch.resize(elements as usize * self.size, 0);
        let packed: Vec<Axis> = inner.iter().map(|&(_, axis)| axis).collect();
        self.read(from, &packed)?;
        // From the scratch to row-major order.
        let mut moved: Vec<Axis> = axes.iter().map(|axis| Axis { from: 0, ..*axis }).collect();
        for &(at, axis) in &inner {
            moved.get_mut(at).or_internal("an axis of a tile is missing")?.from = axis.to;
        }
        let size = self.size;
        let write = match &mut self.output {
            Output::Memory(out) => {
                let out = out.get_mut(to as usize * size..).or_internal("a tile lies outside of its output")?;
                return permute(size, &moved, &self.scratch, out);
            }
            Output::Pieces(write) => write,
        };
        let mut count = 1;
        for axis in moved.iter_mut().rev() {
            axis.to = count;
            count *= axis.len;
        }
        let is_in_order = moved.iter().all(|axis| axis.len == 1 || axis.from == axis.to);
        if !is_in_order {
            self.tile.resize(count as usize * size, 0);
            permute(size, &moved, &self.scratch, &mut self.tile)?;
        }
        let tile = if is_in_order { &self.scratch } else { &self.tile };
        write_runs(write, size, to, axes, tile)
    }

    /// Fills the scratch with the elements of the axes, innermost first, whose `to` are without gaps.
    fn read(&mut self, start: u64, axes: &[Axis]) -> Result<()> {
        let size = self.size as u64;
        // The axes of a single read: first those that are adjacent, then those with small gaps, at last a part of one.
        let (mut together, mut span, mut is_adjacent) = (0, 1, true);
        let mut part = Axis { len: 1, from: 0, to: 0 };
        for axis in axes {
            let is_run = is_adjacent && axis.from == span;
            let fits = (SPAN / size).saturating_sub(span) / axis.from + 1;
            if !is_run && (axis.from.saturating_sub(span) * size > GAP || fits < 2) {
                break;
            }
            together += 1;
            if !is_run && fits < axis.len {
                (part, is_adjacent) = (Axis { len: fits, ..*axis }, false);
                break;
            }
            (span, is_adjacent) = (span + (axis.len - 1) * axis.from, is_run);
        }
        let (read, outer) = axes.split_at_checked(together).or_internal("an axis of a tile is missing")?;
        let parted = read.last().filter(|_| part.from > 0).copied();
        let whole = if parted.is_some() { together - 1 } else { together };
        let whole = read.get(..whole).or_internal("an axis of a tile is missing")?;
        let part_total = parted.map_or(1, |axis| axis.len);
        let mut odometer = Odometer::new(outer.iter().map(|axis| axis.len).collect());
        while let Some(index) = odometer.index() {
            let place = |step: fn(&Axis) -> u64| index.iter().zip(outer).map(|(at, axis)| at * step(axis)).sum::<u64>();
            let (from, to) = (start + place(|axis| axis.from), place(|axis| axis.to));
            let mut done = 0;
            while done < part_total {
                let len = part.len.min(part_total - done);
                let (from, to) = ((from + done * part.from) * size, (to + done * part.to) * size);
                let out = self.scratch.get_mut(to as usize..).or_internal("a read lies outside its tile")?;
                let bytes = ((span + (len - 1) * part.from) * size) as usize;
                if is_adjacent {
                    (self.read_at)(from, out.get_mut(..bytes).or_internal("a run lies outside its tile")?)?;
                } else {
                    self.span.resize(bytes, 0);
                    (self.read_at)(from, &mut self.span)?;
                    let mut axes = whole.to_vec();
                    axes.push(Axis { len, ..part });
                    axes.reverse();
                    permute(self.size, &axes, &self.span, out)?;
                }
                done += len;
            }
            odometer.advance();
        }
        Ok(())
    }
}

/// Chooses the size of tiles along each axis: long runs in the order of the storage and in that of the output.
fn tile_extents(axes: &[Axis], size: u64) -> Vec<u64> {
    let most = TILE / size;
    let side = most.isqrt();
    let mut extents = vec![1; axes.len()];
    let mut inner: Vec<usize> = (0..axes.len()).collect();
    inner.sort_by_key(|&at| (axes.get(at).map(|axis| axis.from), axes.len() - at));
    let repeats = |at: &usize| axes.get(*at).is_some_and(|axis| axis.from == 0);
    let by_storage: Vec<usize> = inner.iter().copied().filter(|at| !repeats(at)).collect();
    let by_output: Vec<usize> = (0..axes.len()).rev().collect();
    // The first two rounds make runs of one side, the last two fill the tile.
    for (order, goal) in [(&by_storage, side), (&by_output, side), (&by_storage, most), (&by_output, most)] {
        let mut run: u64 = if goal == most { extents.iter().product() } else { 1 };
        for &at in order {
            let (Some(axis), Some(extent)) = (axes.get(at), extents.get_mut(at)) else { continue };
            let others = if goal == most { run / *extent } else { run };
            *extent = (goal / others).clamp(*extent, axis.len.max(*extent));
            run = others * *extent;
        }
    }
    extents
}

/// Writes a tile, in row-major order, to its places in the output.
fn write_runs(write: WriteAt<'_>, size: usize, to: u64, axes: &[Axis], tile: &[u8]) -> Result<()> {
    let mut run = 1;
    let mut outer = axes;
    while let Some((axis, rest)) = outer.split_last() {
        if axis.to != run && axis.len != 1 {
            break;
        }
        run *= axis.len;
        outer = rest;
    }
    let mut odometer = Odometer::new(outer.iter().map(|axis| axis.len).collect());
    for bytes in tile.chunks_exact(run as usize * size) {
        let index = odometer.index().or_internal("a tile has more runs than its axes")?;
        let at = to + index.iter().zip(outer).map(|(index, axis)| index * axis.to).sum::<u64>();
        write(at * size as u64, bytes)?;
        odometer.advance();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
