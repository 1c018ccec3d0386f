//! Copies tensor data to the output in fixed-size chunks, on several threads.

use crc32fast::Hasher;

use crate::containers::file_hash::FileHash;
use crate::containers::file_layout::Record;
use crate::error::{Error, OrInternal, Result};
use crate::io::{AlignedBuffer, AtomicFile, Progress, parallel};
use crate::tensor::{InflatedGuard, LazyTensor, NonFinite, NonFiniteTensor};

/// The part of a record that lies in one chunk.
struct RecordPart<'a> {
    index: usize,
    record: &'a Record,
    /// The first byte, relative to the record.
    start: u64,
    /// The first byte, relative to the chunk.
    at: usize,
    len: usize,
}

/// A range of the output. All chunks but the last have the length of an [`AlignedBuffer`].
struct Chunk {
    offset: u64,
    len: usize,
}

/// Splits a file of `bytes` bytes into chunks. Fails if these do not fit into memory.
fn chunks(bytes: u64) -> Result<Vec<Chunk>> {
    let len = AlignedBuffer::LEN as u64;
    let fail = || Error::limit(format!("an output of {bytes} bytes has too many parts for the memory"));
    let count = usize::try_from(bytes.div_ceil(len)).map_err(|_| fail())?;
    let mut chunks = Vec::new();
    chunks.try_reserve_exact(count).map_err(|_| fail())?;
    // Cannot overflow: each offset is below `bytes`.
    let offsets = (0..bytes.div_ceil(len)).map(|index| index * len);
    chunks.extend(offsets.map(|offset| Chunk { offset, len: (bytes - offset).min(len) as usize }));
    Ok(chunks)
}

impl Chunk {
    /// Returns the parts of records in this chunk. `records` must be in the order of the file.
    ///
    /// The layouts bound the end of each record by [`limits::FILE_BYTES`](crate::limits::FILE_BYTES), so no sum overflows.
    fn parts<'a>(&self, records: &'a [Record]) -> impl Iterator<Item = RecordPart<'a>> + use<'a> {
        let (begin, end) = (self.offset, self.offset + self.len as u64);
        let first = records.partition_point(|record| record.offset + record.tensor.bytes() <= begin);
        let here = records.iter().enumerate().skip(first).take_while(move |(_, record)| record.offset < end);
        here.filter_map(move |(index, record)| {
            let from = record.offset.max(begin);
            let to = (record.offset + record.tensor.bytes()).min(end);
            // An empty record between two others has no part.
            let len = to.checked_sub(from).filter(|&len| len > 0)? as usize;
            Some(RecordPart { index, record, start: from - record.offset, at: (from - begin) as usize, len })
        })
    }
}

/// What was written.
pub(super) struct Filled {
    /// The CRC-32 of each record.
    pub sums: Vec<u32>,
    /// The records with NaN or infinite values, in the order of the file.
    pub non_finite: Vec<NonFiniteTensor>,
}

