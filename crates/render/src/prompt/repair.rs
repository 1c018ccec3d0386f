//! Repairs a text before tokenization with the rules of ftfy, as WebUI's tokenizer does.

use std::sync::LazyLock;

use entities::{ENTITIES, Entity};
use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

use super::mojibake::{self, windows_1252};

/// Maximum number of repair rounds. Repairs stop when nothing changes. Each round removes one `amp;` from
/// `&amp;amp;amp;`.
const ROUNDS: usize = 100;

/// An HTML entity.
#[expect(clippy::expect_used, reason = "a constant pattern")]
static ENTITY: LazyLock<Regex> = LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").expect("a valid pattern"));

/// An escape sequence of a terminal, such as a color.
#[expect(clippy::expect_used, reason = "a constant pattern")]
static ESCAPE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("a valid pattern"));

/// Repairs a text line by line. Starting at the first line with a `<`, the text is treated as HTML and keeps its
/// entities.
pub(super) fn repair(text: &str) -> String {
    let mut is_html = false;
    let lines = text.split_inclusive('\n').map(|line| {
        is_html |= line.contains('<');
        repair_line(line, is_html)
    });
    lines.collect()
}

fn repair_line(line: &str, is_html: bool) -> String {
    let mut text = line.to_owned();
    for _ in 0..ROUNDS {
        let unescaped = if is_html { text.clone() } else { replaced(&ENTITY, &text, unescape) };
        let decoded = mojibake::fix(&unescaped);
        let repaired: String = decoded.chars().fold(String::with_capacity(text.len()), repair_character);
        let repaired = repaired.replace("\r\n", "\n").replace(['\r', '\u{85}', '\u{2028}', '\u{2029}'], "\n");
        let repaired = replaced(&ESCAPE, &repaired, |_| Some(String::new()));
        let repaired: String = repaired.chars().filter(|&it| !is_control(it)).nfc().collect();
        if repaired == text {
            break;
        }
        text = repaired;
    }
    text
}

/// Replaces each match for which `by` returns a replacement.
fn replaced(pattern: &Regex, text: &str, by: impl Fn(&str) -> Option<String>) -> String {
    let replacement = |found: &Captures| {
        let found = found.get_match().as_str();
        by(found).unwrap_or_else(|| found.to_owned())
    };
    pattern.replace_all(text, replacement).into_owned()
}

/// Appends a character or its replacement: for control characters those of Windows-1252, for ligatures and full-width
/// characters their plain forms, and straight quotes.
fn repair_character(mut text: String, character: char) -> String {
    let character = windows_1252(character).unwrap_or(character);
    match character {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => text.push('\''),
        '\u{201c}'..='\u{201f}' => text.push('"'),
        '\u{3000}' => text.push(' '),
        '\u{ff01}'..='\u{ffef}' => text.extend(std::iter::once(character).nfkc()),
        'ŉ' => text.push_str("'n"),
        'Ĳ' | 'ĳ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | '\u{fb00}'..='\u{fb04}' | '\u{fb06}' => {
            text.extend(std::iter::once(character).nfkc());
        }
        '\u{fb05}' => text.push_str("ſt"),
        other => text.push(other),
    }
    text
}

fn is_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

/// Decodes an HTML entity: `&eacute;`, `&#233;`, `&#xe9;`, and also `&EACUTE;`, which HTML does not define.
fn unescape(entity: &str) -> Option<String> {
    if let Some(number) = entity.strip_prefix("&#").and_then(|rest| rest.strip_suffix(';')) {
        return decode_number(number);
    }
    let named = |name: &str| ENTITIES.iter().find(|it| it.entity == name).map(|it| it.characters);
    if let Some(found) = named(entity) {
        return Some(found.to_owned());
    }
    // Some upper-case entities need no semicolon and may start a longer name: &GTCC; is >CC;
    let begins = |it: &Entity| !it.entity.ends_with(';') && entity.starts_with(it.entity);
    let is_capital = entity == entity.to_ascii_uppercase() && !ENTITIES.iter().any(begins);
    let found = is_capital.then(|| named(&entity.to_ascii_lowercase())).flatten();
    found.map(str::to_uppercase)
}

/// Decodes a numeric entity by the rules of HTML: control characters are those of Windows-1252, noncharacters vanish.
fn decode_number(number: &str) -> Option<String> {
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    if digits.is_empty() || !digits.chars().all(|it| it.is_digit(radix)) {
        return None;
    }
    let replacement = char::REPLACEMENT_CHARACTER;
    // A number that overflows u32 exceeds the last character too.
    let code = u32::from_str_radix(digits, radix).ok().filter(|code| *code != 0);
    let character = code.and_then(char::from_u32).unwrap_or(replacement);
    let is_noncharacter = matches!(character, '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{fdd0}'..='\u{fdef}')
        || u32::from(character) & 0xfffe == 0xfffe;
    Some(if is_noncharacter { String::new() } else { windows_1252(character).unwrap_or(character).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_texts() {
        for (found, expected) in [
            ("“it’s”", "\"it's\""),
            ("ｆｕｌｌ　ｗｉｄｔｈ，", "full width,"),
            ("cafe\u{301}", "café"),
            ("ﬁre &amp; ice &#233; &#x41;", "fire & ice é A"),
            ("zero\u{feff}\u{7}", "zero"),
            ("\u{1b}[31mred \u{1b}[x", "red "),
            ("\u{1b}[31", "[31"),
            ("a < b &amp;", "a < b &amp;"),
            ("&amp;\n<b>&amp;\n&amp;", "&\n<b>&amp;\n&amp;"),
            ("1\u{85}2\u{99}3\u{2028}4\r5", "1…2™3\n4\n5"),
        ] {
            assert_eq!(repair(found), expected);
        }
    }

    #[test]
    fn decodes_html_entities() {
        for (found, expected) in [
            ("&hearts;&rarr;&Ouml;&NotEqualTilde;", "♥→Ö≂̸"),
            ("&amp;amp;lt;", "<"),
            ("&EACUTE;&SZLIG;&GTCC;&nTILDE;&foo;", "ÉSS&GTCC;&nTILDE;&foo;"),
            ("&#128;&#150;&#0;&#xD800;&#99999999999;", "€–\u{fffd}\u{fffd}\u{fffd}"),
            ("&#1;&#xFDD0;&#x1FFFF;|", "|"),
            ("&#x;&#;&#12a;&amp", "&#x;&#;&#12a;&amp"),
        ] {
            assert_eq!(repair(found), expected);
        }
    }
}
