//! Lays out a `.ckpt` that loads in `torch.load` with `weights_only` and `mmap`, and in every WebUI since October 2022
//! (bfloat16: since May 2023).
//!
//! That dictates the records (`archive/data.pkl`, `archive/data/N` and `archive/version`, uncompressed, and no others), the
//! pickle protocol (2) and the names in the pickle: those below and the storage classes of
//! [`super::dtype::writable_class`].

use std::collections::HashMap;
use std::sync::Arc;

use super::dtype::writable_class;
use super::zip_layout::ZipLayout;
use crate::containers::file_layout::{FileLayout, Record, TensorLocation};
use crate::containers::structure::{Branch, Step, Structure};
use crate::error::{Error, OrInternal, Result};
use crate::limits;
use crate::metadata::Metadata;
use crate::pickle::Encoder;
use crate::state_dict::StateDict;
use crate::tensor::{Dtype, LazyTensor, Shape, Storage, StoredView, View};

/// The content of the `version` record since torch 1.6.
const VERSION: &[u8] = b"3\n";

/// Lays out a torch zip of `{"state_dict": {…}, metadata…}`, or of an object with another structure. A bare state dict
/// has no place for metadata: with metadata, its tensors are under `state_dict` too.
///
/// Tensors that are views of one storage keep sharing it, unless storing them separately takes less space.
pub(in crate::containers) fn layout(
    state_dict: &StateDict,
    metadata: &Metadata,
    structure: &Structure,
) -> Result<FileLayout> {
    let (records, locations) = share(state_dict)?;
    let pickle = Pickler { keys: state_dict.keys().collect(), metadata, records: &records, locations: &locations }
        .pickle(structure)?;
    lay_out(pickle, records, locations)
}

fn lay_out(pickle: Vec<u8>, mut records: Vec<Record>, locations: Vec<TensorLocation>) -> Result<FileLayout> {
    let mut zip = ZipLayout::default();
    let pickle_offset = zip.place("archive/data.pkl".into(), pickle.len() as u64);
    let mut total = 0_u64;
    for (index, record) in records.iter_mut().enumerate() {
        // Half the limit leaves room for the headers, whatever their number.
        total = total
            .checked_add(record.tensor.bytes())
            .filter(|&total| total <= limits::FILE_BYTES / 2)
            .ok_or_else(|| Error::limit("the output would be larger than any file can be"))?;
        record.offset = zip.place(format!("archive/data/{index}"), record.tensor.bytes());
    }
    let version_offset = zip.place("archive/version".into(), VERSION.len() as u64);
    let bytes = zip.bytes();
    let headers = move |crc32s: &[u32]| {
        let mut all = vec![crc32fast::hash(&pickle)];
        all.extend(crc32s);
        all.push(crc32fast::hash(VERSION));
        let mut pieces = zip.headers(&all)?;
        pieces.push((pickle_offset, pickle));
        pieces.push((version_offset, VERSION.to_vec()));
        Ok(pieces)
    };
    Ok(FileLayout { records, locations, bytes, headers: Box::new(headers) })
}

/// Returns the tensor as a view that can keep sharing its storage. Strided views are copied: readers expect contiguous
/// tensors.
fn shareable(tensor: &LazyTensor) -> Option<StoredView<'_>> {
    tensor.as_stored().filter(|stored| stored.view.is_contiguous())
}

/// Views that can share one record: of the same storage, with the same dtype, cast to the same dtype.
type Group = (*const Storage, Dtype, Option<Dtype>);

fn group_of(stored: &StoredView<'_>) -> Group {
    (Arc::as_ptr(stored.storage), stored.dtype, stored.cast.map(|(to, _)| to))
}

/// Decides the records, in the order of first use: one for each storage that stays shared, one for every other tensor.
fn share(state_dict: &StateDict) -> Result<(Vec<Record>, Vec<TensorLocation>)> {
    let mut groups: HashMap<Group, (usize, u64)> = HashMap::new();
    for stored in state_dict.iter().filter_map(|(_, tensor)| shareable(tensor)) {
        let (count, bytes) = groups.entry(group_of(&stored)).or_default();
        *count += 1;
        // Only compared with the length of the storage, so that saturating is exact enough.
        *bytes = bytes.saturating_add(stored.view.shape().bytes(stored.dtype));
    }
    let is_shared = |stored: &StoredView<'_>| {
        let whole = stored.storage.len().is_multiple_of(stored.dtype.size() as u64);
        groups.get(&group_of(stored)).is_some_and(|&(count, bytes)| count > 1 && whole && bytes >= stored.storage.len())
    };
    let mut records = Vec::new();
    let mut locations = Vec::with_capacity(state_dict.len());
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
        locations.push(TensorLocation { record, dtype: tensor.dtype(), view });
    }
    Ok((records, locations))
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

