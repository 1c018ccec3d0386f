//! Transposed tensors in row-major order, a block at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{OrInternal, Result};
use crate::limits;
use crate::tensor::View;
use crate::tensor::gather::{self, ReadAt};

/// Bytes of a block: the larger, the longer the runs that each block is gathered from.
const SIZES: [u64; 3] = [32 << 20, 16 << 20, 8 << 20];

/// Blocks that are kept. Several threads that read a tensor in order are in one block or in two.
const KEPT: u64 = 2;

/// Bytes of the runs of a block that make it faster than a temporary file.
const RUN: u64 = 1024;

/// Bytes of all blocks of the process.
static RESERVED: AtomicU64 = AtomicU64::new(0);

/// Memory for blocks, until it is dropped.
#[derive(Debug)]
struct Reservation(u64);

impl Reservation {
    fn new(bytes: u64) -> Option<Self> {
        let more = |reserved: u64| reserved.checked_add(bytes).filter(|&sum| sum <= limits::GATHERED_BYTES);
        RESERVED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Reservation(bytes))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The most recent blocks of a view, in row-major order.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Bytes of a block.
    len: u64,
    /// The numbers and the bytes of blocks, the latest last.
    recent: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
    _memory: Reservation,
}

impl Blocks {
    /// Reserves memory for a view. `None` if too little is left, or if blocks would consist of short runs.
    pub(super) fn new(view: &View, size: usize) -> Option<Self> {
        // Cannot overflow: a shape bounds its bytes.
        let bytes = view.shape().elements() * size as u64;
        SIZES.iter().find_map(|&most| {
            let (len, total) = if bytes <= KEPT * most { (bytes, bytes) } else { (most, KEPT * most) };
            let is_fast = len == bytes || gather::run_in_pieces(view, size, len) >= RUN;
            let memory = if is_fast { Reservation::new(total)? } else { return None };
            Some(Blocks { len, recent: Mutex::default(), _memory: memory })
        })
    }

    /// Fills `out` with the bytes from `offset` on. `read_at` reads the storage, which has `storage` bytes.
    pub(super) fn read(
        &self,
        read_at: ReadAt<'_>,
        storage: u64,
        (view, size): (&View, usize),
        offset: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let (mut offset, mut rest) = (offset, out);
        while !rest.is_empty() {
            let number = offset.checked_div(self.len).or_internal("a view without elements is read")?;
            let block = self.block(read_at, storage, (view, size), number)?;
            let found = block.get((offset - number * self.len) as usize..).or_internal("a read lies behind a view")?;
            let count = found.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(found.get(..count).or_internal("a block is shorter than its read")?);
            offset += count as u64;
            rest = tail;
        }
        Ok(())
    }

    fn block(
        &self,
        read_at: ReadAt<'_>,
        storage: u64,
        (view, size): (&View, usize),
        number: u64,
    ) -> Result<Arc<Vec<u8>>> {
        // Held while a block is gathered: other threads most likely wait for the same one.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = recent.iter().find(|(found, _)| *found == number) {
            return Ok(Arc::clone(block));
        }
        if recent.len() as u64 >= KEPT {
            recent.remove(0);
        }
        let first = number * self.len / size as u64;
        let count = (self.len / size as u64).min(view.shape().elements().saturating_sub(first));
        let mut block = vec![0; count as usize * size];
        gather::gather(read_at, storage, view, size, first, count, &mut |offset, bytes| {
            let place = block.get_mut(offset as usize..).and_then(|block| block.get_mut(..bytes.len()));
            place.or_internal("a gathered run lies outside of its block")?.copy_from_slice(bytes);
            Ok(())
        })?;
        let block = Arc::new(block);
        recent.push((number, Arc::clone(&block)));
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    #[test]
    fn reads_across_blocks_and_gives_its_memory_back() {
        let (rows, columns) = (6000_u64, 3001);
        let elements = rows * columns;
        let view = View::new(Shape::new([columns, rows]).unwrap(), vec![1, columns], 0, elements).unwrap();
        let read_at = |offset: u64, out: &mut [u8]| {
            out.iter_mut().enumerate().for_each(|(at, out)| *out = ((offset + at as u64) / 4 % 251) as u8);
            Ok(())
        };
        let taken = Reservation::new(limits::GATHERED_BYTES / 2).unwrap();
        let blocks = Blocks::new(&view, 4).unwrap();
        assert_eq!(blocks.len, SIZES[1]);
        for first in [SIZES[1] / 4 - 5, 0, elements - 10, SIZES[1] / 2 - 10] {
            let mut out = [0; 40];
            blocks.read(&read_at, elements * 4, (&view, 4), first * 4, &mut out).unwrap();
            for (at, element) in out.as_chunks::<4>().0.iter().enumerate() {
                let at = first + at as u64;
                assert_eq!(*element, [((at % rows * columns + at / rows) % 251) as u8; 4], "{at}");
            }
        }
        let more = Blocks::new(&view, 4).unwrap();
        assert_eq!(more.len, SIZES[2]);
        assert!(Blocks::new(&view, 4).is_none());
        drop((taken, blocks, more));
        assert_eq!(Blocks::new(&view, 4).unwrap().len, SIZES[0]);
    }
}
