//! Python's view of text, which WebUI's rules for prompts and parameters refer to.

use unicode_normalization::char::is_combining_mark;

/// Whether Python counts a character as white space: as Unicode does, and four separators of ASCII.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// Whether a character matches `\w` in Python. Rust's `is_alphanumeric` also includes some vowel signs and circled letters.
pub(crate) fn is_word(character: char) -> bool {
    let is_circled = matches!(character, 'Ⓐ'..='ⓩ' | '\u{1f130}'..='\u{1f189}');
    character == '_' || character.is_alphanumeric() && !is_combining_mark(character) && !is_circled
}
