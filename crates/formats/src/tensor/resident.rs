//! Transposed tensors that are read into memory whole.

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use crc32fast::Hasher;

use crate::error::{OrInternal, Result};
use crate::io::parallel;
use crate::tensor::View;
use crate::tensor::gather::{self, ReadAt};
use crate::tensor::memory::Pages;

/// Bytes of the largest storage that is read into memory whole: a matrix of 6144 x 6144 elements in f32.
const LARGEST: u64 = 144 << 20;

/// Bytes that are read at a time. They are still in the cache when they are checksummed.
const READ: usize = 256 << 10;

/// Bytes that a thread reads before the next piece: whole large pages. Where they are put into row-major order, the more
/// there are, the longer the runs that are written.
const LOADED: usize = 4 << 20;

/// Bytes of output that a reader asks for at a time, at least.
const PIECE: u64 = 512 << 10;

/// Bytes of runs of elements from which on the order of the storage is as good as row-major order: a few cache lines.
const GOOD_RUN: u64 = 128;

/// The bytes of a view in memory.
#[derive(Debug)]
pub(super) enum Resident {
    /// The storage from the first element of the view to the last one, as it is stored.
    Stored(Pages),
    /// The elements in row-major order.
    Ordered(Pages),
}

/// A checksum of a storage that remains to be checked.
pub(super) struct Unchecked<'a> {
    /// What the file records.
    pub expected: u32,
    /// Where the result of the check is kept.
    pub result: &'a OnceLock<bool>,
}

impl Resident {
    /// Reads a view of a storage of `len` bytes. Computes the checksum of the whole storage meanwhile, if there is one to
    /// check; the caller then looks at its result.
    ///
    /// `None` if the view is too large or too small a part of its storage, or if too little memory is left.
    pub(super) fn new(
        read_at: ReadAt<'_>,
        len: u64,
        (view, size): (&View, usize),
        unchecked: Option<&Unchecked<'_>>,
    ) -> Result<Option<Self>> {
        // Cannot overflow: a shape bounds its bytes, and the view lies within its storage.
        let bytes = view.shape().elements() * size as u64;
        let (begin, end) = (view.start() * size as u64, view.end() * size as u64);
        let read = if unchecked.is_some() { 0..len } else { begin..end };
        if bytes > LARGEST || end - begin > LARGEST || (read.end - read.start) / 2 > bytes {
            return Ok(None);
        }
        let is_good = gather::together_in_pieces(view, size, PIECE) >= GOOD_RUN;
        let order = if is_good { None } else { gather::dense_order(view) };
        let Some(mut pages) = Pages::new(if order.is_some() { bytes } else { end - begin }) else { return Ok(None) };
        let (stored, ordered) =
            if order.is_some() { (None, Some(Mutex::new(pages.bytes_mut()))) } else { (Some(pages.bytes_mut()), None) };
        let load = |buffer: &mut Vec<u8>, piece: &Piece<'_>| {
            let mut stored = piece.stored.as_ref().map(|stored| stored.lock().unwrap_or_else(PoisonError::into_inner));
            let found: &mut [u8] = if let Some(stored) = &mut stored {
                stored
            } else {
                buffer.resize(piece.len, 0);
                buffer
            };
            let mut hasher = Hasher::new();
            for (offset, part) in (piece.offset..).step_by(READ).zip(found.chunks_mut(READ)) {
                read_at(offset, part)?;
                if unchecked.is_some() {
                    hasher.update(part);
                }
            }
            if let (Some(order), Some(ordered), true) = (&order, &ordered, piece.is_of_view) {
                let mut ordered = ordered.lock().unwrap_or_else(PoisonError::into_inner);
                gather::scatter(order, size, (piece.offset - begin) / size as u64, found, &mut ordered)?;
            }
            Ok(hasher)
        };
        // Meanwhile, the other threads wait for the view. Only one can put elements into order.
        let jobs = if ordered.is_some() { 1 } else { parallel::current_jobs() };
        let sums = parallel::map(jobs, &pieces(&read, begin..end, stored), Vec::new, load)?;
        if let Some(unchecked) = unchecked {
            let mut sum = Hasher::new();
            sums.iter().for_each(|part| sum.combine(part));
            unchecked.result.get_or_init(|| sum.finalize() == unchecked.expected);
        }
        Ok(Some(if order.is_some() { Resident::Ordered(pages) } else { Resident::Stored(pages) }))
    }

    /// Fills `out` with the elements from index `first` on.
    pub(super) fn read(&self, (view, size): (&View, usize), first: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Resident::Stored(pages) => gather::gather_from(pages.bytes(), (view, size), first, out),
            Resident::Ordered(pages) => {
                let found = pages.bytes().get(first as usize * size..).and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(found.or_internal("a read lies outside a tensor in memory")?);
                Ok(())
            }
        }
    }
}

