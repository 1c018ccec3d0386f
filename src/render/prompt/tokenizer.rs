use std::io::Cursor;

use instant_clip_tokenizer::{Token, Tokenizer as Encoder};
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result};
use crate::model::vocabulary;

/// What stands before a text.
pub(super) const START: u32 = 49_406;
/// What stands behind it, and fills it up.
pub(super) const END: u32 = 49_407;
/// A comma that ends a word.
pub(super) const COMMA: u32 = 267;

/// Tokens of the vocabulary.
const TOKENS: u16 = 49_408;

/// CLIP's tokenizer, as WebUI runs it: that of transformers, with ftfy's repairs of the text before it.
pub struct Tokenizer {
    encoder: Encoder,
}

impl Tokenizer {
    /// Makes it of the embedded vocabulary. Costs some 50 milliseconds.
    pub fn new() -> Result<Self> {
        let encoder = Encoder::with_vocabulary(Cursor::new(vocabulary::merges()), TOKENS);
        let encoder = encoder.map_err(|error| Error::io("cannot read the embedded vocabulary", error))?;
        Ok(Tokenizer { encoder })
    }

    /// The tokens of a text, without those before and behind it. The two special tokens may be written out.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let text = repair(text);
        let mut rest = text.as_str();
        while let Some((at, special, token)) = next_special(rest) {
            self.push(rest.get(..at).unwrap_or_default(), &mut tokens);
            tokens.push(token);
            rest = rest.get(at + special.len()..).unwrap_or_default();
        }
        self.push(rest, &mut tokens);
        tokens
    }

    fn push(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut found: Vec<Token> = Vec::new();
        // The encoder has special words of its own, which are no words of CLIP's.
        let text = text.replace("_of_text>", "_of_text >");
        self.encoder.encode(&text, &mut found);
        tokens.extend(found.into_iter().map(|token| u32::from(token.to_u16())));
    }
}

/// The next special token that is written out: where, its spelling, its number.
fn next_special(text: &str) -> Option<(usize, &'static str, u32)> {
    let found = [("<|startoftext|>", START), ("<|endoftext|>", END)];
    let found = found.into_iter().filter_map(|(special, token)| Some((text.find(special)?, special, token)));
    found.min_by_key(|(at, ..)| *at)
}

/// What ftfy does to a text that was not garbled by a wrong decoding: entities, ligatures, widths, quotes, control
/// characters, and the composed form (NFC).
///
/// Line by line, as ftfy does it: a line with a `<`, and all behind it, is taken for HTML, whose entities stay.
fn repair(text: &str) -> String {
    let mut is_html = false;
    let lines = text.split_inclusive('\n').map(|line| {
        is_html |= line.contains('<');
        if is_html { repair_line(line) } else { repair_line(&unescape(line)) }
    });
    lines.collect()
}

fn repair_line(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' if characters.peek() == Some(&'[') => {
                // A colour of a terminal, up to its letter.
                for next in characters.by_ref() {
                    if next.is_ascii_alphabetic() {
                        break;
                    }
                }
            }
            '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => {}
            '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => repaired.push('\''),
            '\u{201c}'..='\u{201f}' => repaired.push('"'),
            '\u{3000}' => repaired.push(' '),
            '\u{ff01}'..='\u{ffef}' => repaired.extend(std::iter::once(character).nfkc()),
            'ŉ' => repaired.push_str("'n"),
            'Ĳ' | 'ĳ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | '\u{fb00}'..='\u{fb04}' | '\u{fb06}' => {
                repaired.extend(std::iter::once(character).nfkc());
            }
            '\u{fb05}' => repaired.push_str("ſt"),
            other => repaired.push(other),
        }
    }
    repaired.nfc().collect()
}

/// Entities of HTML that people paste: numbers, and the names of ASCII's own.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, entity) = rest.split_at(at);
        out.push_str(before);
        let named = entity.find(';').and_then(|end| Some((entity.get(1..end)?, entity.get(end + 1..)?)));
        match named.and_then(|(name, behind)| Some((character(name)?, behind))) {
            Some((character, behind)) => {
                out.push(character);
                rest = behind;
            }
            None => {
                out.push('&');
                rest = entity.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" | "AMP" => Some('&'),
        "lt" | "LT" => Some('<'),
        "gt" | "GT" => Some('>'),
        "quot" | "QUOT" => Some('"'),
        "nbsp" => Some('\u{a0}'),
        "copy" => Some('©'),
        "reg" => Some('®'),
        "hellip" => Some('…'),
        "eacute" => Some('é'),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_clip() {
        let tokenizer = Tokenizer::new().unwrap();
        assert_eq!(tokenizer.encode("a photo of a cat"), [320, 1125, 539, 320, 2368]);
        assert_eq!(tokenizer.encode(","), [COMMA]);
        assert_eq!(tokenizer.encode("cat<|endoftext|>Cat"), [2368, END, 2368]);
        assert!(tokenizer.encode("").is_empty());
        assert_ne!(tokenizer.encode("<start_of_text>"), [START]);
    }

    #[test]
    fn texts_are_repaired_before() {
        for (found, expected) in [
            ("“it’s”", "\"it's\""),
            ("ｆｕｌｌ　ｗｉｄｔｈ，", "full width,"),
            ("cafe\u{301}", "café"),
            ("ﬁre &amp; ice &#233; &#x41;", "fire & ice é A"),
            ("zero\u{feff}\u{7}", "zero"),
            ("\u{1b}[31mred", "red"),
            ("a < b &amp;", "a < b &amp;"),
        ] {
            assert_eq!(repair(found), expected);
        }
    }
}
