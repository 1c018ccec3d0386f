//! The JSON header of a safetensors file, read as a stream: it can have a hundred megabytes.

use std::fmt;
use std::io::{BufReader, Read};
use std::sync::Arc;

use indexmap::IndexMap;
use safetensors::tensor::Dtype as HeaderDtype;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::strings::{Cut, ShortStrings};
use crate::containers::OpaqueValue;
use crate::error::{Error, Result};
use crate::io::Source;
use crate::limits;

/// The header, in the order of the file.
#[derive(Default)]
pub(super) struct Header {
    pub metadata: IndexMap<String, String>,
    pub tensors: IndexMap<String, Entry>,
    /// Metadata beyond [`limits::METADATA_FIELDS`] and [`limits::METADATA_BYTES`].
    pub dropped: Vec<OpaqueValue>,
}

/// A tensor's entry in the header, unchecked.
#[derive(Deserialize)]
pub(super) struct Entry {
    #[serde(deserialize_with = "dtype")]
    pub dtype: Result<HeaderDtype, String>,
    #[serde(deserialize_with = "dims")]
    pub shape: Vec<u64>,
    pub data_offsets: (u64, u64),
}

impl Header {
    /// Reads the header of `len` bytes at `offset`.
    ///
    /// Fails if it is not the JSON of a header, if a key occurs twice, or if there are more than [`limits::TENSORS`] tensors.
    pub(super) fn read(source: &Arc<Source>, offset: u64, len: u64) -> Result<Self> {
        // No string of such a header is too long.
        let header = if len <= limits::SAFETENSORS_HEADER_HELD {
            parse(serde_json::Deserializer::from_slice(&source.read(offset, len)?), &Cut::default())
        } else {
            let cut = Cut::default();
            let strings = ShortStrings::new(source.reader_of(offset, len), limits::METADATA_BYTES, &cut);
            parse(serde_json::Deserializer::from_reader(BufReader::new(strings)), &cut)
        };
        header.map_err(|error| {
            let message = Error::malformed(format!("the header is not valid: {error}"));
            match position(source, offset, len, &error) {
                Some(position) => message.at(position),
                None => message,
            }
        })
    }
}

fn parse<'de, R: serde_json::de::Read<'de>>(
    mut parser: serde_json::Deserializer<R>,
    cut: &Cut,
) -> serde_json::Result<Header> {
    let header = HeaderSeed(cut).deserialize(&mut parser)?;
    parser.end().map(|()| header)
}

/// Returns the offset of an error in the file; `None` if it cannot be read again.
fn position(source: &Arc<Source>, offset: u64, len: u64, error: &serde_json::Error) -> Option<u64> {
    // serde_json counts lines and columns from 1, and reports column 0 for the end of a line.
    let mut lines = error.line().saturating_sub(1);
    let mut at = offset;
    if lines > 0 {
        for byte in source.reader_of(offset, len).bytes() {
            at += 1;
            lines -= usize::from(byte.ok()? == b'\n');
            if lines == 0 {
                break;
            }
        }
    }
    Some((at + error.column().saturating_sub(1) as u64).min(offset + len))
}

struct HeaderSeed<'a>(&'a Cut);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        let mut key_bytes = 0;
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom("__metadata__ occurs twice"));
                }
                (header.metadata, header.dropped) = map.next_value_seed(MetadataSeed(self.0))?;
                continue;
            }
            // Shortened keys are longer than this.
            if key.len() > limits::KEY_BYTES || self.0.take() {
                return Err(A::Error::custom(format!("a key of more than {} bytes", limits::KEY_BYTES)));
            }
            key_bytes += key.len();
            if key_bytes > limits::KEYS_BYTES {
                return Err(A::Error::custom(format!("the keys have more than {} bytes together", limits::KEYS_BYTES)));
            }
            let is_full = header.tensors.len() == limits::TENSORS;
            let place = match header.tensors.entry(key) {
                indexmap::map::Entry::Vacant(place) => place,
                indexmap::map::Entry::Occupied(place) => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom(format!("the tensor {} occurs twice", place.key())));
                }
            };
            if is_full {
                return Err(A::Error::custom(format!("more than {} tensors", limits::TENSORS)));
            }
            let entry =
                map.next_value().map_err(|error| A::Error::custom(format!("tensor {}: {error}", place.key())))?;
            place.insert(entry);
        }
        Ok(header)
    }
}

/// A JSON object of strings, or null. Duplicate keys are an error.
struct MetadataSeed<'a>(&'a Cut);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = (IndexMap<String, String>, Vec<OpaqueValue>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = (IndexMap<String, String>, Vec<OpaqueValue>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    /// Some writers store null instead of leaving empty metadata out.
    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Default::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut strings = IndexMap::new();
        let mut dropped: Vec<OpaqueValue> = Vec::new();
        let (mut bytes, mut more) = (0, 0);
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            let len = bytes + key.len() + value.len();
            let is_cut = self.0.take();
            if strings.len() < limits::METADATA_FIELDS && len <= limits::METADATA_BYTES && !is_cut {
                bytes = len;
                if strings.insert(key.clone(), value).is_some() {
                    return Err(A::Error::custom(format!("the metadata {key} occurs twice")));
                }
            } else if dropped.len() < limits::METADATA_DROPPED && key.len() <= limits::KEY_BYTES {
                let (fields, most) = (limits::METADATA_FIELDS, limits::METADATA_BYTES);
                let size = if is_cut { "more".to_owned() } else { value.len().to_string() };
                let what = format!("a text of {size} bytes, beyond the limit of {fields} fields and {most} bytes");
                dropped.push(OpaqueValue { path: key, what });
            } else {
                more += 1;
            }
        }
        if more > 0 {
            dropped.push(OpaqueValue { path: "__metadata__".to_owned(), what: format!("{more} more fields") });
        }
        Ok((strings, dropped))
    }
}

/// Reads the name of a dtype; an unknown one as text.
fn dtype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<HeaderDtype, String>, D::Error> {
    struct Name;
    impl Visitor<'_> for Name {
        type Value = Result<HeaderDtype, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
            let known = HeaderDtype::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(name));
            Ok(known.map_err(|_| name.to_owned()))
        }
    }
    deserializer.deserialize_str(Name)
}

/// Reads the dimensions of a shape, at most [`limits::RANK`].
fn dims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Dims;
    impl<'de> Visitor<'de> for Dims {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u64>, A::Error> {
            let mut dims = Vec::new();
            while let Some(dim) = items.next_element()? {
                if dims.len() == limits::RANK {
                    return Err(A::Error::custom(format!("more than {} dimensions", limits::RANK)));
                }
                dims.push(dim);
            }
            Ok(dims)
        }
    }
    deserializer.deserialize_seq(Dims)
}