/// Encodes `data.pkl`.
struct Pickler<'a> {
    keys: Vec<&'a str>,
    metadata: &'a Metadata,
    records: &'a [Record],
    locations: &'a [TensorLocation],
}

impl Pickler<'_> {
    fn pickle(&self, structure: &Structure) -> Result<Vec<u8>> {
        let mut encoder = Encoder::new();
        match structure {
            Structure::Bare if self.metadata.is_empty() => self.tensors(&mut encoder)?,
            Structure::Bare | Structure::StateDict => {
                self.object(&mut encoder, &[Step::Key("state_dict".to_owned())], |encoder, _| self.tensors(encoder))?;
            }
            Structure::Nested(nesting) => {
                let items = nesting.object(self.keys.iter().copied())?;
                let steps: Vec<_> = items.keys().cloned().collect();
                self.object(&mut encoder, &steps, |encoder, step| {
                    self.branch(encoder, items.get(step).or_internal("a part of a nested file vanished")?)
                })?;
            }
        }
        Ok(encoder.finish())
    }

    /// Encodes a dict with these keys, whose values `value` writes, and the metadata beside them.
    fn object(
        &self,
        encoder: &mut Encoder,
        keys: &[Step],
        value: impl Fn(&mut Encoder, &Step) -> Result<()>,
    ) -> Result<()> {
        if let Some(key) = keys.iter().find(|key| self.metadata.contains_key(&key.text())) {
            let found = format!("a metadata field is called {}, which is where this .ckpt stores tensors", key.text());
            return Err(Error::conflict(found));
        }
        let tensors = keys.iter().map(|key| (Some(key), None));
        let fields: Vec<_> = tensors.chain(self.metadata.iter().map(|field| (None, Some(field)))).collect();
        encoder.dict(fields.into_iter(), |encoder, field| match field {
            (Some(key), _) => {
                write_step(encoder, key)?;
                value(encoder, key)
            }
            (None, field) => {
                let (name, value) = field.or_internal("an item of a dict has no key")?;
                encoder.str(name)?;
                encoder.plain(value)
            }
        })
    }

    fn tensors(&self, encoder: &mut Encoder) -> Result<()> {
        encoder.dict(self.keys.iter().enumerate(), |encoder, (index, key)| {
            encoder.str(key)?;
            self.tensor(encoder, index)
        })
    }

    fn tensor(&self, encoder: &mut Encoder, index: usize) -> Result<()> {
        let key = *self.keys.get(index).or_internal("a tensor has no key")?;
        let location = self.locations.get(index).or_internal("a tensor has no location")?;
        let record = self.records.get(location.record).or_internal("a tensor has no record")?;
        tensor(encoder, location, record.tensor.shape().elements()).map_err(|error| error.in_tensor(key))
    }

    /// Encodes a part of a nested file. Recurses as deep as the reader of the input allowed.
    fn branch(&self, encoder: &mut Encoder, branch: &Branch) -> Result<()> {
        match branch {
            Branch::Tensor(index) => self.tensor(encoder, *index),
            Branch::Dict(items) => encoder.dict(items.iter(), |encoder, (step, branch)| {
                write_step(encoder, step)?;
                self.branch(encoder, branch)
            }),
            Branch::List(items) => encoder.list(items.iter(), |encoder, branch| self.branch(encoder, branch)),
            Branch::Tuple(items) => {
                encoder.tuple(items.len(), |encoder| items.iter().try_for_each(|item| self.branch(encoder, item)))
            }
        }
    }
}

fn write_step(encoder: &mut Encoder, step: &Step) -> Result<()> {
    match step {
        Step::Key(key) => encoder.str(key),
        Step::Number(number) => encoder.plain(number),
        Step::Item(_) | Step::Element(_) => Err(Error::internal("an index is the key of a dict")),
    }
}

/// Encodes `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad=False, hooks=OrderedDict())`. `elements` is
/// the length of the storage.
fn tensor(encoder: &mut Encoder, location: &TensorLocation, elements: u64) -> Result<()> {
    let class = writable_class(location.dtype).ok_or_else(|| {
        Error::unsupported(format!(
            "a .ckpt that every WebUI loads cannot hold {}; write a .safetensors instead",
            location.dtype
        ))
    })?;
    encoder.global("torch._utils", "_rebuild_tensor_v2");
    encoder.tuple(6, |encoder| {
        encoder.tuple(5, |encoder| {
            encoder.str("storage")?;
            encoder.global("torch", class);
            encoder.str(&location.record.to_string())?;
            encoder.str("cpu")?;
            encoder.int(elements);
            Ok(())
        })?;
        encoder.persistent();
        encoder.int(location.view.start());
        encoder.int_tuple(location.view.shape().dims());
        encoder.int_tuple(location.view.strides());
        encoder.bool(false);
        encoder.global("collections", "OrderedDict");
        encoder.tuple(0, |_| Ok(()))?;
        encoder.reduce();
        Ok(())
    })?;
    encoder.reduce();
    Ok(())
}
