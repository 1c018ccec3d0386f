//! A `.ckpt` that loads everywhere: `torch.load` with `weights_only` and `mmap`, every WebUI since October 2022.
//!
//! That fixes the records (`archive/data.pkl`, `archive/data/N`, `archive/version` and nothing else, stored), the
//! protocol (2) and the names in the pickle: those below and the storage classes of [`super::dtype::writable_class`].

use std::collections::HashMap;
use std::sync::Arc;

use super::dtype::writable_class;
use super::zip_frame::ZipFrame;
use crate::error::{Error, Result};
use crate::format::frame::{Frame, Place, Record};
use crate::limits;
use crate::metadata::Metadata;
use crate::pickle::Encoder;
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor, Overflow, Shape, Storage, View};

/// What torch writes since 1.6.
const VERSION: &[u8] = b"3\n";

/// Lays out a torch zip of `{"state_dict": {…}, metadata…}`.
///
/// Tensors that are views of one storage stay so, where storing it once takes no more room than storing them apart.
pub(in crate::format) fn frame(state_dict: &StateDict, metadata: &Metadata) -> Result<Frame> {
    let (records, places) = share(state_dict)?;
    let pickle = pickle(state_dict, metadata, &records, &places)?;
    lay_out(pickle, records, places)
}

/// Lays out a torch zip of the tensors alone, by their keys, as diffusers and transformers want their `.bin`.
pub(in crate::format) fn bare_frame(state_dict: &StateDict) -> Result<Frame> {
    let (records, places) = share(state_dict)?;
    let mut encoder = Encoder::new();
    write_tensors(&mut encoder, state_dict, &records, &places)?;
    lay_out(encoder.finish(), records, places)
}

fn lay_out(pickle: Vec<u8>, mut records: Vec<Record>, places: Vec<Place>) -> Result<Frame> {
    let mut zip = ZipFrame::default();
    let pickle_offset = zip.place("archive/data.pkl".into(), pickle.len() as u64);
    let mut total = 0_u64;
    for (index, record) in records.iter_mut().enumerate() {
        total = total.saturating_add(record.tensor.bytes());
        if total > limits::FILE_BYTES / 2 {
            return Err(Error::limit("the output would be larger than any file can be"));
        }
        record.offset = zip.place(format!("archive/data/{index}"), record.tensor.bytes());
    }
    let version_offset = zip.place("archive/version".into(), VERSION.len() as u64);
    let bytes = zip.bytes();
    let surround = move |crc32s: &[u32]| {
        let mut all = vec![crc32fast::hash(&pickle)];
        all.extend(crc32s);
        all.push(crc32fast::hash(VERSION));
        let mut pieces = zip.seal(&all);
        pieces.push((pickle_offset, pickle));
        pieces.push((version_offset, VERSION.to_vec()));
        pieces
    };
    Ok(Frame { records, places, bytes, surround: Box::new(surround) })
}

/// A view of a file's storage, perhaps cast: what sharing can survive.
struct StoredView<'a> {
    storage: &'a Arc<Storage>,
    dtype: Dtype,
    view: &'a View,
    cast: Option<(Dtype, Overflow)>,
}

fn stored_view(tensor: &LazyTensor) -> Option<StoredView<'_>> {
    match tensor {
        LazyTensor::Stored { storage, dtype, view } => Some(StoredView { storage, dtype: *dtype, view, cast: None }),
        LazyTensor::Cast { inner, to, overflow } => {
            let inner = stored_view(inner).filter(|inner| inner.cast.is_none())?;
            Some(StoredView { cast: Some((*to, *overflow)), ..inner })
        }
        _ => None,
    }
}

/// A view that may stay one. Strided views become tensors of their own: readers expect contiguous ones.
fn shareable(tensor: &LazyTensor) -> Option<StoredView<'_>> {
    stored_view(tensor).filter(|stored| stored.view.is_contiguous())
}

/// Storages are shared by their address, and only among views of one type that are cast alike.
type Group = (*const Storage, Dtype, Option<Dtype>);

fn group_of(stored: &StoredView<'_>) -> Group {
    (Arc::as_ptr(stored.storage), stored.dtype, stored.cast.map(|(to, _)| to))
}

