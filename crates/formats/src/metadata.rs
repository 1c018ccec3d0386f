//! Metadata of a checkpoint: the plain Python values beside its tensors.

use std::fmt::Write;

use indexmap::IndexMap;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeTuple, Serializer};

/// Metadata fields by name, in the order of their file.
pub type Metadata = IndexMap<String, PyValue>;

/// The field that WebUI reads the recipe of a merge from.
pub const MERGE_RECIPE: &str = "sd_merge_recipe";

/// The field that WebUI reads the names of merged models from, by their hash.
pub const MERGE_MODELS: &str = "sd_merge_models";

/// A value of one of Python's built-in types. Serializes dicts in their order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PyValue {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// A float. NumPy scalars of floating-point types are converted to it.
    Float(f64),
    /// A `str`.
    Str(String),
    /// A `bytes` object.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<PyValue>),
    /// A tuple.
    Tuple(Vec<PyValue>),
    /// A dict, in insertion order.
    Dict(Vec<(PyValue, PyValue)>),
}

impl Serialize for PyValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PyValue::None => serializer.serialize_unit(),
            PyValue::Bool(value) => serializer.serialize_bool(*value),
            PyValue::Int(value) => serializer.serialize_i64(*value),
            PyValue::Float(value) => serializer.serialize_f64(*value),
            PyValue::Str(value) => serializer.serialize_str(value),
            PyValue::Bytes(value) => serializer.serialize_bytes(value),
            PyValue::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            PyValue::Tuple(items) => {
                let mut tuple = serializer.serialize_tuple(items.len())?;
                for item in items {
                    tuple.serialize_element(item)?;
                }
                tuple.end()
            }
            PyValue::Dict(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (key, value) in pairs {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl PyValue {
    /// Returns the value as the text of a safetensors metadata field.
    ///
    /// A string is unchanged. Any other value becomes JSON in the format of Python's `json.dumps`: `NaN` and `Infinity` are
    /// allowed, and tuples become lists. Bytes become lists of numbers.
    pub fn to_text(&self) -> String {
        match self {
            PyValue::Str(text) => text.clone(),
            other => {
                let mut json = String::new();
                other.write_json(&mut json);
                json
            }
        }
    }

    fn write_json(&self, out: &mut String) {
        match self {
            PyValue::None => out.push_str("null"),
            PyValue::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            PyValue::Int(value) => {
                let _ = write!(out, "{value}");
            }
            PyValue::Float(value) if value.is_nan() => out.push_str("NaN"),
            PyValue::Float(value) if value.is_infinite() => {
                out.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" });
            }
            PyValue::Float(value) => {
                let _ = write!(out, "{value:?}");
            }
            PyValue::Str(text) => out.push_str(&json_string(text)),
            PyValue::Bytes(bytes) => write_list(out, bytes, |out, byte| out.push_str(&byte.to_string())),
            PyValue::List(items) | PyValue::Tuple(items) => write_list(out, items, |out, item| item.write_json(out)),
            PyValue::Dict(pairs) => {
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
    fn keeps_text_and_turns_other_values_into_json() {
        assert_eq!(PyValue::Str("{\"a\": 1}".into()).to_text(), "{\"a\": 1}");
        let value = PyValue::Dict(vec![
            (PyValue::Str("z".into()), PyValue::Float(1e-4)),
            (PyValue::Int(3), PyValue::Tuple(vec![PyValue::None, PyValue::Bool(true), PyValue::Float(f64::NAN)])),
        ]);
        assert_eq!(value.to_text(), r#"{"z": 0.0001, "3": [null, true, NaN]}"#);
    }
}
