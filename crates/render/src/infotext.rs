//! The `parameters` text of WebUI's pictures: writing, and reading by WebUI's rules.

use std::fmt::Write;
use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;

/// The parameters of a picture, with the fields in WebUI's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Infotext {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; may be empty.
    pub negative: String,
    /// The fields by name: `Steps: 20, Sampler: Euler a, …`.
    pub fields: IndexMap<String, String>,
}

/// The least number of fields in a last line that counts as fields.
const LEAST_FIELDS: usize = 3;

const NEGATIVE: &str = "Negative prompt:";

/// Fields for prompts whose lines would be misread. In WebUI, fields of these names override the prompt lines.
const PROMPT_FIELDS: [&str; 2] = ["Prompt", "Negative prompt"];

/// WebUI's pattern of a field. The value is a JSON string, or extends to the next comma.
#[expect(clippy::expect_used, reason = "a constant pattern")]
static FIELD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).expect("a valid pattern"));

impl Infotext {
    /// Adds a field after the others.
    pub fn push(&mut self, name: &str, value: impl ToString) {
        self.fields.insert(name.to_owned(), value.to_string());
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Formats the text. Prompts that WebUI would misread, such as one with a line that looks like a negative prompt, are
    /// repeated as fields.
    pub fn to_text(&self) -> String {
        let mut fields: Vec<String> =
            self.fields.iter().map(|(name, value)| format!("{name}: {}", quote(value))).collect();
        let text = self.with_fields(&fields);
        let read = Self::parse(&text);
        if (&read.prompt, &read.negative) == (&self.prompt, &self.negative) {
            return text;
        }
        let prompts = [&self.prompt, &self.negative].map(|prompt| serde_json::Value::from(prompt.as_str()));
        fields.extend(PROMPT_FIELDS.iter().zip(prompts).map(|(name, prompt)| format!("{name}: {prompt}")));
        self.with_fields(&fields)
    }

    fn with_fields(&self, fields: &[String]) -> String {
        let mut text = self.prompt.clone();
        if !self.negative.is_empty() {
            let _ = write!(text, "\n{NEGATIVE} {}", self.negative);
        }
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
        let [of_prompt, of_negative] = PROMPT_FIELDS.map(|name| found.fields.shift_remove(name));
        found.prompt = of_prompt.unwrap_or(prompt);
        found.negative = of_negative.unwrap_or(negative);
        found
    }
}

/// Returns a prompt as WebUI would read it back from a picture: without white space around its lines.
pub fn as_read(prompt: &str) -> String {
    let mut read = String::new();
    for line in strip(prompt).split('\n') {
        append(&mut read, strip(line));
    }
    read
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
    text.trim_matches(|it: char| it.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&it))
}

/// Quotes a value as a JSON string if it contains a character that would end it.
fn quote(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_owned(),
    }
}

/// Parses the fields of a line, if it has enough of them.
fn fields(line: &str) -> Option<IndexMap<String, String>> {
    let found = FIELD.captures_iter(line).map(|found| found.extract().1);
    let found: Vec<[&str; 2]> = found.collect();
    let unquoted = |value: &str| serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    let value = |value: &str| if value.starts_with('"') { unquoted(value) } else { value.to_owned() };
    // WebUI counts fields without a value, but drops them.
    let named = found.iter().filter(|[_, text]| !text.is_empty());
    (found.len() >= LEAST_FIELDS).then(|| named.map(|[name, text]| ((*name).to_owned(), value(text))).collect())
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
    fn repeats_prompts_that_would_be_misread_as_fields() {
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
            let mut text = Infotext { prompt: prompt.into(), negative: negative.into(), ..Infotext::default() };
            for (name, value) in [("Steps", "1"), ("Model", "x"), ("Size", "8x8")] {
                text.push(name, value);
            }
            assert_eq!(Infotext::parse(&text.to_text()), text, "{}", text.to_text());
            assert_eq!(text.to_text().contains("Prompt: \""), prompt.contains(NEGATIVE) || negative.contains(NEGATIVE));
        }
        assert_eq!(as_read(" a \n\n b,\t\nc\r\n"), "a\n\nb,\nc");
        assert_eq!(as_read("\n \n a"), "a");
    }

    #[test]
    fn splits_fields_by_the_pattern_of_webui() {
        let found =
            Infotext::parse("x\nSteps: 20, A: b, , -Name: c, Empty: , Hires-fix/2: \"d, e\" f, Seed: 5, Seed: 6");
        let found: Vec<(&str, &str)> =
            found.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [("Steps", "20"), ("Name", "c"), ("Hires-fix/2", "\"d"), ("Seed", "6")];
        assert_eq!(found, expected);
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
