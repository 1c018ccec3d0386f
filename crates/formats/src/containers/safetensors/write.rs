use std::cmp::Reverse;

use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

use super::to_header;
use crate::containers::file_layout::{FileLayout, Record, TensorLocation};
use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::metadata::Metadata;
use crate::state_dict::StateDict;
use crate::tensor::View;

/// Lays out a safetensors file.
///
/// Header and data follow the order of the state dict. If that would misalign a tensor, which the Python library cannot
/// map, the data is sorted by decreasing element size instead, and within a size by the order of the state dict.
///
/// Fails if the format cannot hold a dtype or key, or if the file or its header would be too large.
pub(in crate::containers) fn layout(state_dict: &StateDict, metadata: &Metadata) -> Result<FileLayout> {
    let mut tensors: Vec<_> = state_dict.iter().enumerate().collect();
    if !is_aligned(state_dict) {
        tensors.sort_by_key(|(_, (_, tensor))| Reverse(tensor.dtype().size()));
    }
    let too_large = || Error::limit("the output would be larger than any file can be");
    let mut offset = 0_u64;
    let mut records = Vec::with_capacity(tensors.len());
    let mut locations: Vec<Option<TensorLocation>> = tensors.iter().map(|_| None).collect();
    for (position, (key, tensor)) in tensors {
        let view = View::contiguous(tensor.shape().clone());
        let location = locations.get_mut(position).or_internal("a tensor is past the end of its state dict")?;
        *location = Some(TensorLocation { record: records.len(), dtype: tensor.dtype(), view });
        records.push(Record { offset, tensor: tensor.clone(), key: key.to_owned() });
        offset = offset.checked_add(tensor.bytes()).filter(|&end| end <= limits::FILE_BYTES).ok_or_else(too_large)?;
    }
    let locations = locations.into_iter().collect::<Option<Vec<_>>>().or_internal("a tensor has no location")?;
    let header = header(state_dict, metadata, &locations, &records)?;
    let begin = header.len() as u64;
    let bytes = begin.checked_add(offset).filter(|&bytes| bytes <= limits::FILE_BYTES).ok_or_else(too_large)?;
    for record in &mut records {
        record.offset += begin;
    }
    Ok(FileLayout { records, locations, bytes, headers: Box::new(move |_| Ok(vec![(0, header)])) })
}

/// Returns whether every tensor, stored in order, begins at a multiple of its element size.
fn is_aligned(state_dict: &StateDict) -> bool {
    let mut offset = 0_u64;
    state_dict.iter().all(|(_, tensor)| {
        let begins_aligned = offset.is_multiple_of(tensor.dtype().size() as u64);
        // Wrapping keeps the remainder by every element size; `layout` rejects a sum that overflows.
        offset = offset.wrapping_add(tensor.bytes());
        begins_aligned
    })
}

/// Encodes the length and the JSON, padded with spaces so that the data begins at a multiple of eight.
fn header(
    state_dict: &StateDict,
    metadata: &Metadata,
    locations: &[TensorLocation],
    records: &[Record],
) -> Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let fields = metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.to_text()))).collect();
        header.insert("__metadata__".into(), Value::Object(fields));
    }
    for ((key, tensor), location) in state_dict.iter().zip(locations) {
        let fail = |error: Error| error.in_tensor(key);
        if key == "__metadata__" {
            return Err(fail(Error::unsupported("safetensors reserves this key for its metadata")));
        }
        let dtype = to_header(tensor.dtype())
            .ok_or_else(|| fail(Error::unsupported(format!("safetensors cannot hold {}", tensor.dtype()))))?;
        let offset = records.get(location.record).or_internal("a tensor has no record")?.offset;
        let number = |value: u64| {
            usize::try_from(value).map_err(|_| Error::limit("a size that does not fit this machine's word size"))
        };
        let shape = tensor.shape().dims().iter().map(|&dim| number(dim)).collect::<Result<Vec<_>>>().map_err(fail)?;
        let data_offsets = (number(offset).map_err(fail)?, number(offset + tensor.bytes()).map_err(fail)?);
        let info = serde_json::to_value(TensorInfo { dtype, shape, data_offsets });
        let info = info.or_internal("a header entry cannot be encoded as JSON").map_err(fail)?;
        header.insert(key.to_owned(), info);
    }
    let mut json = Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() as u64 > limits::SAFETENSORS_HEADER {
        return Err(Error::limit(format!(
            "a header of {} bytes, the limit of the format is {}",
            json.len(),
            limits::SAFETENSORS_HEADER
        )));
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}