/// Decides the records: one for each storage that stays shared, one for every other tensor, by first mention.
fn share(state_dict: &StateDict) -> Result<(Vec<Record>, Vec<Place>)> {
    let mut groups: HashMap<Group, (usize, u64)> = HashMap::new();
    for stored in state_dict.iter().filter_map(|(_, tensor)| shareable(tensor)) {
        let (count, bytes) = groups.entry(group_of(&stored)).or_default();
        *count += 1;
        *bytes = bytes.saturating_add(stored.view.shape().bytes(stored.dtype));
    }
    let is_shared = |stored: &StoredView<'_>| {
        let whole = stored.storage.len().is_multiple_of(stored.dtype.size() as u64);
        groups.get(&group_of(stored)).is_some_and(|&(count, bytes)| count > 1 && whole && bytes >= stored.storage.len())
    };
    let mut records = Vec::new();
    let mut places = Vec::with_capacity(state_dict.len());
    let mut shared: HashMap<Group, usize> = HashMap::new();
    for (key, tensor) in state_dict.iter() {
        let stored = shareable(tensor).filter(is_shared);
        let known = stored.as_ref().and_then(|stored| shared.get(&group_of(stored)));
        let record = match (known, &stored) {
            (Some(&record), _) => record,
            (None, stored) => {
                let tensor = match stored {
                    Some(stored) => whole_storage(stored).map_err(|error| error.in_tensor(key))?,
                    None => tensor.clone(),
                };
                records.push(Record { offset: 0, tensor, key: key.to_owned() });
                records.len() - 1
            }
        };
        if let Some(stored) = &stored {
            shared.insert(group_of(stored), record);
        }
        let view = stored.map_or_else(|| View::contiguous(tensor.shape().clone()), |stored| stored.view.clone());
        places.push(Place { record, dtype: tensor.dtype(), view });
    }
    Ok((records, places))
}

fn whole_storage(stored: &StoredView<'_>) -> Result<LazyTensor> {
    let elements = stored.storage.len() / stored.dtype.size() as u64;
    let view = View::contiguous(Shape::new([elements])?);
    let whole = LazyTensor::stored(Arc::clone(stored.storage), stored.dtype, view)?;
    match stored.cast {
        Some((to, overflow)) => whole.cast(to, overflow),
        None => Ok(whole),
    }
}

fn pickle(state_dict: &StateDict, metadata: &Metadata, records: &[Record], places: &[Place]) -> Result<Vec<u8>> {
    if metadata.contains_key("state_dict") {
        return Err(Error::conflict("a metadata field is called state_dict, the name the tensors have in a .ckpt"));
    }
    let mut encoder = Encoder::new();
    let fields = std::iter::once(None).chain(metadata.iter().map(Some)).collect::<Vec<_>>();
    encoder.dict(fields.into_iter(), |encoder, field| match field {
        None => {
            encoder.str("state_dict")?;
            write_tensors(encoder, state_dict, records, places)
        }
        Some((name, value)) => {
            encoder.str(name)?;
            encoder.plain(value)
        }
    })?;
    Ok(encoder.finish())
}

fn write_tensors(encoder: &mut Encoder, state_dict: &StateDict, records: &[Record], places: &[Place]) -> Result<()> {
    let tensors: Vec<_> = state_dict.iter().zip(places).collect();
    encoder.dict(tensors.into_iter(), |encoder, ((key, _), place)| {
        encoder.str(key)?;
        let record = records.get(place.record).map_or(0, |record| record.tensor.shape().elements());
        tensor(encoder, place, record).map_err(|error| error.in_tensor(key))
    })
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad=False, hooks=OrderedDict())`.
fn tensor(encoder: &mut Encoder, place: &Place, elements: u64) -> Result<()> {
    let class = writable_class(place.dtype).ok_or_else(|| {
        Error::unsupported(format!(
            "{} cannot stand in a .ckpt that every WebUI loads; write a .safetensors instead",
            place.dtype
        ))
    })?;
    encoder.global("torch._utils", "_rebuild_tensor_v2");
    encoder.tuple(6, |encoder| {
        encoder.tuple(5, |encoder| {
            encoder.str("storage")?;
            encoder.global("torch", class);
            encoder.str(&place.record.to_string())?;
            encoder.str("cpu")?;
            encoder.int(elements);
            Ok(())
        })?;
        encoder.persistent();
        encoder.int(place.view.start());
        encoder.int_tuple(place.view.shape().dims());
        encoder.int_tuple(place.view.strides());
        encoder.bool(false);
        encoder.global("collections", "OrderedDict");
        encoder.tuple(0, |_| Ok(()))?;
        encoder.reduce();
        Ok(())
    })?;
    encoder.reduce();
    Ok(())
}