/// Writes all records and zeros between them to a file of `bytes` bytes.
///
/// Fails if a tensor cannot be read, or if a storage does not match the checksum that its file records.
pub(super) fn fill(
    file: &AtomicFile,
    bytes: u64,
    records: &[Record],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Filled> {
    let chunks = chunks(bytes)?;
    let sums = parallel::map(jobs, &chunks, Worker::default, |worker, chunk| {
        progress.check()?;
        let mut sums = Vec::new();
        let mut filled = 0;
        for part in chunk.parts(records) {
            worker.buffer.slice_mut(filled..part.at)?.fill(0);
            filled = part.at + part.len;
            let sum = read_part(&part, worker.buffer.slice_mut(part.at..filled)?, &mut worker.inflated)
                .map_err(|error| error.in_tensor(part.record.key.as_str()))?;
            sums.push((part.index, sum));
        }
        worker.buffer.slice_mut(filled..chunk.len)?.fill(0);
        file.write_block(chunk.offset, &worker.buffer, chunk.len)?;
        progress.advance(chunk.len as u64);
        Ok(sums)
    })?;
    let totals = combine(records, &sums)?;
    for (record, total) in records.iter().zip(&totals) {
        let sum = if needs_raw_sum(&record.tensor) { &total.raw } else { &total.written };
        let checked = record.tensor.check_crc32(sum.clone().finalize());
        checked.map_err(|error| error.in_tensor(record.key.as_str()))?;
    }
    let found = |(record, total): (&Record, &Sums)| NonFiniteTensor::new(&record.key, total.non_finite);
    let non_finite = records.iter().zip(&totals).filter_map(found).collect();
    Ok(Filled { sums: totals.into_iter().map(|total| total.written.finalize()).collect(), non_finite })
}

fn read_part(part: &RecordPart<'_>, out: &mut [u8], inflated: &mut InflatedGuard) -> Result<Sums> {
    let tensor = &part.record.tensor;
    let size = tensor.dtype().size() as u64;
    if !part.start.is_multiple_of(size) {
        // The layouts align records, and the length of a chunk is a multiple of every element size.
        return Err(Error::internal("a record is not aligned to its elements"));
    }
    let mut sums = Sums::default();
    let raw = needs_raw_sum(tensor).then_some(&mut sums.raw);
    *inflated = tensor.hold()?;
    // If a cast overflows and the storage's checksum is wrong, damage is the likelier cause.
    let read = tensor.read(part.start / size, out, raw);
    read.map_err(|error| tensor.check_storage().err().unwrap_or(error))?;
    sums.written.update(out);
    // The bytes are still in the cache. A cast keeps NaN and infinite values, or fails.
    sums.non_finite = NonFinite::count(tensor.dtype(), out);
    Ok(sums)
}

/// The checksums of a file that was read back.
pub(super) struct Checksums {
    /// The CRC-32 of each record.
    pub sums: Vec<u32>,
    /// The sha256 of the whole file, lower-case hexadecimal.
    pub sha256: String,
}

/// Computes the checksums from the bytes that are in the file now. Reads each once.
pub(super) fn checksums(
    file: &AtomicFile,
    bytes: u64,
    records: &[Record],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Checksums> {
    let chunks = chunks(bytes)?;
    let hash = FileHash::default();
    let read = |buffer: &mut AlignedBuffer, chunk: &Chunk| {
        progress.check()?;
        file.read_block(chunk.offset, buffer, chunk.len)?;
        let sums = chunk.parts(records).map(|part| {
            let mut sums = Sums::default();
            sums.written.update(buffer.slice(part.at..part.at + part.len)?);
            Ok((part.index, sums))
        });
        let sums = sums.collect::<Result<Vec<_>>>()?;
        let index = usize::try_from(chunk.offset / AlignedBuffer::LEN as u64);
        hash.add(index.ok().or_internal("more chunks than were listed")?, buffer.slice(0..chunk.len)?);
        progress.advance(chunk.len as u64);
        Ok(sums)
    };
    let sums = parallel::map(jobs, &chunks, AlignedBuffer::new, |buffer, chunk| {
        // Other threads wait for their turn.
        read(buffer, chunk).inspect_err(|_| hash.give_up())
    })?;
    let sums = combine(records, &sums)?.into_iter().map(|total| total.written.finalize()).collect();
    Ok(Checksums { sums, sha256: hash.finish() })
}

/// Combines the checksums of parts, which are in the order of the file, to those of whole records.
fn combine(records: &[Record], parts: &[Vec<(usize, Sums)>]) -> Result<Vec<Sums>> {
    let mut totals: Vec<Sums> = records.iter().map(|_| Sums::default()).collect();
    for (index, sums) in parts.iter().flatten() {
        let total = totals.get_mut(*index).or_internal("a part belongs to no record")?;
        total.written.combine(&sums.written);
        total.raw.combine(&sums.raw);
        total.non_finite += sums.non_finite;
    }
    Ok(totals)
}

/// The state that a thread keeps between chunks.
#[derive(Default)]
struct Worker {
    buffer: AlignedBuffer,
    /// The inflated storage of the last part, which the next part often needs again.
    inflated: InflatedGuard,
}

/// Checksums of the bytes that were written, and of the stored bytes that were read for them; and what was found in them.
#[derive(Default)]
struct Sums {
    written: Hasher,
    raw: Hasher,
    non_finite: NonFinite,
}

/// Returns whether the checksum of the stored bytes has to be computed separately: the input records one, and a cast or
/// byte swap makes the written bytes different.
fn needs_raw_sum(tensor: &LazyTensor) -> bool {
    tensor.expected_crc32().is_some() && !tensor.is_verbatim()
}
