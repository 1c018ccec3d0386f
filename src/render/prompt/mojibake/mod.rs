//! Text that is UTF-8 but was decoded as something else, like `donâ€™t`, is decoded anew, as ftfy does it.

mod badness;
mod bytes;
mod encodings;

use badness::is_bad;
use encodings::{ENCODINGS, clue};

pub(super) use encodings::windows_1252;

/// Times that a text is decoded. Each makes it a good deal shorter, or is the last but one.
const ROUNDS: usize = 100;

/// The text as it was meant, where it looks as if it had been decoded wrongly.
pub(super) fn decode_anew(text: &str) -> String {
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

/// Decodes the runs of characters that look like UTF-8, where the text as a whole is none.
fn decode_parts(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let (mut rest, mut is_behind_continuation) = (text, false);
    while let Some(first) = rest.chars().next() {
        // A run behind another continuation is but the end of something larger, and is better left alone.
        let length = if is_behind_continuation { 0 } else { run(rest) };
        let (part, behind) = rest.split_at(if length == 0 { first.len_utf8() } else { length });
        // A run that is all of the text was tried as a whole.
        if length == 0 || part.len() == text.len() {
            decoded.push_str(part);
        } else {
            decoded.push_str(&decode_anew(part));
        }
        is_behind_continuation = part.chars().last().is_some_and(is_continuation);
        rest = behind;
    }
    decoded
}

/// The length in bytes of what looks like characters in UTF-8 at the beginning of the text.
fn run(text: &str) -> usize {
    let mut length = 0;
    while let Some(more) = text.get(length..).and_then(sequence) {
        length += more;
    }
    length
}

/// The length of what looks like one character in UTF-8.
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

/// Whether a character may be a continuation byte of UTF-8, a space for byte 0xa0 included.
fn may_continue(character: char) -> bool {
    character == ' ' || clue(character).continues
}

/// The same but for punctuation that is often before a letter.
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
    fn texts_are_decoded_anew() {
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
            assert_eq!(decode_anew(found), expected);
        }
    }

    #[test]
    fn good_texts_stay() {
        for text in ["", "plain", "café “façade”", "São Paulo à noite", "привет", "ÀÉÎ", "(ó﹏ò)", "20° ½ €5", "猫 ┌─┐"]
        {
            assert_eq!(decode_anew(text), text);
        }
    }

    #[test]
    fn long_texts_take_no_longer_by_the_character() {
        let text = "猫 cafÃ© donâ€™t Â ".repeat(5_000);
        assert!(decode_anew(&text).starts_with("猫 café don’t"));
    }
}
