//! The `parameters` that WebUI writes into its pictures: written, and read by WebUI's own rules.

use std::fmt::Write;
use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;

/// What a picture was made with. Fields are in WebUI's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Infotext {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; empty if there was none.
    pub negative: String,
    /// `Steps: 20, Sampler: Euler a, …`, by name.
    pub fields: IndexMap<String, String>,
}

/// Fields that a last line must have to be taken for one of fields.
const LEAST_FIELDS: usize = 3;

const NEGATIVE: &str = "Negative prompt:";

/// The prompts as fields, which they become where their lines would be misread. WebUI lets fields of these names win.
const PROMPT_FIELDS: [&str; 2] = ["Prompt", "Negative prompt"];

/// WebUI's own pattern of a field and its value, which is a JSON string or reaches to the next comma.
static FIELD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).ok());

impl Infotext {
    /// Adds a field behind the others.
    pub fn push(&mut self, name: &str, value: impl ToString) {
        self.fields.insert(name.to_owned(), value.to_string());
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// As text. Prompts that WebUI would misread, such as one with a line that looks like a negative prompt, stand among
    /// the fields too.
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

    /// Reads a text by WebUI's rules. What is no line of fields belongs to the prompt.
    pub fn parse(text: &str) -> Self {
        let mut lines: Vec<&str> = strip(text).split('\n').collect();
        let mut found = Infotext::default();
        let last = lines.pop().unwrap_or_default();
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

/// A prompt as it is read from a picture again: the same words, but no white space around its lines.
pub fn as_read(prompt: &str) -> String {
    let mut read = String::new();
    for line in strip(prompt).split('\n') {
        append(&mut read, strip(line));
    }
    read
}

/// Lines before the first one with something in it are lost.
fn append(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

/// Without what Python takes for white space.
fn strip(text: &str) -> &str {
    text.trim_matches(|it: char| it.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&it))
}

/// A value with signs that would end it becomes a JSON string.
fn quote(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_owned(),
    }
}

/// The fields of a line that has enough of them.
fn fields(line: &str) -> Option<IndexMap<String, String>> {
    let found = FIELD.as_ref()?.captures_iter(line).map(|found| found.extract().1);
    let found: Vec<[&str; 2]> = found.collect();
    let unquoted = |value: &str| serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    let value = |value: &str| if value.starts_with('"') { unquoted(value) } else { value.to_owned() };
    // Fields without a value are nothing to WebUI, though they count.
    let named = found.iter().filter(|[_, text]| !text.is_empty());
    (found.len() >= LEAST_FIELDS).then(|| named.map(|[name, text]| ((*name).to_owned(), value(text))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_webui_writes_is_read() {
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
    fn a_prompt_alone_is_a_prompt() {
        let found = Infotext::parse("masterpiece: cat, b: c");
        assert_eq!((found.prompt.as_str(), found.fields.len()), ("masterpiece: cat, b: c", 0));
        assert_eq!(Infotext::parse(""), Infotext::default());
    }

    #[test]
    fn prompts_that_would_be_misread_stand_among_the_fields() {
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
    fn fields_are_those_of_webuis_pattern() {
        let found =
            Infotext::parse("x\nSteps: 20, A: b, , -Name: c, Empty: , Hires-fix/2: \"d, e\" f, Seed: 5, Seed: 6");
        let found: Vec<(&str, &str)> =
            found.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [("Steps", "20"), ("Name", "c"), ("Hires-fix/2", "\"d"), ("Seed", "6")];
        assert_eq!(found, expected);
    }

    #[test]
    fn hostile_values_come_back() {
        let mut text = Infotext { prompt: "x".into(), ..Infotext::default() };
        for (name, value) in [("Steps", "1"), ("Model", "a, Seed: 5\n\"quoted\\"), ("Size", "8x8")] {
            text.push(name, value);
        }
        assert_eq!(Infotext::parse(&text.to_text()), text);
    }
}
