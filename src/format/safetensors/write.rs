use std::cmp::Reverse;

use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

use super::name_of;
use crate::error::{Error, Result};
use crate::format::frame::{Frame, Place, Record};
use crate::limits;
use crate::metadata::Metadata;
use crate::state_dict::StateDict;
use crate::tensor::View;

/// Lays out a safetensors file.
///
/// Header and data follow the state dict's order. Where that would misalign a tensor (the Python library cannot view
/// such), the data comes by falling element size instead, and within a size in the state dict's order.
pub(in crate::format) fn frame(state_dict: &StateDict, metadata: &Metadata) -> Result<Frame> {
    let mut tensors: Vec<_> = state_dict.iter().enumerate().collect();
    if !is_aligned(state_dict) {
        tensors.sort_by_key(|(_, (_, tensor))| Reverse(tensor.dtype().size()));
    }
    let mut offset = 0_u64;
    let mut records = Vec::with_capacity(tensors.len());
    let mut places: Vec<Option<Place>> = tensors.iter().map(|_| None).collect();
    for (position, (key, tensor)) in tensors {
        let view = View::contiguous(tensor.shape().clone());
        if let Some(place) = places.get_mut(position) {
            *place = Some(Place { record: records.len(), dtype: tensor.dtype(), view });
        }
        records.push(Record { offset, tensor: tensor.clone(), key: key.to_owned() });
        offset = offset
            .checked_add(tensor.bytes())
            .filter(|&end| end <= limits::FILE_BYTES)
            .ok_or_else(|| Error::limit("the output would be larger than any file can be"))?;
    }
    let places: Vec<Place> = places.into_iter().flatten().collect();
    let header = header(state_dict, metadata, &places, &records)?;
    let begin = header.len() as u64;
    for record in &mut records {
        record.offset += begin;
    }
    Ok(Frame { records, places, bytes: begin + offset, surround: Box::new(move |_| vec![(0, header)]) })
}

/// Whether every tensor begins at a multiple of its element size if they follow one another in order.
fn is_aligned(state_dict: &StateDict) -> bool {
    let mut offset = 0_u64;
    state_dict.iter().all(|(_, tensor)| {
        let begins_aligned = offset.is_multiple_of(tensor.dtype().size() as u64);
        offset = offset.saturating_add(tensor.bytes());
        begins_aligned
    })
}

/// The length and the JSON, padded with spaces so that the data begins at a multiple of eight.
fn header(state_dict: &StateDict, metadata: &Metadata, places: &[Place], records: &[Record]) -> Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let fields = metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.to_text()))).collect();
        header.insert("__metadata__".into(), Value::Object(fields));
    }
    for ((key, tensor), place) in state_dict.iter().zip(places) {
        let fail = |error: Error| error.in_tensor(key);
        if key == "__metadata__" {
            return Err(fail(Error::unsupported("safetensors reserves this key for its metadata")));
        }
        let dtype = name_of(tensor.dtype())
            .ok_or_else(|| fail(Error::unsupported(format!("safetensors cannot hold {}", tensor.dtype()))))?;
        let offset = records.get(place.record).map_or(0, |record| record.offset);
        let number = |value: u64| usize::try_from(value).map_err(|_| Error::limit("a size beyond this machine's word"));
        let shape = tensor.shape().dims().iter().map(|&dim| number(dim)).collect::<Result<Vec<_>>>().map_err(fail)?;
        let data_offsets = (number(offset).map_err(fail)?, number(offset + tensor.bytes()).map_err(fail)?);
        let info = serde_json::to_value(TensorInfo { dtype, shape, data_offsets });
        let info = info.map_err(|error| fail(Error::unsupported(format!("cannot be described: {error}"))))?;
        header.insert(key.to_owned(), info);
    }
    let mut json = Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() as u64 > limits::SAFETENSORS_HEADER {
        return Err(Error::limit(format!(
            "a header of {} bytes, the format allows {}",
            json.len(),
            limits::SAFETENSORS_HEADER
        )));
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}