/// A part of a storage that a thread reads.
struct Piece<'a> {
    offset: u64,
    len: usize,
    /// Whether it lies between the first and the last element of the view.
    is_of_view: bool,
    /// Where it stays as it is stored. Only one thread takes it.
    stored: Option<Mutex<&'a mut [u8]>>,
}

/// Splits the range `read` of a storage into pieces. Those of the range `view` begin where the view begins, so that they are
/// whole elements; `stored` is the memory for them, if they stay as they are.
fn pieces<'a>(read: &Range<u64>, view: Range<u64>, stored: Option<&'a mut [u8]>) -> Vec<Piece<'a>> {
    let mut stored = stored.map(|stored| stored.chunks_mut(LOADED));
    let ranges = [read.start..view.start, view.clone(), view.end..read.end];
    let offsets = ranges.into_iter().flat_map(|range| {
        let end = range.end;
        range.step_by(LOADED).map(move |offset| (offset, (end - offset).min(LOADED as u64) as usize))
    });
    let piece = |(offset, len)| {
        let is_of_view = view.contains(&offset);
        let stored = stored.as_mut().filter(|_| is_of_view).and_then(Iterator::next).map(Mutex::new);
        Piece { offset, len, is_of_view, stored }
    };
    offsets.map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    /// Reads a view element by element, by the definition of a stride.
    fn by_definition(storage: &[u8], size: usize, view: &View) -> Vec<u8> {
        let element = |mut index: u64| {
            let mut at = view.start();
            for (dim, stride) in view.shape().dims().iter().zip(view.strides()).rev() {
                at += index % dim * stride;
                index /= dim;
            }
            storage[at as usize * size..][..size].to_vec()
        };
        (0..view.shape().elements()).flat_map(element).collect()
    }

    #[test]
    fn holds_any_view_and_checks_its_storage() {
        let storage: Vec<u8> = (0..9_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let read_at = |offset: u64, out: &mut [u8]| {
            out.copy_from_slice(&storage[offset as usize..][..out.len()]);
            Ok(())
        };
        let expected = crc32fast::hash(&storage);
        let len = storage.len() as u64;
        let cases = [
            (&[1024, 2048][..], &[1, 1024][..], 0, 4, false),
            (&[1501, 1999], &[1, 1501], 7, 2, false),
            (&[8, 8, 200, 150], &[1, 8, 64, 12800], 100, 4, true),
            (&[8, 7, 200, 150], &[1, 8, 56, 11200], 3, 4, true),
            (&[3, 5, 130, 1000], &[1, 3, 15, 1950], 0, 4, true),
            (&[300, 400, 3, 3], &[3600, 1, 1200, 400], 0, 8, false),
            (&[2, 1 << 20], &[1, 2], 5, 4, false),
            (&[900, 2, 1000], &[2, 1, 1800], 0, 4, false),
            (&[60, 50, 40, 30], &[1, 60, 90000, 3000], 1, 2, true),
        ];
        for (dims, strides, start, size, is_ordered) in cases {
            let available = len / size as u64;
            let view = View::new(Shape::new(dims).unwrap(), strides.to_vec(), start, available).unwrap();
            let elements = by_definition(&storage, size, &view);
            for recorded in [Some(expected), Some(!expected), None] {
                let result = OnceLock::new();
                let unchecked = recorded.map(|expected| Unchecked { expected, result: &result });
                let resident = Resident::new(&read_at, len, (&view, size), unchecked.as_ref()).unwrap().unwrap();
                assert_eq!(result.get().copied(), recorded.map(|recorded| recorded == expected), "{dims:?}");
                assert_eq!(matches!(resident, Resident::Ordered(_)), is_ordered, "{dims:?}");
                for (first, count) in [(0, view.shape().elements()), (view.shape().elements() / 3 + 1, 100_003)] {
                    let mut out = vec![0; count as usize * size];
                    resident.read((&view, size), first, &mut out).unwrap();
                    assert!(out == elements[first as usize * size..][..out.len()], "{dims:?} {strides:?} {first}");
                }
            }
        }
        // A small part of a large storage.
        let view = View::new(Shape::new([100, 100]).unwrap(), vec![1, 100], 0, len).unwrap();
        let unchecked = Unchecked { expected, result: &OnceLock::new() };
        assert!(Resident::new(&read_at, len, (&view, 1), Some(&unchecked)).unwrap().is_none());
    }
}
