//! The `parameters` that WebUI writes into its pictures: written, and read by WebUI's own rules.

use std::fmt::Write;

use indexmap::IndexMap;

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

impl Infotext {
    /// Adds a field behind the others.
    pub fn push(&mut self, name: &str, value: impl ToString) {
        self.fields.insert(name.to_owned(), value.to_string());
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// As text.
    pub fn to_text(&self) -> String {
        let mut text = self.prompt.clone();
        if !self.negative.is_empty() {
            let _ = write!(text, "\n{NEGATIVE} {}", self.negative);
        }
        let fields: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name}: {}", quote(value))).collect();
        let _ = write!(text, "\n{}", fields.join(", "));
        text
    }

    /// Reads a text. What is no line of fields belongs to the prompt.
    pub fn parse(text: &str) -> Self {
        let mut lines: Vec<&str> = text.trim().lines().collect();
        let mut found = Infotext::default();
        let last = lines.pop().unwrap_or_default();
        let fields = fields(last);
        if fields.len() >= LEAST_FIELDS {
            found.fields = fields;
        } else {
            lines.push(last);
        }
        let (mut prompt, mut negative): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        let mut is_negative = false;
        for line in lines.into_iter().map(str::trim) {
            match line.strip_prefix(NEGATIVE) {
                Some(rest) => {
                    is_negative = true;
                    negative.push(rest.trim());
                }
                None if is_negative => negative.push(line),
                None => prompt.push(line),
            }
        }
        found.prompt = prompt.join("\n");
        found.negative = negative.join("\n");
        found
    }
}

/// A value with signs that would end it becomes a JSON string.
fn quote(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_owned(),
    }
}

/// `Name: value` again and again, by WebUI's pattern: a name of word characters, spaces, `-` and `/`; a value that is a
/// JSON string or reaches to the next comma.
fn fields(line: &str) -> IndexMap<String, String> {
    let mut found = IndexMap::new();
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once(':') {
        let is_of_name = |it: char| it.is_alphanumeric() || "_ -/".contains(it);
        let begin = before.char_indices().rev().take_while(|(_, it)| is_of_name(*it)).last().map(|(at, _)| at);
        let name = begin.and_then(|begin| before.get(begin..)).unwrap_or_default().trim();
        let value = behind.trim_start();
        let len = match value.starts_with('"') {
            true => string_len(value).unwrap_or(0),
            false => 0,
        };
        let len = if len > 0 { len } else { value.find(',').unwrap_or(value.len()) };
        let (value, behind) = value.split_at_checked(len).unwrap_or((value, ""));
        if !name.is_empty() {
            let unquoted = serde_json::from_str::<String>(value).ok().filter(|_| value.starts_with('"'));
            found.insert(name.to_owned(), unquoted.unwrap_or_else(|| value.trim().to_owned()));
        }
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    found
}

/// Bytes of the JSON string at the beginning, quotes included.
fn string_len(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
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
    fn hostile_values_come_back() {
        let mut text = Infotext { prompt: "x".into(), ..Infotext::default() };
        for (name, value) in [("Steps", "1"), ("Model", "a, Seed: 5\n\"quoted\\"), ("Size", "8x8")] {
            text.push(name, value);
        }
        assert_eq!(Infotext::parse(&text.to_text()), text);
    }
}
