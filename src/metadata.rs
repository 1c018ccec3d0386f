//! What a checkpoint carries beside its tensors, as far as it is plain: numbers, text, lists, dicts.

use std::fmt::Write;

use indexmap::IndexMap;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeTuple, Serializer};

/// Names and plain values, in the order of their file.
pub type Metadata = IndexMap<String, Plain>;

/// The field that WebUI reads a merge's recipe from.
pub const MERGE_RECIPE: &str = "sd_merge_recipe";

/// A value of Python's plain types. Serialises in order, so that pickles and JSON come out as they went in.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// A float; also what a NumPy scalar becomes.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Plain>),
    /// A tuple.
    Tuple(Vec<Plain>),
    /// A dict, in insertion order.
    Dict(Vec<(Plain, Plain)>),
}

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Plain::None => serializer.serialize_unit(),
            Plain::Bool(value) => serializer.serialize_bool(*value),
            Plain::Int(value) => serializer.serialize_i64(*value),
            Plain::Float(value) => serializer.serialize_f64(*value),
            Plain::Str(value) => serializer.serialize_str(value),
            Plain::Bytes(value) => serializer.serialize_bytes(value),
            Plain::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Plain::Tuple(items) => {
                let mut tuple = serializer.serialize_tuple(items.len())?;
                for item in items {
                    tuple.serialize_element(item)?;
                }
                tuple.end()
            }
            Plain::Dict(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (key, value) in pairs {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl Plain {
    /// The value as the text of a safetensors metadata field: a string as it is, anything else as JSON the way
    /// Python's `json.dumps` spells it (`NaN` and `Infinity` included, tuples as lists, bytes as lists of numbers).
    pub fn to_text(&self) -> String {
        match self {
            Plain::Str(text) => text.clone(),
            other => {
                let mut json = String::new();
                other.write_json(&mut json);
                json
            }
        }
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Plain::None => out.push_str("null"),
            Plain::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Plain::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Plain::Float(value) if value.is_nan() => out.push_str("NaN"),
            Plain::Float(value) if value.is_infinite() => {
                out.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" });
            }
            Plain::Float(value) => {
                let _ = write!(out, "{value:?}");
            }
            Plain::Str(text) => out.push_str(&json_string(text)),
            Plain::Bytes(bytes) => write_list(out, bytes, |out, byte| out.push_str(&byte.to_string())),
            Plain::List(items) | Plain::Tuple(items) => write_list(out, items, |out, item| item.write_json(out)),
            Plain::Dict(pairs) => {
                out.push('{');
                for (index, (key, value)) in pairs.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    out.push_str(&json_string(&key.to_text()));
                    out.push_str(": ");
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_list<T>(out: &mut String, items: &[T], write: impl Fn(&mut String, &T)) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write(out, item);
    }
    out.push(']');
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_the_rest_becomes_json() {
        assert_eq!(Plain::Str("{\"a\": 1}".into()).to_text(), "{\"a\": 1}");
        let value = Plain::Dict(vec![
            (Plain::Str("z".into()), Plain::Float(1e-4)),
            (Plain::Int(3), Plain::Tuple(vec![Plain::None, Plain::Bool(true), Plain::Float(f64::NAN)])),
        ]);
        assert_eq!(value.to_text(), r#"{"z": 0.0001, "3": [null, true, NaN]}"#);
    }
}
