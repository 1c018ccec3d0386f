//! Networks that a prompt loads: `<lora:name:0.8>`.

use std::sync::LazyLock;

use regex::Regex;

/// A network that a prompt loads: `<kind:argument:argument>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mention {
    /// The kind, such as `lora`.
    pub kind: String,
    /// The arguments, which colons separate. There is at least one; the first one is the name.
    pub arguments: Vec<String>,
}

/// WebUI's pattern.
static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"<(\w+):([^>]+)>").ok());

/// Splits a prompt into its text and the networks that it loads, as WebUI does.
pub fn split_networks(prompt: &str) -> (String, Vec<Mention>) {
    let Some(pattern) = PATTERN.as_ref().filter(|_| prompt.contains('<')) else {
        return (prompt.to_owned(), Vec::new());
    };
    let mention = |found: regex::Captures<'_>| {
        let group = |index| found.get(index).map_or("", |group| group.as_str());
        Mention { kind: group(1).to_owned(), arguments: group(2).split(':').map(str::to_owned).collect() }
    };
    let mentions = pattern.captures_iter(prompt).map(mention).collect();
    (pattern.replace_all(prompt, "").into_owned(), mentions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_networks_from_the_text() {
        let (text, mentions) = split_networks("a <lora:b c:0.5:te=1> d<hypernet:e>");
        assert_eq!(text, "a  d");
        let found: Vec<(&str, Vec<&str>)> =
            mentions.iter().map(|it| (it.kind.as_str(), it.arguments.iter().map(String::as_str).collect())).collect();
        assert_eq!(found, [("lora", vec!["b c", "0.5", "te=1"]), ("hypernet", vec!["e"])]);
        for prompt in ["a < b: c > d", "<3 :>", "<a>", "<:x>", "<lora:", "<lora:>", ""] {
            assert_eq!(split_networks(prompt), (prompt.to_owned(), Vec::new()));
        }
    }
}
