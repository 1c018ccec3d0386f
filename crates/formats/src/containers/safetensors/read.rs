use std::sync::Arc;

use safetensors::tensor::{Dtype as HeaderDtype, Metadata as CrateMetadata, TensorInfo};

use super::from_header;
use super::header::{Entry, Header};
use crate::containers::{Container, StoredCheckpoint, TrailingBytes};
use crate::error::{Error, Result};
use crate::io::Source;
use crate::limits;
use crate::metadata::PyValue;
use crate::tensor::{Dtype, Extent, LazyTensor, Shape, Storage, View};

/// Bytes of the length before the header.
const PREFIX: u64 = 8;

/// Reads the header of a safetensors file. Keeps the order of the keys.
///
/// Fails if the header is invalid, or if the tensors do not cover the data from its start without holes. Bytes behind them are
/// recorded.
pub(crate) fn read(source: &Arc<Source>) -> Result<StoredCheckpoint> {
    let length = header_len(source)?;
    let header = Header::read(source, PREFIX, length)?;
    let mut contents = StoredCheckpoint::for_source(source, Container::Safetensors);
    for (key, value) in header.metadata {
        contents.metadata.insert(key, PyValue::Str(value));
    }
    contents.opaque = header.dropped;
    // Cannot overflow: `header_len` checks that the header lies within the file.
    let begin = PREFIX + length;
    let tensors = header.tensors.into_iter().map(|(key, entry)| {
        let checked = CheckedEntry::new(entry).map_err(|error| error.in_tensor(&key))?;
        Ok((key, checked))
    });
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let covered = check_coverage(&tensors, source.len() - begin, begin)?;
    let bytes = source.len() - begin - covered;
    if bytes > 0 {
        let (file, container) = (source.path().to_owned(), Container::Safetensors);
        contents.trailing.push(TrailingBytes { file, container, offset: begin + covered, bytes });
    }
    for (key, tensor) in tensors {
        // Cannot overflow: the tensors lie within the file.
        let extent = Extent::Raw { offset: begin + tensor.start, len: tensor.end - tensor.start };
        let storage = Storage::new(Arc::clone(source), key.as_str(), extent);
        let view = View::contiguous(tensor.shape);
        let tensor = LazyTensor::stored(Arc::new(storage), tensor.dtype, view);
        let tensor = tensor.map_err(|error| error.in_tensor(&key))?;
        contents.state_dict.insert(key, tensor)?;
    }
    Ok(contents)
}

/// Returns the offset of the first tensor: the length of the header and its prefix.
pub fn data_offset(source: &Arc<Source>) -> Result<u64> {
    Ok(PREFIX + header_len(source)?)
}

/// Returns the length of the header.
fn header_len(source: &Source) -> Result<u64> {
    let mut prefix = [0; PREFIX as usize];
    source.read_at(0, &mut prefix)?;
    let length = u64::from_le_bytes(prefix);
    if length > limits::SAFETENSORS_HEADER {
        let message = format!("a header of {length} bytes, the limit is {}", limits::SAFETENSORS_HEADER);
        return Err(Error::limit(message).at(0));
    }
    let available = source.len() - PREFIX;
    if length > available {
        let message = format!("a header of {length} bytes, the file has {available} more; it was cut short");
        return Err(Error::malformed(message).at(0));
    }
    Ok(length)
}

/// A tensor's entry in the header, checked by itself.
struct CheckedEntry {
    header_dtype: HeaderDtype,
    dtype: Dtype,
    shape: Shape,
    start: u64,
    end: u64,
}

impl CheckedEntry {
    fn new(entry: Entry) -> Result<Self> {
        let unknown = |name: String| Error::unsupported(format!("unknown dtype {name}"));
        let header_dtype = entry.dtype.map_err(unknown)?;
        let dtype = from_header(header_dtype).ok_or_else(|| unknown(header_dtype.to_string()))?;
        let shape = Shape::new(entry.shape)?;
        let (start, end) = entry.data_offsets;
        let expected = shape.bytes(dtype);
        if end.checked_sub(start) != Some(expected) {
            return Err(Error::malformed(format!(
                "{dtype} {shape} needs {expected} bytes, which the offsets {start} to {end} do not match"
            )));
        }
        Ok(CheckedEntry { header_dtype, dtype, shape, start, end })
    }
}

/// Returns how many bytes of the data the tensors cover. Fails unless they do so from its first byte on, without holes or
/// overlaps.
fn check_coverage(tensors: &[(String, CheckedEntry)], available: u64, begin: u64) -> Result<u64> {
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|(_, tensor)| (tensor.start, tensor.end));
    let mut covered = 0;
    for (key, tensor) in &by_offset {
        if tensor.start != covered {
            let what = if tensor.start > covered { "leaves a hole" } else { "overlaps another tensor" };
            return Err(Error::malformed(format!(
                "begins at {} of the data and {what}: the data before it ends at {covered}",
                tensor.start
            ))
            // A forged offset may exceed any file.
            .at(begin.saturating_add(tensor.start))
            .in_tensor(key.as_str()));
        }
        covered = tensor.end;
    }
    if covered > available {
        let found = format!("the tensors take {covered} bytes, the file has {available}; it was cut short");
        return Err(Error::malformed(found).at(begin));
    }
    confirm(by_offset)?;
    Ok(covered)
}

/// Validates the header with the `safetensors` crate, too.
fn confirm(by_offset: Vec<&(String, CheckedEntry)>) -> Result<()> {
    let size = |value: u64| {
        usize::try_from(value).map_err(|_| Error::limit("a number that does not fit this machine's word size"))
    };
    let infos = by_offset.into_iter().map(|(_, tensor)| {
        let shape = tensor.shape.dims().iter().copied().map(size).collect::<Result<Vec<_>>>()?;
        let data_offsets = (size(tensor.start)?, size(tensor.end)?);
        // The keys have been checked. Copies of them would only be names in its errors.
        Ok((String::new(), TensorInfo { dtype: tensor.header_dtype, shape, data_offsets }))
    });
    CrateMetadata::new(None, infos.collect::<Result<Vec<_>>>()?)
        .map_err(|error| Error::malformed(format!("not a valid safetensors header: {error}")))?;
    Ok(())
}
