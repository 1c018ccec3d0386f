//! Text from files, made safe to print to a terminal.

/// Makes text from a file safe to print on one line of a terminal: escapes control characters (escape sequences, line
/// breaks, direction overrides) as `\u{…}`, and cuts the text after 300 characters.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if is_unsafe_to_print(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Makes JSON safe to print to a terminal: escapes, within its strings, the characters that [`printable`] escapes.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unsafe_to_print(character) && character != '\n' {
            // All of them are in the Basic Multilingual Plane, so one escape is enough.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

fn is_unsafe_to_print(character: char) -> bool {
    // Control characters, and the characters that reorder or hide text and so make one name look like another.
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_parses_to_the_same_text() {
        let text = "a\u{9b}31m\u{202e}\u{7f}é\n";
        let json = format!("{{\n  \"a\": {}\n}}\n", serde_json::Value::from(text));
        let shown = printable_json(&json);
        assert!(!shown.chars().any(|character| is_unsafe_to_print(character) && character != '\n'), "{shown:?}");
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read["a"], text);
    }

    #[test]
    fn escapes_control_characters_and_direction_overrides() {
        let line = printable("found \x1b]0;owned\x07\nsecond line, a\u{202e}b");
        assert!(!line.chars().any(is_unsafe_to_print), "{line:?}");
    }
}
