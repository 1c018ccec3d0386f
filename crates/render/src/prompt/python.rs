//! Python's view of text, which WebUI's rules for prompts and parameters refer to.

/// Whether Python counts a character as white space: as Unicode does, and four separators of ASCII.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}
