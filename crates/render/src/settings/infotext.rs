//! Writes and parses the `parameters` text of WebUI's pictures.

use std::fmt::Write;

use indexmap::IndexMap;

use crate::prompt::{is_space, is_word};

/// The parameters of a picture, with the fields in WebUI's order.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Infotext {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; may be empty.
    pub negative: String,
    /// The fields by name: `Steps: 20, Sampler: Euler a, …`.
    pub fields: IndexMap<String, String>,
}

/// Minimum number of fields for the last line to be parsed as fields.
const LEAST_FIELDS: usize = 3;

/// How the version of this program begins in the field `Version`.
pub(super) const OURS: &str = "trinart-ckpt ";

const NEGATIVE: &str = "Negative prompt:";

/// Fields that override the prompt lines in earlier pictures of this program, and in WebUI before 1.9.
const PROMPT_FIELDS: [&str; 2] = ["Prompt", "Negative prompt"];

impl Infotext {
    /// Adds a field after the others.
    pub fn push(&mut self, name: &str, value: impl ToString) {
        self.fields.insert(name.to_owned(), value.to_string());
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Formats the text. Lines of prompts that would be read as the begin of a negative prompt get a backslash, which has no
    /// effect on the picture.
    pub fn to_text(&self) -> String {
        let mut text = escaped(&self.prompt);
        if !self.negative.is_empty() {
            let _ = write!(text, "\n{NEGATIVE} {}", escaped(&self.negative));
        }
        let fields: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name}: {}", quote(value))).collect();
        let _ = write!(text, "\n{}", fields.join(", "));
        strip(&text).to_owned()
    }

    /// Parses a text by WebUI's rules. A last line without enough fields belongs to the prompt.
    pub fn parse(text: &str) -> Self {
        let text = strip(text);
        let (mut lines, last) = match text.rsplit_once('\n') {
            Some((before, last)) => (before.split('\n').collect::<Vec<_>>(), last),
            None => (Vec::new(), text),
        };
        let mut found = Infotext::default();
        match fields(last) {
            Some(fields) => found.fields = fields,
            None => lines.push(last),
        }
        let (mut prompt, mut negative) = (String::new(), String::new());
        let mut is_negative = false;
        for line in lines.into_iter().map(strip) {
            let line = match line.strip_prefix(NEGATIVE) {
                Some(rest) => {
                    is_negative = true;
                    strip(rest)
                }
                None => line,
            };
            append(if is_negative { &mut negative } else { &mut prompt }, line);
        }
        (found.prompt, found.negative) = (prompt, negative);
        if found.get("Version").is_some_and(|version| version.starts_with(OURS)) {
            let [of_prompt, of_negative] = PROMPT_FIELDS.map(|name| found.fields.shift_remove(name));
            found.prompt = of_prompt.unwrap_or(found.prompt);
            found.negative = of_negative.unwrap_or(found.negative);
        }
        found
    }
}

/// Returns a prompt as WebUI would read it from a picture: without leading and trailing white space on each line, and
/// without a line that begins like a negative prompt.
pub(super) fn as_read(prompt: &str) -> String {
    let mut read = String::new();
    for line in strip(prompt).split('\n') {
        append(&mut read, strip(line));
    }
    escaped(&read)
}

/// Puts a backslash before lines that begin like a negative prompt.
fn escaped(prompt: &str) -> String {
    let escape = |line: &str| if line.starts_with(NEGATIVE) { format!("\\{line}") } else { line.to_owned() };
    prompt.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

/// Appends a line. Leading empty lines are lost, as in WebUI.
fn append(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

/// Trims the characters that Python's `str.strip` trims.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Quotes a value as a JSON string if it contains a character that would end it.
fn quote(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_owned(),
    }
}

/// Parses the fields of a line, if it has enough of them. Of fields with the same name, the last one counts.
fn fields(line: &str) -> Option<IndexMap<String, String>> {
    let mut fields = IndexMap::new();
    let mut count = 0;
    for (name, value) in Fields(line) {
        // Like WebUI, count a field without a value, but drop it.
        count += 1;
        if !value.is_empty() {
            fields.insert(name.to_owned(), unquote(value));
        }
    }
    (count >= LEAST_FIELDS).then_some(fields)
}

/// Iterates over the fields `Name: value` of a line, which commas separate. Skips text that is not a field.
struct Fields<'a>(&'a str);

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (before, separator) = self.0.split_at_checked(self.0.find([',', ':'])?)?;
            let name = separator.strip_prefix(':').and_then(|after| Some((name(before)?, after)));
            let Some((name, after)) = name else {
                (_, self.0) = separator.split_at_checked(1)?;
                continue;
            };
            let (value, rest) = split_value(after.trim_start_matches(is_space));
            self.0 = rest;
            return Some((name, value));
        }
    }
}

