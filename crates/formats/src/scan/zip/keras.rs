//! The configuration of a Keras model: JSON that names the classes to make, and may hold code.
//!
//! Source: `keras/src/saving/saving_lib.py` and `serialization_lib.py`, versions 2.12 to 3.12.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

use flate2::read::DeflateDecoder;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::directory::Record;
use crate::containers::zip::{DEFLATED, STORED};
use crate::danger::{Level, judge};
use crate::error::Error;
use crate::limits;
use crate::pickle::Name;
use crate::scan::scanner::{Scanner, nested_place};

/// The record with the configuration. Keras needs no other to make the model.
pub(super) const KERAS_CONFIGURATION: &str = "config.json";

/// The record with the weights, an HDF5 file.
pub(super) const KERAS_WEIGHTS: &str = "model.weights.h5";

/// Longest text to keep.
const LONGEST: usize = 200;

/// Layers that run code or load other files.
const DANGEROUS: &[(&str, &str)] = &[
    ("Lambda", "runs Python code that the file holds"),
    ("__lambda__", "runs Python code that the file holds"),
    ("FlaxLayer", "calls any function"),
    ("JaxLayer", "calls any function"),
    ("TFSMLayer", "loads another model"),
    ("TorchModuleWrapper", "loads a pickle"),
];

/// Parts of Keras whose classes and functions only compute.
const PARTS: &[&str] = &[
    "activations",
    "constraints",
    "dtype_policies",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "quantizers",
    "regularizers",
];

/// What a configuration asks for: the name of a class, and the module that Keras imports for it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    module: Option<String>,
    class: String,
    /// The name of a function, if the class is `function`.
    function: Option<String>,
}

impl Made {
    fn judge(&self) -> Option<(Level, &'static str)> {
        if let Some((_, reason)) = DANGEROUS.iter().find(|(class, _)| *class == self.class) {
            return Some((Level::Dangerous, reason));
        }
        let name = self.function.as_deref().filter(|_| self.class == "function").unwrap_or(&self.class);
        let Some(module) = &self.module else { return None };
        let mut parts = module.split('.').filter(|part| *part != "src");
        match (parts.next(), parts.next()) {
            (Some("keras" | "keras_core" | "tf_keras"), part) => {
                let is_class = name.starts_with(|first: char| first.is_ascii_uppercase());
                // Models, and classes under the top name, such as `keras.Functional`.
                let is_model = is_class && part.is_none_or(|part| part == "models");
                let only_computes = is_model || part.is_some_and(|part| PARTS.contains(&part));
                (!only_computes).then_some((Level::Unknown, "is not vouched for"))
            }
            // Keras looks for these functions in its own modules.
            (Some("builtins"), None) if self.class == "function" => None,
            _ => {
                let judgement = judge(&Name { module: module.clone(), name: name.to_owned() });
                let reason = judgement.reason;
                Some(if judgement.level == Level::Dangerous {
                    (Level::Dangerous, reason)
                } else {
                    (Level::Unknown, "is not vouched for as a part of a Keras model")
                })
            }
        }
    }
}

impl Scanner<'_> {
    /// Reports the code in the configuration of a Keras model, and what it would import.
    pub(super) fn keras(&mut self, bytes: &[u8], record: &Record, place: &str) {
        let place = nested_place(place, &record.name);
        let stored = bytes.get(record.begin..).unwrap_or_default();
        let stored = stored.get(..record.len).unwrap_or(stored);
        let mut text = Vec::new();
        let most = limits::JSON_FILE + 1;
        // What was read before an error is not a whole text, and fails below.
        let _ = match record.method {
            STORED => stored.take(most).read_to_end(&mut text),
            DEFLATED => DeflateDecoder::new(stored).take(most).read_to_end(&mut text),
            _ => return,
        };
        self.inflated += text.len() as u64;
        let mut found = BTreeSet::new();
        let mut json = serde_json::Deserializer::from_slice(&text);
        let read =
            if text.len() as u64 == most { Err(()) } else { Values(&mut found).deserialize(&mut json).map_err(drop) };
        if read.is_err() || json.end().is_err() {
            let found =
                format!("the configuration of a Keras model cannot be read, or exceeds {} bytes", limits::JSON_FILE);
            self.fail(Error::unsupported(found), &place);
        }
        for made in found {
            if let Some((level, reason)) = made.judge() {
                let name = made.function.as_ref().filter(|_| made.class == "function").unwrap_or(&made.class);
                let name = made.module.as_ref().map_or_else(|| name.clone(), |module| format!("{module}.{name}"));
                self.add_content(&name, level, reason, &place);
            }
        }
    }
}

/// Collects what a configuration asks for. Returns a text if the value is one.
struct Values<'a>(&'a mut BTreeSet<Made>);

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.chars().take(LONGEST).collect()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element_seed(Values(self.0))?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
        let (mut class, mut module, mut function) = (None, None, None);
        while let Some(key) = pairs.next_key::<String>()? {
            let text = pairs.next_value_seed(Values(self.0))?;
            match key.as_str() {
                "class_name" => class = text,
                "module" => module = text,
                "config" => function = text,
                _ => {}
            }
        }
        if let Some(class) = class
            && self.0.len() < limits::FINDINGS
        {
            let function = function.filter(|_| class == "function");
            self.0.insert(Made { module, class, function });
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(json: &str) -> Level {
        let mut found = BTreeSet::new();
        Values(&mut found).deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap();
        found.iter().filter_map(Made::judge).map(|(level, _)| level).max().unwrap_or(Level::Safe)
    }

    #[test]
    fn judges_what_keras_would_make() {
        for (expected, json) in [
            (Level::Safe, r#"{"module": "keras.src.models.functional", "class_name": "Functional", "config": {}}"#),
            (Level::Safe, r#"{"module": "keras", "class_name": "Sequential"}"#),
            (Level::Safe, r#"{"a": [{"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}]}"#),
            (Level::Safe, r#"{"module": "builtins", "class_name": "function", "config": "relu"}"#),
            (Level::Safe, r#"{"module": null, "class_name": "Dense"}"#),
            (Level::Unknown, r#"{"module": "keras.utils", "class_name": "function", "config": "get_file"}"#),
            (Level::Unknown, r#"{"module": "keras.models", "class_name": "function", "config": "load_model"}"#),
            (Level::Unknown, r#"{"module": "mine", "class_name": "Layer"}"#),
            (Level::Dangerous, r#"{"module": "os", "class_name": "function", "config": "system"}"#),
            (Level::Dangerous, r#"{"module": "builtins", "class_name": "eval"}"#),
            (Level::Dangerous, r#"{"x": {"y": [{"cl\u0061ss_name": "Lambda"}]}}"#),
            (Level::Dangerous, r#"{"module": "keras.layers", "class_name": "TFSMLayer"}"#),
        ] {
            assert_eq!(level(json), expected, "{json}");
        }
    }
}
