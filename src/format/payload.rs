//! Moving tensor data: block by block, a few threads, every block written where it belongs.

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::format::frame::Record;
use crate::io::{Block, Progress, Scratch, parallel};
use crate::tensor::{Held, LazyTensor};

/// The part of a record that lies in a block.
struct Part<'a> {
    index: usize,
    record: &'a Record,
    /// First byte within the record.
    start: u64,
    /// Where it begins within the block.
    at: usize,
    len: usize,
}

/// A range of the file, as long as a block but for the last one.
struct Piece {
    offset: u64,
    len: usize,
}

fn pieces(bytes: u64) -> Vec<Piece> {
    let len = Block::LEN as u64;
    let offsets = (0..bytes.div_ceil(len)).map(|index| index * len);
    offsets.map(|offset| Piece { offset, len: (bytes - offset).min(len) as usize }).collect()
}

impl Piece {
    /// The parts of the records, which lie in the order of the file, that this piece holds.
    fn parts<'a>(&self, records: &'a [Record]) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (begin, end) = (self.offset, self.offset + self.len as u64);
        let first = records.partition_point(|record| record.offset + record.tensor.bytes() <= begin);
        let here = records.iter().enumerate().skip(first).take_while(move |(_, record)| record.offset < end);
        here.filter_map(move |(index, record)| {
            let from = record.offset.max(begin);
            let to = (record.offset + record.tensor.bytes()).min(end);
            let len = to.checked_sub(from).filter(|&len| len > 0)? as usize;
            Some(Part { index, record, start: from - record.offset, at: (from - begin) as usize, len })
        })
    }
}

/// Writes every record to its place in a file of `bytes`, zeros around them, and returns their CRC-32, in order.
///
/// A record that is a whole record of its input is held against the checksum the input promises.
pub(super) fn fill(
    scratch: &Scratch,
    bytes: u64,
    records: &[Record],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<u32>> {
    let pieces = pieces(bytes);
    let sums = parallel::map(jobs, &pieces, Worker::default, |worker, piece| {
        progress.check()?;
        let mut sums = Vec::new();
        let mut filled = 0;
        for part in piece.parts(records) {
            let bytes = worker.block.bytes_mut();
            bytes.get_mut(filled..part.at).unwrap_or_default().fill(0);
            filled = part.at + part.len;
            let out = bytes.get_mut(part.at..filled).unwrap_or_default();
            let sum =
                read_part(&part, out, &mut worker.held).map_err(|error| error.in_tensor(part.record.key.as_str()))?;
            sums.push((part.index, sum));
        }
        worker.block.bytes_mut().get_mut(filled..piece.len).unwrap_or_default().fill(0);
        scratch.write_block(piece.offset, &worker.block, piece.len)?;
        progress.advance(piece.len as u64);
        Ok(sums)
    })?;
    let totals = total(records, &sums);
    for (record, total) in records.iter().zip(&totals) {
        let sum = if needs_raw_sum(&record.tensor) { &total.raw } else { &total.written };
        check_input(&record.tensor, sum.clone().finalize()).map_err(|error| error.in_tensor(record.key.as_str()))?;
    }
    Ok(totals.into_iter().map(|total| total.written.finalize()).collect())
}

fn read_part(part: &Part<'_>, out: &mut [u8], held: &mut Held) -> Result<Sums> {
    let tensor = &part.record.tensor;
    let size = tensor.dtype().size() as u64;
    if !part.start.is_multiple_of(size) || !(part.len as u64).is_multiple_of(size) {
        // Records are laid out at multiples of their element size, and so are blocks.
        return Err(Error::malformed("a record that is not aligned to its elements"));
    }
    let mut sums = Sums::default();
    let raw = needs_raw_sum(tensor).then_some(&mut sums.raw);
    *held = tensor.hold()?;
    // A value too large for its new type is more likely a damaged one, if the file says so.
    let read = tensor.read(part.start / size, out, raw);
    read.map_err(|error| tensor.check_storage().err().unwrap_or(error))?;
    sums.written.update(out);
    Ok(sums)
}

/// The CRC-32 of each record as it is in the file now, in order.
pub(super) fn checksums(
    scratch: &Scratch,
    bytes: u64,
    records: &[Record],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<u32>> {
    let pieces = pieces(bytes);
    let sums = parallel::map(jobs, &pieces, Block::new, |block, piece| {
        progress.check()?;
        scratch.read_block(piece.offset, block, piece.len)?;
        let sums = piece.parts(records).map(|part| {
            let mut sums = Sums::default();
            sums.written.update(block.bytes().get(part.at..part.at + part.len).unwrap_or_default());
            (part.index, sums)
        });
        let sums: Vec<_> = sums.collect();
        progress.advance(piece.len as u64);
        Ok(sums)
    })?;
    Ok(total(records, &sums).into_iter().map(|total| total.written.finalize()).collect())
}

/// The checksums of whole records, of those of their parts in order.
fn total(records: &[Record], parts: &[Vec<(usize, Sums)>]) -> Vec<Sums> {
    let mut totals: Vec<Sums> = records.iter().map(|_| Sums::default()).collect();
    for (index, sums) in parts.iter().flatten() {
        if let Some(total) = totals.get_mut(*index) {
            total.written.combine(&sums.written);
            total.raw.combine(&sums.raw);
        }
    }
    totals
}

/// What a thread keeps between pieces.
#[derive(Default)]
struct Worker {
    block: Block,
    /// The inflated storage of the last piece, so that the next one need not inflate it again.
    held: Held,
}

/// Checksums of what was written, and of what was read for it.
#[derive(Default)]
struct Sums {
    written: Hasher,
    raw: Hasher,
}

/// Whether what is read has to be summed besides what is written: a promise is there, and the bytes differ.
fn needs_raw_sum(tensor: &LazyTensor) -> bool {
    tensor.promised_crc32().is_some() && !tensor.is_verbatim()
}

fn check_input(tensor: &LazyTensor, found: u32) -> Result<()> {
    match (tensor.promised_crc32(), tensor.storage()) {
        (Some(promised), Some(storage)) if promised != found => Err(storage.damaged()),
        (Some(_), None) => Err(Error::malformed("a checksum without a storage")),
        _ => Ok(()),
    }
}
