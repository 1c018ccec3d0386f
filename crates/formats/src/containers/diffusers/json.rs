//! JSON as Python's `json` module reads and writes it: with the numbers `NaN`, `Infinity` and `-Infinity`, which some
//! schedulers of diffusers have in their configurations.

use serde_json::Value;

use crate::error::{Error, Result};

/// Stands before a number that JSON lacks, while it is a string. A private character, so that no configuration has it.
const MARK: char = '\u{F8FF}';

/// The numbers that JSON lacks. `-Infinity` comes first, because it contains another one.
const NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses JSON. A number that JSON lacks becomes a string that [`write_json`] turns back.
pub fn parse_json(text: &[u8]) -> Result<Value> {
    let wrong = |error: &dyn std::fmt::Display| Error::malformed(format!("not valid JSON: {error}"));
    serde_json::from_slice(text).or_else(|error| {
        let Ok(text) = std::str::from_utf8(text) else { return Err(wrong(&error)) };
        serde_json::from_str(&quote_numbers(text)).map_err(|_| wrong(&error))
    })
}

/// Formats JSON as diffusers does: indented, with a final newline.
pub fn write_json(value: &Value) -> String {
    let mut text = format!("{value:#}\n");
    for number in NUMBERS {
        text = text.replace(&format!("\"{MARK}{number}\""), number);
    }
    text
}

/// Turns the numbers that JSON lacks into strings, outside of strings.
fn quote_numbers(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let mut rest = text;
    let (mut is_string, mut is_escaped) = (false, false);
    while let Some(first) = rest.chars().next() {
        let number = NUMBERS.iter().find_map(|&number| Some((number, rest.strip_prefix(number)?)));
        if let Some((number, after)) = number.filter(|_| !is_string) {
            quoted.extend(['"', MARK]);
            quoted.push_str(number);
            quoted.push('"');
            rest = after;
            continue;
        }
        if first == '"' && !is_escaped {
            is_string = !is_string;
        }
        is_escaped = is_string && first == '\\' && !is_escaped;
        quoted.push(first);
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_numbers_that_json_lacks() {
        let text =
            "{\n  \"a\": -Infinity,\n  \"b\": [\n    Infinity,\n    NaN\n  ],\n  \"c\": \"NaN \\\" -Infinity\"\n}\n";
        let value = parse_json(text.as_bytes()).unwrap();
        assert_eq!(value["c"], "NaN \" -Infinity");
        assert_eq!(write_json(&value), text);
    }

    #[test]
    fn rejects_other_text() {
        for text in ["", "{", "Infinit", "{\"a\": --Infinity}", "{\"a\": NaNN}", "\u{F8FF}"] {
            assert!(parse_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
