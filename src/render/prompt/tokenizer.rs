use std::io::Cursor;

use instant_clip_tokenizer::{Token, Tokenizer as Encoder};

use super::repair::repair;
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
        // Those that stand there are taken out first, so that their `<` makes no HTML of the rest.
        for part in Segments::of(text) {
            match part {
                Segment::Special(token) => tokens.push(token),
                Segment::Text(text) => self.encode_repaired(&repair(text), &mut tokens),
            }
        }
        tokens
    }

    /// Special tokens that came about by the repair, or are in capitals, count as well, but not behind a sign: they would be
    /// part of its word.
    fn encode_repaired(&self, text: &str, tokens: &mut Vec<u32>) {
        for part in Segments::of_words(&text.to_lowercase()) {
            match part {
                Segment::Special(token) => tokens.push(token),
                Segment::Text(text) => self.push(text, tokens),
            }
        }
    }

    fn push(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut found: Vec<Token> = Vec::new();
        // The encoder has special words of its own, which are no words of CLIP's.
        let text = text.replace("_of_text>", "_of_text >");
        self.encoder.encode(&text, &mut found);
        tokens.extend(found.into_iter().map(|token| u32::from(token.to_u16())));
    }
}

/// A text taken apart at the special tokens that are written out in it.
struct Segments<'a> {
    rest: &'a str,
    /// Only where a word may begin.
    in_words: bool,
}

enum Segment<'a> {
    Text(&'a str),
    Special(u32),
}

impl<'a> Segments<'a> {
    fn of(rest: &'a str) -> Self {
        Segments { rest, in_words: false }
    }

    fn of_words(rest: &'a str) -> Self {
        Segments { rest, in_words: true }
    }

    /// Where the next special token is, its length, and its number.
    fn next_special(&self) -> Option<(usize, usize, u32)> {
        let is_sign = |it: char| !it.is_whitespace() && !it.is_alphanumeric();
        let begins = |at: usize| {
            !self.in_words || !self.rest.get(..at).unwrap_or_default().chars().next_back().is_some_and(is_sign)
        };
        let of = |(special, token): (&str, u32)| {
            let at = self.rest.match_indices(special).map(|(at, _)| at).find(|&at| begins(at))?;
            Some((at, special.len(), token))
        };
        [("<|startoftext|>", START), ("<|endoftext|>", END)].into_iter().filter_map(of).min()
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let (text, behind) = match self.next_special() {
            Some((0, len, token)) => {
                self.rest = self.rest.get(len..).unwrap_or_default();
                return Some(Segment::Special(token));
            }
            Some((at, ..)) => self.rest.split_at_checked(at)?,
            None => (self.rest, ""),
        };
        self.rest = behind;
        (!text.is_empty()).then_some(Segment::Text(text))
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
        assert_eq!(tokenizer.encode("cat<|ENDOFTEXT|>Cat＜|startoftext|＞"), [2368, END, 2368, START]);
        assert!(!tokenizer.encode("cat!<|ENDOFTEXT|>").contains(&END));
        assert!(tokenizer.encode("").is_empty());
        assert_ne!(tokenizer.encode("<start_of_text>"), [START]);
    }
}
