//! Moving tensor data: bounded pieces, a few threads, every piece written where it belongs.

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::format::frame::Record;
use crate::io::{Progress, Scratch, Source, parallel};
use crate::tensor::{Held, LazyTensor};

/// Bytes of output handled at once. Large enough that a call costs nothing beside its bytes; a thread holds one.
const PIECE: u64 = 4 << 20;

/// A range of a record.
struct Piece {
    record: usize,
    /// First byte within the record.
    start: u64,
    len: usize,
}

fn pieces<'a>(lengths: impl Iterator<Item = (usize, u64)> + 'a) -> Vec<Piece> {
    let split = |(record, len): (usize, u64)| {
        let starts = (0..len.div_ceil(PIECE)).map(move |index| index * PIECE);
        starts.map(move |start| Piece { record, start, len: (len - start).min(PIECE) as usize })
    };
    lengths.flat_map(split).collect()
}

/// Writes every record to its place and returns their CRC-32, in order.
///
/// A record that is a whole record of its input is held against the checksum the input promises.
pub(super) fn fill(scratch: &Scratch, records: &[Record], jobs: usize, progress: &dyn Progress) -> Result<Vec<u32>> {
    let pieces = pieces(records.iter().map(|record| record.tensor.bytes()).enumerate());
    let sums = parallel::map(jobs, &pieces, Worker::default, |worker, piece| {
        progress.check()?;
        let Some(record) = records.get(piece.record) else { return Ok(Sums::default()) };
        let size = record.tensor.dtype().size() as u64;
        let out = worker.buffer.get_mut(..piece.len).unwrap_or_default();
        let mut sums = Sums::default();
        let raw = needs_raw_sum(&record.tensor).then_some(&mut sums.raw);
        worker.held = record.tensor.hold().map_err(|error| error.in_tensor(record.key.as_str()))?;
        record.tensor.read(piece.start / size, out, raw).map_err(|error| {
            // A value too large for its new type is more likely a damaged one, if the file says so.
            let error = record.tensor.check_storage().err().unwrap_or(error);
            error.in_tensor(record.key.as_str())
        })?;
        scratch.write_at(record.offset + piece.start, out)?;
        sums.written.update(out);
        progress.advance(piece.len as u64);
        Ok(sums)
    })?;
    let mut totals: Vec<Sums> = records.iter().map(|_| Sums::default()).collect();
    for (piece, sums) in pieces.iter().zip(&sums) {
        if let Some(total) = totals.get_mut(piece.record) {
            total.written.combine(&sums.written);
            total.raw.combine(&sums.raw);
        }
    }
    for (record, total) in records.iter().zip(&totals) {
        let sum = if needs_raw_sum(&record.tensor) { &total.raw } else { &total.written };
        check_input(&record.tensor, sum.clone().finalize()).map_err(|error| error.in_tensor(record.key.as_str()))?;
    }
    Ok(totals.into_iter().map(|total| total.written.finalize()).collect())
}

/// The CRC-32 of ranges `(offset, len)` of a file, in order.
pub(super) fn checksums(
    source: &Source,
    ranges: &[(u64, u64)],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<u32>> {
    let pieces = pieces(ranges.iter().map(|&(_, len)| len).enumerate());
    let sums = parallel::map(jobs, &pieces, Worker::default, |worker, piece| {
        progress.check()?;
        let mut sum = Hasher::new();
        let out = worker.buffer.get_mut(..piece.len).unwrap_or_default();
        let offset = ranges.get(piece.record).map_or(0, |&(offset, _)| offset);
        source.read_at(offset + piece.start, out)?;
        sum.update(out);
        progress.advance(piece.len as u64);
        Ok(sum)
    })?;
    let mut totals: Vec<Hasher> = ranges.iter().map(|_| Hasher::new()).collect();
    for (piece, sum) in pieces.iter().zip(&sums) {
        if let Some(total) = totals.get_mut(piece.record) {
            total.combine(sum);
        }
    }
    Ok(totals.into_iter().map(Hasher::finalize).collect())
}

/// What a thread keeps between pieces.
struct Worker {
    buffer: Vec<u8>,
    /// The inflated storage of the last piece, so that the next one need not inflate it again.
    held: Held,
}

impl Default for Worker {
    fn default() -> Self {
        Worker { buffer: vec![0; PIECE as usize], held: Held::new() }
    }
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
