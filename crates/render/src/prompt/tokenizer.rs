use std::io::Cursor;
use std::ops::Range;

use instant_clip_tokenizer::{Token, Tokenizer as Encoder};

use super::embeddings::Embeddings;
use super::repair::repair;
use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_models::vocabulary;

/// The start token.
pub(super) const START: u32 = 49_406;
/// The end token, which also pads.
pub(crate) const END: u32 = 49_407;
/// The token of a comma at the end of a word.
pub(super) const COMMA: u32 = 267;

/// The size of the vocabulary.
pub(crate) const TOKENS: u16 = 49_408;

/// A combining letter that CLIP's pattern matches nowhere: Python's `regex` ignores case, and its other case is a letter.
const IOTA_SUBSCRIPT: char = '\u{345}';

/// CLIP's tokenizer as in WebUI: the tokenizer of transformers, applied to text that ftfy has repaired.
pub struct Tokenizer {
    encoder: Encoder,
    /// The tokens of the names of embeddings, and the tokens of their vectors. Longer names come first.
    embeddings: Vec<(Vec<u32>, Range<u32>)>,
}

impl Tokenizer {
    /// Builds the tokenizer from the embedded vocabulary, in about 50 milliseconds.
    pub fn new() -> Result<Self> {
        let encoder = Encoder::with_vocabulary(Cursor::new(vocabulary::merges()), TOKENS);
        let encoder = encoder.or_internal("the embedded vocabulary is unreadable")?;
        Ok(Tokenizer { encoder, embeddings: Vec::new() })
    }

    /// Lets the names of embeddings stand for their vectors.
    #[must_use]
    pub fn with_embeddings(mut self, embeddings: &Embeddings) -> Self {
        let mut next = u32::from(TOKENS);
        for (name, count, _) in embeddings.iter() {
            let end = next + count as u32;
            self.embeddings.push((self.encode(name), next..end));
            next = end;
        }
        self.embeddings.retain(|(name, _)| !name.is_empty());
        self.embeddings.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        self
    }

    /// Returns the tokens of the vectors of the embedding whose name begins `tokens`, and the tokens after the name.
    pub(super) fn embedding_at<'a>(&self, tokens: &'a [u32]) -> Option<(Range<u32>, &'a [u32])> {
        self.embeddings
            .iter()
            .find_map(|(name, vectors)| Some((vectors.clone(), tokens.strip_prefix(name.as_slice())?)))
    }

    /// Encodes a text, without start and end tokens. The text may contain the two special tokens by name.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        // Split off special tokens first, because the repairs would treat their `<` as HTML.
        for segment in Segments::of(text) {
            match segment {
                Segment::Special(token) => tokens.push(token),
                Segment::Text(text) => self.encode_repaired(&repair(text), &mut tokens),
            }
        }
        tokens
    }

    /// Also recognizes special tokens that result from the repairs or from lower-casing, except after a punctuation
    /// mark, which would join them to its word.
    fn encode_repaired(&self, text: &str, tokens: &mut Vec<u32>) {
        let text = text.to_lowercase().replace(IOTA_SUBSCRIPT, " ");
        for segment in Segments::at_words(&text) {
            match segment {
                Segment::Special(token) => tokens.push(token),
                Segment::Text(text) => self.push(text, tokens),
            }
        }
    }

    fn push(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut found: Vec<Token> = Vec::new();
        // CLIP treats the encoder's special tokens as plain text.
        let text = text.replace("_of_text>", "_of_text >");
        self.encoder.encode(&text, &mut found);
        tokens.extend(found.into_iter().map(|token| u32::from(token.to_u16())));
    }
}

/// Splits a text at the special tokens in it.
struct Segments<'a> {
    rest: &'a str,
    /// Whether special tokens are recognized only at the start of a word.
    at_words: bool,
}

enum Segment<'a> {
    Text(&'a str),
    Special(u32),
}

impl<'a> Segments<'a> {
    fn of(rest: &'a str) -> Self {
        Segments { rest, at_words: false }
    }

    fn at_words(rest: &'a str) -> Self {
        Segments { rest, at_words: true }
    }

    /// Finds the next special token: its position, its length and its token.
    fn next_special(&self) -> Option<(usize, usize, u32)> {
        let is_punctuation = |it: char| !it.is_whitespace() && !it.is_alphanumeric();
        let starts_word = |at: usize| {
            let before = self.rest.get(..at).and_then(|before| before.chars().next_back());
            !self.at_words || !before.is_some_and(is_punctuation)
        };
        let of = |(special, token): (&str, u32)| {
            let at = self.rest.match_indices(special).map(|(at, _)| at).find(|&at| starts_word(at))?;
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
                (_, self.rest) = self.rest.split_at_checked(len)?;
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
    fn tokens_match_clip() {
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