/// Returns the name at the end of the text before a colon: at least two letters, digits or underscores, also with spaces,
/// hyphens and slashes after the first.
fn name(text: &str) -> Option<&str> {
    let is_joint = |it: char| matches!(it, ' ' | '-' | '/');
    let (_, end) = text.rsplit_once(|it| !is_word(it) && !is_joint(it)).unwrap_or(("", text));
    let name = end.trim_start_matches(is_joint);
    (name.chars().count() >= 2).then_some(name)
}

/// Splits a value from the fields after it. A quoted value may contain commas, but only a comma or the end may follow it;
/// otherwise its quotes are ordinary characters. The same holds for the JSON values of a model site's extension, which WebUI
/// cuts at their commas.
fn split_value(text: &str) -> (&str, &str) {
    if let Some((value, rest)) = split_quoted(text).or_else(|| split_json(text)) {
        if rest.is_empty() {
            return (value, rest);
        }
        if let Some(rest) = rest.strip_prefix(',') {
            return (value, rest);
        }
    }
    text.split_once(',').unwrap_or((text, ""))
}

/// Splits a text after the double-quoted string at its start. A backslash escapes the next character.
fn split_quoted(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    let ends = |it: char| {
        let ends = it == '"' && !is_escaped;
        is_escaped = it == '\\' && !is_escaped;
        ends
    };
    let length = text.strip_prefix('"')?.find(ends)?;
    text.split_at_checked(length + r#""""#.len())
}

/// Splits a text after the JSON object or array at its start.
fn split_json(text: &str) -> Option<(&str, &str)> {
    text.starts_with(['{', '[']).then_some(())?;
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    text.split_at_checked(values.byte_offset())
}

/// Decodes a value if it is a JSON string, without anything after it.
fn unquote(value: &str) -> String {
    let string = if value.ends_with('"') { serde_json::from_str(value).ok() } else { None };
    string.unwrap_or_else(|| value.to_owned())
}

/// Whether a picture may be this wide or high: a multiple of 8 from 64 to 2048, as in WebUI.
pub(super) fn is_side(pixels: usize) -> bool {
    pixels.is_multiple_of(8) && (64..=2048).contains(&pixels)
}

/// Parses a size such as `512x768`, as in a `Size` field: width and height, multiples of 8 from 64 to 2048. Returns `None`
/// for an unsupported size.
pub fn parse_size(text: &str) -> Option<(usize, usize)> {
    let side = |text: &str| text.trim().parse().ok().filter(|&side| is_side(side));
    let (width, height) = text.split_once('x')?;
    Some((side(width)?, side(height)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_text_of_webui() {
        let text = "a cat, (best:1.2)\nsecond line\nNegative prompt: dog\nbird\nSteps: 20, Sampler: Euler a, CFG scale: 7, \
                    Seed: 965400086, Size: 512x512, Model hash: 45dee52b, Lora hashes: \"a: b, c: d\", Version: v1.6.0";
        let found = Infotext::parse(text);
        assert_eq!((found.prompt.as_str(), found.negative.as_str()), ("a cat, (best:1.2)\nsecond line", "dog\nbird"));
        assert_eq!(found.fields.len(), 8);
        assert_eq!(found.get("Sampler"), Some("Euler a"));
        assert_eq!(found.get("Lora hashes"), Some("a: b, c: d"));
        assert_eq!(Infotext::parse(&found.to_text()), found);
    }

    #[test]
    fn a_text_without_fields_is_a_prompt() {
        let found = Infotext::parse("masterpiece: cat, b: c");
        assert_eq!((found.prompt.as_str(), found.fields.len()), ("masterpiece: cat, b: c", 0));
        assert_eq!(Infotext::parse(""), Infotext::default());
    }

    #[test]
    fn escapes_prompts_that_would_be_misread() {
        for (prompt, negative) in [
            ("a\nNegative prompt: b", "c"),
            ("Negative prompt: b", ""),
            ("a", "b\nNegative prompt: c"),
            ("a\nSteps: 1, Sampler: Euler, Seed: 2", ""),
            ("Steps: 1, Sampler: Euler, Seed: 2", "Seed: 3"),
            ("", "b"),
            ("", ""),
            ("\"a\\", "\"\""),
        ] {
            let (read_prompt, read_negative) = (as_read(prompt), as_read(negative));
            let mut text = Infotext { prompt: prompt.into(), negative: negative.into(), ..Infotext::default() };
            for (name, value) in [("Steps", "1"), ("Model", "x"), ("Size", "8x8")] {
                text.push(name, value);
            }
            let found = Infotext::parse(&text.to_text());
            assert_eq!((found.prompt, found.negative), (read_prompt, read_negative), "{}", text.to_text());
            assert_eq!(found.fields, text.fields);
        }
        assert_eq!(as_read(" a \n\n b,\t\nc\r\n"), "a\n\nb,\nc");
        assert_eq!(as_read("\n \n a\nNegative prompt: b"), "a\n\\Negative prompt: b");
    }

    #[test]
    fn only_earlier_pictures_of_this_program_have_prompts_in_fields() {
        let text = |version: &str| format!("a\nSteps: 1, Prompt: b, Negative prompt: c, Version: {version}");
        let prompts = |version| {
            let found = Infotext::parse(&text(version));
            (found.prompt, found.negative)
        };
        assert_eq!(prompts("trinart-ckpt 0.1.0"), ("b".into(), "c".into()));
        assert_eq!(prompts("v1.10.1"), ("a".into(), String::new()));
    }

    #[test]
    fn splits_fields_as_webui_does() {
        let cases: [(&str, &[(&str, &str)]); 10] = [
            (
                "Steps: 20, A: b, , -Name: c, Empty: , Hires-fix/2: \"d, e\" f, Seed: 5, Seed: 6",
                &[("Steps", "20"), ("Name", "c"), ("Hires-fix/2", "\"d"), ("Seed", "6")],
            ),
            // Without spaces, and with too many.
            ("Steps:20,CFG scale:7,Seed:5", &[("Steps", "20"), ("CFG scale", "7"), ("Seed", "5")]),
            ("  Steps :  20 ,Seed:\t5,, x, Size: 8x8 ", &[("Steps ", "20 "), ("Seed", "5"), ("Size", "8x8")]),
            // Escaped quotes and backslashes in quoted values.
            (
                r#"Model: "a \"b\", Seed: 1", Note: "c\\", Seed: "2""#,
                &[("Model", "a \"b\", Seed: 1"), ("Note", "c\\"), ("Seed", "2")],
            ),
            // Quotes that do not enclose the whole value, are not closed, or are empty.
            (
                r#"AA: b "c, d", BB: "c\", CC: "x, DD: "", EE: 1"#,
                &[("AA", "b \"c"), ("BB", "\"c\\\""), ("CC", "\"x"), ("DD", ""), ("EE", "1")],
            ),
            // A quoted value that is not JSON, or with a space behind it, keeps its quotes.
            (r#"AA: "\x", BB: "1" , CC: 2"#, &[("AA", r#""\x""#), ("BB", r#""1" "#), ("CC", "2")]),
            // Colons in values; a name that is too short before another.
            ("Time: 12:30:15, a: bc: d, x) Two words: e", &[("Time", "12:30:15"), ("bc", "d"), ("Two words", "e")]),
            // JSON values, and texts that only begin like one.
            (
                r#"AA: {"model": "1", "lora:a, b": "2"}, BB: [1, {"c": 2}], CC: 3"#,
                &[("AA", r#"{"model": "1", "lora:a, b": "2"}"#), ("BB", r#"[1, {"c": 2}]"#), ("CC", "3")],
            ),
            ("AA: {red|blue}, BB: [1, 2] x, CC: 3", &[("AA", "{red|blue}"), ("BB", "[1"), ("CC", "3")]),
            // Letters and digits of any script.
            ("ステップ: 20, _1: b, étape/№22: c", &[("ステップ", "20"), ("_1", "b"), ("22", "c")]),
        ];
        for (line, expected) in cases {
            let found = Infotext::parse(&format!("x\n{line}"));
            let found: Vec<(&str, &str)> =
                found.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn a_line_with_two_fields_belongs_to_the_prompt() {
        let found = Infotext::parse("a cat\nSteps: 20, Seed: 5, no field");
        assert_eq!((found.prompt.as_str(), found.fields.len()), ("a cat\nSteps: 20, Seed: 5, no field", 0));
    }

    #[test]
    fn hostile_values_survive_a_round_trip() {
        let mut text = Infotext { prompt: "x".into(), ..Infotext::default() };
        for (name, value) in [("Steps", "1"), ("Model", "a, Seed: 5\n\"quoted\\"), ("Size", "8x8")] {
            text.push(name, value);
        }
        assert_eq!(Infotext::parse(&text.to_text()), text);
    }

    #[test]
    fn parses_sizes() {
        assert_eq!(parse_size("512x768"), Some((512, 768)));
        for wrong in ["", "512", "60x64", "32x64", "64x2056", "64x64x64"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
