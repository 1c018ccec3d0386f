//! Writes to disjoint ranges of one slice from several threads.

use std::marker::PhantomData;
use std::ops::Range;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicBool, Ordering};

/// A slice that several threads write at the same time, each element exactly once.
///
/// The tiles of a product cover strided parts of the result, which `chunks_mut` cannot provide.
/// [`DisjointWriter::claim`] always checks that a range lies within the slice. With debug assertions, it also checks
/// that no element is claimed twice.
pub(super) struct DisjointWriter<'a> {
    first: *mut f32,
    len: usize,
    #[cfg(debug_assertions)]
    claimed: Vec<AtomicBool>,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: `first` points into a slice that is exclusively borrowed for `'a`. The only access is through `claim`, whose
// contract is that no two claims overlap, so no two threads access the same element.
unsafe impl Sync for DisjointWriter<'_> {}

impl<'a> DisjointWriter<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        DisjointWriter {
            first: slice.as_mut_ptr(),
            len: slice.len(),
            #[cfg(debug_assertions)]
            claimed: slice.iter().map(|_| AtomicBool::new(false)).collect(),
            slice: PhantomData,
        }
    }

    /// Returns the elements of `range` for writing.
    ///
    /// Panics if the range exceeds the slice and, with debug assertions, if it overlaps with an earlier claim.
    ///
    /// # Safety
    ///
    /// No element of `range` is part of any other claim of this writer.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the contract rules out a second reference to an element")]
    pub(super) unsafe fn claim(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} exceeds {} elements", self.len);
        #[cfg(debug_assertions)]
        for claimed in self.claimed.iter().take(range.end).skip(range.start) {
            // A swap would be exact for claims that race, but slows down every test that renders.
            assert!(!claimed.load(Ordering::Relaxed), "elements of {range:?} are claimed twice");
            claimed.store(true, Ordering::Relaxed);
        }
        // SAFETY: the range lies within the slice, which is borrowed for longer than `self`, and the caller guarantees
        // that there is no other reference to these elements.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_write_their_own_elements() {
        let mut elements = [0.0; 5];
        let writer = DisjointWriter::new(&mut elements);
        std::thread::scope(|scope| {
            for (range, value) in [(0..2, 1.0), (2..3, 2.0), (4..5, 3.0)] {
                let writer = &writer;
                // SAFETY: the ranges do not overlap.
                scope.spawn(move || unsafe { writer.claim(range) }.fill(value));
            }
        });
        drop(writer);
        assert_eq!(elements, [1.0, 1.0, 2.0, 0.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "3..6 exceeds 5 elements")]
    fn rejects_a_claim_beyond_the_end() {
        let mut elements = [0.0; 5];
        // SAFETY: there is no other claim.
        unsafe { DisjointWriter::new(&mut elements).claim(3..6) };
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "elements of 1..3 are claimed twice")]
    fn rejects_overlapping_claims() {
        let mut elements = [0.0; 5];
        let writer = DisjointWriter::new(&mut elements);
        // SAFETY: the second claim breaks the contract, and panics before it makes a reference.
        unsafe {
            writer.claim(2..4);
            writer.claim(1..3);
        }
    }
}
