//! ComfyUI's descriptions of quantized layers: a tensor `comfy_quant` for each layer, or one metadata field for all.

use serde_json::{Map, Value};

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::metadata::{Metadata, PyValue};

/// The metadata field: `{"format_version": "1.0", "layers": {LAYER: {"format": …}}}`.
const FIELD: &str = "_quantization_metadata";

/// The formats whose values are fp8 values times scales.
const SCALED: &[&str] = &["float8_e4m3fn", "float8_e5m2", "float8_e4m3fn_rowwise"];

/// The fields that do not concern the values of a weight.
const HARMLESS: &[&str] = &["format", "full_precision_matrix_mult", "full_precision_mm"];

/// Fails unless a layer's description is that of scaled fp8.
pub(super) fn check(description: &Map<String, Value>) -> Result<()> {
    let format = description.get("format").and_then(Value::as_str).unwrap_or("missing");
    if !SCALED.contains(&format) {
        let found = format!("the quantization format is {format}; only scaled fp8 can be dequantized");
        return Err(Error::unsupported(found));
    }
    match description.keys().find(|field| !HARMLESS.contains(&field.as_str())) {
        Some(field) => Err(Error::unsupported(format!("the description of the quantized layer has the field {field}"))),
        None => Ok(()),
    }
}

/// The descriptions in the metadata of a file.
pub(super) struct Layers {
    /// The whole field. `None` if the file does not have it.
    document: Option<Value>,
}

impl Layers {
    /// Parses the metadata field. Fails if it is not JSON.
    pub(super) fn new(metadata: &Metadata) -> Result<Self> {
        let parsed = metadata.get(FIELD).map(|found| serde_json::from_str(&found.to_text())).transpose();
        let fail = |error| Error::malformed(format!("the metadata field {FIELD} is not JSON: {error}"));
        Ok(Layers { document: parsed.map_err(fail)? })
    }

    /// Returns the description of the layer of a weight.
    pub(super) fn get(&self, weight: &str) -> Result<Option<&Map<String, Value>>> {
        let layers = self.document.as_ref().and_then(|document| document.get("layers"));
        let layer = weight.strip_suffix(".weight").unwrap_or(weight);
        match layers.and_then(|layers| layers.get(layer)) {
            Some(Value::Object(found)) => Ok(Some(found)),
            Some(_) => {
                Err(Error::malformed(format!("the metadata field {FIELD} does not describe the layer by an object")))
            }
            None => Ok(None),
        }
    }

    /// Removes the descriptions of dequantized weights from the metadata.
    pub(super) fn remove(self, metadata: &mut Metadata, is_dequantized: impl Fn(&str) -> bool) {
        let Some(mut document) = self.document else { return };
        let Some(layers) = document.get_mut("layers").and_then(Value::as_object_mut) else { return };
        let before = layers.len();
        layers.retain(|layer, _| !is_dequantized(&format!("{layer}.weight")));
        let after = layers.len();
        if after == 0 {
            metadata.shift_remove(FIELD);
        } else if after < before {
            metadata.insert(FIELD.to_owned(), PyValue::Str(document.to_string()));
        }
    }
}
