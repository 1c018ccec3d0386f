//! Repairs mojibake (UTF-8 that was decoded as another encoding, such as `donâ€™t`) with the rules of ftfy.

mod badness;
mod bytes;
mod encodings;

use badness::is_bad;
use encodings::{ENCODINGS, clue};

pub(super) use encodings::windows_1252;

/// Maximum number of decoding rounds. Every round except the last two makes the text much shorter.
const ROUNDS: usize = 100;

/// Decodes a text again if it looks like mojibake.
pub(super) fn fix(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        match decode_once(&text) {
            Some(decoded) if decoded != text => text = decoded,
            _ => break,
        }
    }
    text
}

fn decode_once(text: &str) -> Option<String> {
    if !is_bad(text) {
        return None;
    }
    let whole = ENCODINGS.iter().find_map(|encoding| {
        let found = encoding.encode(text)?;
        let found = if encoding.has_spaces { bytes::restore_spaces(&found) } else { found };
        let found = if encoding.has_lost { bytes::mark_lost(&found) } else { found };
        bytes::decode(&found)
    });
    whole.or_else(|| Some(decode_parts(text)).filter(|it| it != text)).or_else(|| Some(decode_controls(text)))
}

/// Decodes the runs of characters that look like UTF-8, for a text that is not UTF-8 as a whole.
fn decode_parts(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let (mut rest, mut is_behind_continuation) = (text, false);
    while let Some(first) = rest.chars().next() {
        // A run after a continuation byte may be the end of a longer sequence, so keep it.
        let length = if is_behind_continuation { 0 } else { run(rest) };
        let (part, behind) = rest.split_at(if length == 0 { first.len_utf8() } else { length });
        // A run that spans the text was already tried as a whole.
        if length == 0 || part.len() == text.len() {
            decoded.push_str(part);
        } else {
            decoded.push_str(&fix(part));
        }
        is_behind_continuation = part.chars().last().is_some_and(is_continuation);
        rest = behind;
    }
    decoded
}

/// Returns the length in bytes of the leading run that looks like UTF-8.
fn run(text: &str) -> usize {
    let mut length = 0;
    while let Some(more) = text.get(length..).and_then(sequence) {
        length += more;
    }
    length
}

/// Returns the length in bytes of a leading sequence that looks like one UTF-8 character.
fn sequence(text: &str) -> Option<usize> {
    let first = clue(text.chars().next()?);
    let continuations = text.chars().skip(1).take(3).take_while(|&it| may_continue(it)).count();
    let count = match continuations {
        1.. if first.leads_two => 2,
        2.. if first.leads_three => 3,
        3.. if first.leads_four => 4,
        _ => return None,
    };
    Some(text.chars().take(count).map(char::len_utf8).sum())
}

/// Whether a character may be a continuation byte of UTF-8. A space may be byte 0xa0.
fn may_continue(character: char) -> bool {
    character == ' ' || clue(character).continues
}

/// Whether a character is a continuation byte of UTF-8, except for punctuation that often precedes letters.
fn is_continuation(character: char) -> bool {
    let is_punctuation = matches!(character, '–' | '—' | '―' | '‘' | '’' | '‚' | '“' | '”' | '„' | '•' | '…');
    !is_punctuation && clue(character).continues
}

fn decode_controls(text: &str) -> String {
    text.chars().map(|it| windows_1252(it).unwrap_or(it)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixes_mojibake() {
        for (found, expected) in [
            ("donâ€™t", "don’t"),
            ("cafÃ©, naÃ¯ve", "café, naïve"),
            ("dÃƒÂ©jÃƒÂ  vu", "déjà vu"),
            ("voilÃ  le travail", "voilà le travail"),
            ("РєСЂР°СЃРЅС‹Р№", "красный"),
            ("‚Äúquoted‚Äù", "“quoted”"),
            ("ðŸ˜\u{8d} ðŸŽ‰", "😍 🎉"),
            ("â€œquotedâ€\u{fffd}", "“quoted\u{fffd}"),
            ("猫 and cafÃ©", "猫 and café"),
            ("\u{93}quoted\u{94}", "“quoted”"),
        ] {
            assert_eq!(fix(found), expected);
        }
    }

    #[test]
    fn keeps_good_texts() {
        for text in ["", "plain", "café “façade”", "São Paulo à noite", "привет", "ÀÉÎ", "(ó﹏ò)", "20° ½ €5", "猫 ┌─┐"]
        {
            assert_eq!(fix(text), text);
        }
    }

    #[test]
    fn time_is_linear_in_the_length() {
        let text = "猫 cafÃ© donâ€™t Â ".repeat(5_000);
        assert!(fix(&text).starts_with("猫 café don’t"));
    }
}
