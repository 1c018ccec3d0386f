//! Compares edited prompts with WebUI's own parser. `fixtures/render/make_prompts.py` generates the references.

use crate::tiny::fixture;
use trinart_ckpt_render::prompt::{Timeline, texts_over_time};

/// Readings that differ from WebUI's: seven prompts with unmatched brackets, which WebUI takes as plain text.
const MOST_DIFFERENT: usize = 14;

/// Whether square and round brackets come in pairs, apart from those behind a backslash.
fn has_paired_brackets(prompt: &str) -> bool {
    let mut open = Vec::new();
    let mut signs = prompt.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => {
                signs.next();
            }
            '[' | '(' => open.push(sign),
            ']' if open.pop() != Some('[') => return false,
            ')' if open.pop() != Some('(') => return false,
            _ => {}
        }
    }
    open.is_empty()
}

/// The last step with each text, and the text.
type Texts = Vec<(usize, String)>;

#[test]
fn edited_prompts_have_the_texts_of_webui() {
    let text = std::fs::read_to_string(fixture("prompts.json")).unwrap();
    let expected: Vec<(String, Texts, Texts)> = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for (prompt, new, old) in &expected {
        for (timeline, expected) in [(Timeline::new(10), new), (Timeline::new(10).old(true), old)] {
            let found = texts_over_time(prompt, timeline).unwrap();
            let found: Texts = found.entries().map(|(until, text)| (until, text.clone())).collect();
            if found != *expected {
                wrong.push((prompt, found, expected));
            }
        }
    }
    assert!(expected.len() > 1000 && expected.iter().filter(|(_, new, _)| new.len() > 1).count() > 100);
    assert!(
        wrong.len() <= MOST_DIFFERENT,
        "{} of {}: {:?}",
        wrong.len(),
        expected.len(),
        &wrong[..wrong.len().min(10)]
    );
    let unexpected: Vec<_> = wrong.iter().filter(|(prompt, ..)| has_paired_brackets(prompt)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}
