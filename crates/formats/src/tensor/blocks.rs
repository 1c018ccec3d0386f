//! Transposed tensors in row-major order, a block at a time.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{OrInternal, Result};
use crate::tensor::View;
use crate::tensor::gather::{self, ReadAt};
use crate::tensor::memory::Reservation;

/// Bytes of a block: the larger, the longer the runs that each block is gathered from. A small one stays in the cache.
const SIZES: [u64; 3] = [8 << 20, 16 << 20, 32 << 20];

/// Blocks that are kept. Several threads that read a tensor in order are in one block or in two.
const KEPT: u64 = 2;

/// Bytes of the runs of a block that make it faster than a temporary file.
const RUN: u64 = 1024;

/// Bytes of the runs of a block beyond which a larger one is not faster.
const GOOD_RUN: u64 = 2048;

/// The bytes of a block, empty until they are gathered. Other threads that read the block wait meanwhile, and threads that
/// read the next block gather it.
type Block = Arc<Mutex<Vec<u8>>>;

/// The most recent blocks of a view, in row-major order.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Bytes of a block.
    len: u64,
    /// The numbers and the bytes of blocks, the latest last.
    recent: Mutex<Vec<(u64, Block)>>,
    _memory: Reservation,
}

impl Blocks {
    /// Reserves memory for a view. `None` if too little is left, or if blocks would consist of short runs.
    pub(super) fn new(view: &View, size: usize) -> Option<Self> {
        // Cannot overflow: a shape bounds its bytes.
        let bytes = view.shape().elements() * size as u64;
        let len = SIZES.iter().map(|&len| len.min(bytes));
        let run = |len: u64| if len == bytes { u64::MAX } else { gather::run_in_pieces(view, size, len) };
        let good = len.clone().find(|&len| run(len) >= GOOD_RUN);
        // Smaller ones where the memory is taken.
        let len =
            good.into_iter().chain(len.rev().filter(|&len| run(len) >= RUN && good.is_none_or(|good| len < good)));
        let (len, memory) = len.filter_map(|len| Some((len, Reservation::new(bytes.min(KEPT * len))?))).next()?;
        Some(Blocks { len, recent: Mutex::default(), _memory: memory })
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
            let block = self.block(number);
            let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
            self.fill(&mut block, read_at, storage, (view, size), number)?;
            let found = block.get((offset - number * self.len) as usize..).or_internal("a read lies behind a view")?;
            let count = found.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(found.get(..count).or_internal("a block is shorter than its read")?);
            offset += count as u64;
            rest = tail;
        }
        Ok(())
    }

    fn block(&self, number: u64) -> Block {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = recent.iter().find(|(found, _)| *found == number) {
            return Arc::clone(block);
        }
        let oldest = (recent.len() as u64 >= KEPT).then(|| recent.remove(0));
        let free = oldest.and_then(|(_, block)| Arc::into_inner(block));
        // Its pages are in memory already, those of a new one would have to be filled with zeros.
        let mut free = free.map(|block| block.into_inner().unwrap_or_else(PoisonError::into_inner)).unwrap_or_default();
        free.clear();
        let block = Block::new(Mutex::new(free));
        recent.push((number, Arc::clone(&block)));
        block
    }

    /// Gathers a block, unless that has been done.
    fn fill(
        &self,
        block: &mut Vec<u8>,
        read_at: ReadAt<'_>,
        storage: u64,
        (view, size): (&View, usize),
        number: u64,
    ) -> Result<()> {
        if !block.is_empty() {
            return Ok(());
        }
        let first = number * self.len / size as u64;
        let count = (self.len / size as u64).min(view.shape().elements().saturating_sub(first));
        block.resize(count as usize * size, 0);
        let gathered = gather::gather_into(read_at, storage, (view, size), first, block);
        if gathered.is_err() {
            block.clear();
        }
        gathered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
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
        let blocks = Blocks::new(&view, 4).unwrap();
        let len = blocks.len;
        assert_eq!(len, SIZES[1]);
        for first in [len / 4 - 5, 0, elements - 10, len / 2 - 10] {
            let mut out = [0; 40];
            blocks.read(&read_at, elements * 4, (&view, 4), first * 4, &mut out).unwrap();
            for (at, element) in out.as_chunks::<4>().0.iter().enumerate() {
                let at = first + at as u64;
                assert_eq!(*element, [((at % rows * columns + at / rows) % 251) as u8; 4], "{at}");
            }
        }
        let rest = Reservation::new(limits::GATHERED_BYTES - KEPT * len).unwrap();
        assert!(Blocks::new(&view, 4).is_none());
        drop(blocks);
        assert!(Blocks::new(&view, 4).is_some());
        drop(rest);
    }
}
