use serde_json::Value;

/// The field that tells diffusers and transformers to load quantized weights.
const FIELD: &str = "quantization_config";

/// Removes the description of quantized weights from a configuration file of a folder, because folders are written
/// dequantized. Returns other files unchanged.
pub(crate) fn without_config((path, text): (String, Vec<u8>)) -> (String, Vec<u8>) {
    if path.ends_with("config.json")
        && let Ok(Value::Object(mut fields)) = serde_json::from_slice(&text)
        && fields.shift_remove(FIELD).is_some()
    {
        return (path, format!("{:#}\n", Value::Object(fields)).into_bytes());
    }
    (path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_only_the_description_of_quantized_weights() {
        let config = |text: &str| {
            let (_, text) = without_config(("unet/config.json".to_owned(), text.as_bytes().to_vec()));
            String::from_utf8(text).unwrap()
        };
        let quantized = r#"{"b": 1, "quantization_config": {"load_in_4bit": true}, "a": [0.5]}"#;
        assert_eq!(config(quantized), "{\n  \"b\": 1,\n  \"a\": [\n    0.5\n  ]\n}\n");
        for other in [r#"{"b":1}"#, "no JSON"] {
            assert_eq!(config(other), other);
        }
    }
}
