use serde::Serialize;

use trinart_ckpt_formats::error::{OrInternal, Result};

/// The name and version of the JSON format. The version changes when fields change their meaning or disappear.
pub const SCHEMA: &str = "trinart-ckpt/1";

#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    content: &'a T,
}

/// Formats a report as an indented JSON document. Its first field is the schema.
pub fn to_json(report: &impl Serialize) -> Result<String> {
    let document = Document { schema: SCHEMA, content: report };
    serde_json::to_string_pretty(&document).or_internal("a report cannot be written as JSON")
}

/// Formats a report as a JSON document on one line.
pub fn to_json_line(report: &impl Serialize) -> Result<String> {
    let document = Document { schema: SCHEMA, content: report };
    serde_json::to_string(&document).or_internal("a report cannot be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_comes_first() {
        let json = to_json(&serde_json::json!({ "equal": true })).unwrap();
        assert_eq!(json, "{\n  \"schema\": \"trinart-ckpt/1\",\n  \"equal\": true\n}");
    }
}
