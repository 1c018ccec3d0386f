//! What is done to a text before it is cut into tokens: the repairs of ftfy, which WebUI's tokenizer begins with.

use std::sync::LazyLock;

use entities::{ENTITIES, Entity};
use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

use super::mojibake::{decode_anew, windows_1252};

/// Times that the repairs are made, which go on until nothing changes. Each takes one `amp;` out of `&amp;amp;amp;`.
const ROUNDS: usize = 100;

static ENTITY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").ok());

/// A colour of a terminal, or another of its orders.
static ESCAPE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").ok());

/// The text repaired, line by line: a line with a `<`, and all behind it, is taken for HTML, whose entities stay.
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
        let decoded = decode_anew(&unescaped);
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

/// The text with each match replaced for which there is something else.
fn replaced(pattern: &LazyLock<Option<Regex>>, text: &str, by: impl Fn(&str) -> Option<String>) -> String {
    let Some(pattern) = pattern.as_ref() else { return text.to_owned() };
    let replacement = |found: &Captures| {
        let found = found.get(0).map_or("", |it| it.as_str());
        by(found).unwrap_or_else(|| found.to_owned())
    };
    pattern.replace_all(text, replacement).into_owned()
}

/// Adds a character, or what stands for it: control characters as Windows-1252 has them, ligatures, widths, quotes.
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

/// What an entity of HTML stands for: `&eacute;`, `&#233;`, `&#xe9;`, and `&EACUTE;`, which is none but clear enough.
fn unescape(entity: &str) -> Option<String> {
    if let Some(number) = entity.strip_prefix("&#").and_then(|rest| rest.strip_suffix(';')) {
        return numbered(number);
    }
    let named = |name: &str| ENTITIES.iter().find(|it| it.entity == name).map(|it| it.characters);
    if let Some(found) = named(entity) {
        return Some(found.to_owned());
    }
    // Where a capital entity needs no semicolon, a longer name means that one: &GTCC; is >CC;
    let begins = |it: &Entity| !it.entity.ends_with(';') && entity.starts_with(it.entity);
    let is_capital = entity == entity.to_ascii_uppercase() && !ENTITIES.iter().any(begins);
    let found = is_capital.then(|| named(&entity.to_ascii_lowercase())).flatten();
    found.map(str::to_uppercase)
}

/// The character of a number, as HTML has it: Windows-1252 for control characters, nothing for what is no character.
fn numbered(number: &str) -> Option<String> {
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    if digits.is_empty() || !digits.chars().all(|it| it.is_digit(radix)) {
        return None;
    }
    let replacement = char::REPLACEMENT_CHARACTER;
    // What does not fit into the number is beyond all characters too.
    let code = u32::from_str_radix(digits, radix).ok().filter(|code| *code != 0);
    let character = code.and_then(char::from_u32).unwrap_or(replacement);
    let is_none = matches!(character, '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{fdd0}'..='\u{fdef}')
        || u32::from(character) & 0xfffe == 0xfffe;
    Some(if is_none { String::new() } else { windows_1252(character).unwrap_or(character).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_repaired() {
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
    fn entities_are_those_of_html() {
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
